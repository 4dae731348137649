"""Leaves under a mask of their owner."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

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
    """Sets the weights out of use to zero, in the array that training moves.

    Transforms may have wrapped that array since. Raises ValueError if they left no array of its shape, as factors do.
    """
    return replace(leaf, weight=_zeroed(leaf.weight, leaf))


def _zeroed(weight: Any, masked: Masked) -> Any:
    if not is_compressed(weight):
        return jnp.where(masked.mask, weight, jnp.zeros_like(weight))
    inner = getattr(weight, "weight", None)
    if inner is None or inner.shape != masked.mask.shape:
        kind = type(weight).__name__
        raise ValueError(f"{masked.owner} sets weights out of use to zero; in {kind}, made of them since, it cannot")
    return replace(weight, weight=_zeroed(inner, masked))
