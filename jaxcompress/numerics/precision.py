"""The precision that decompositions are computed in."""

import jax.numpy as jnp
from jax import Array


def widened(array: Array) -> Array:
    """Returns an array of half precision as float32, which LAPACK needs; float32 and float64 stay what they are."""
    return array if array.dtype == jnp.float64 else array.astype(jnp.float32)


def largest(array: Array) -> Array:
    """Returns the largest magnitude of an array, or 1 of zeros: what it is divided by so that squares stay finite."""
    peak = jnp.max(jnp.abs(array))
    return jnp.where(peak > 0, peak, jnp.ones_like(peak))
