"""Leaves under a mask of their owner."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from jaxcompress.arrays import Masked, dense, is_compressed
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
    """Sets the weights out of use to zero."""
    weight = dense(leaf.weight)
    return replace(leaf, weight=jnp.where(leaf.mask, weight, jnp.zeros_like(weight)))
