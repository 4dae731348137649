"""Lengths of vectors, vectors of length one and deviations from a mean, with gradients where the length is zero too."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def length(x: Float[Array, "*axes"], *, axis: int = -1) -> Float[Array, "*rest"]:
    """Returns the Euclidean lengths along an axis, which it keeps as one of length 1; that of zeros has gradient 0."""
    squares = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def unit(x: Float[Array, "*axes"], *, axis: int = -1, least: float = 1e-12) -> Float[Array, "*axes"]:
    """Divides vectors along an axis by their lengths; what is no longer than `least` has no direction.

    It becomes zeros, with gradient 0: dividing by `least` would give gradients of 1e12, which one step of descent does
    not survive, and half precision cannot hold.
    """
    lengths = length(x, axis=axis)
    directed = lengths > least
    return jnp.where(directed, x / jnp.where(directed, lengths, 1), 0)


def deviations(x: Float[Array, "*axes"], *, where: Array | None = None) -> Float[Array, "*axes"]:
    """Returns vectors along the last axis less their means; exact zeros, with gradient 0, for those of equal entries.

    A mean is rounded, so that equal entries would keep a remainder whose direction is noise. `where` says which entries
    count, all by default; the others become zeros.
    """
    counts = jnp.broadcast_to(True if where is None else where, x.shape)
    first = jnp.argmax(counts, axis=-1, keepdims=True)
    counts = counts.astype(x.dtype)
    centred = (x - jnp.take_along_axis(x, first, axis=-1)) * counts  # so that equal entries cancel
    number = jnp.maximum(jnp.sum(counts, axis=-1, keepdims=True), 1)
    centred = (centred - jnp.sum(centred, axis=-1, keepdims=True) / number) * counts
    varied = length(centred) > 4 * jnp.finfo(x.dtype).eps * length(x * counts)
    return jnp.where(varied, centred, 0)
