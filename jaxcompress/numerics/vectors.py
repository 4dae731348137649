"""Lengths of vectors, and vectors of length one, with gradients where the length is zero too."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def length(x: Float[Array, "*axes"], *, axis: int = -1) -> Float[Array, "*rest"]:
    """Returns the Euclidean lengths along an axis, which it keeps as one of length 1; that of zeros has gradient 0."""
    squares = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def unit(x: Float[Array, "*axes"], *, axis: int = -1, least: float = 1e-12) -> Float[Array, "*axes"]:
    """Divides vectors along an axis by their lengths, or by `least` if that is more."""
    return x / jnp.maximum(length(x, axis=axis), least)
