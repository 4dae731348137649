"""Leaves under a mask of their owner."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import Masked, is_compressed
from jaxcompress.transform import owned
from jaxcompress.weights import checked_weight


def masked(path: str, leaf: Any, owner: str) -> Any:
    """Wraps a leaf in a full mask unless it carries one of this owner already."""
    if owned(leaf, owner):
        return leaf
    leaf = checked_weight(path, leaf, "pruned")
    return Masked(leaf, jnp.ones(leaf.shape, bool), owner)


def plainly_masked(path: str, leaf: Any, owner: str) -> Any:
    """Wraps an array as `masked` does; raises ValueError, with the path, for another's compressed leaf."""
    if is_compressed(leaf) and not owned(leaf, owner):
        kind = type(leaf).__name__
        raise ValueError(f"{path} is already {kind}; {owner} moves the weights themselves and comes before it")
    return masked(path, leaf, owner)


def zeroed(leaf: Masked) -> Masked:
    """Sets the weights out of use to zero, as `with_zeros` does."""
    return replace(leaf, weight=with_zeros(leaf.weight, leaf.mask, leaf.owner))


def with_zeros(weight: Any, keep: Array, owner: str) -> Any:
    """Sets a weight to zero but where `keep` is true, in the array that training moves.

    Other transforms may have wrapped that array. Raises ValueError, naming `owner`, if they left no array of its shape,
    as factors do.
    """
    if not is_compressed(weight):
        return jnp.where(keep, weight, jnp.zeros_like(weight))
    inner = getattr(weight, "weight", None)
    if inner is None or inner.shape != keep.shape:
        kind = type(weight).__name__
        raise ValueError(f"{owner} sets weights to zero, and cannot in the {kind} that was made of them since")
    return replace(weight, weight=with_zeros(inner, keep, owner))
