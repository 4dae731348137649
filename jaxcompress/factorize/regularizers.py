"""Penalties that keep weights near low rank, and factors near orthogonal, while they train."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import LowRank, dense
from jaxcompress.factorize import layouts
from jaxcompress.numerics.precision import widened
from jaxcompress.paths import Params, select


@jax.custom_vjp
def _nuclear(matrix: Array) -> Array:
    return jnp.sum(jnp.linalg.svd(widened(matrix), compute_uv=False))


def _forward(matrix: Array) -> tuple[Array, Array]:
    u, s, vt = jnp.linalg.svd(widened(matrix), full_matrices=False)
    held = s > s[0] * max(matrix.shape) * jnp.finfo(s.dtype).eps  # of the rest any direction will do: none is taken
    return jnp.sum(s), (jnp.where(held[None, :], u, 0.0) @ vt).astype(matrix.dtype)


_nuclear.defvjp(_forward, lambda slope, upstream: (slope * upstream.astype(slope.dtype),))


def nuclear_norm(params: Params, pattern: str, *, axes: layouts.Layout = None) -> Array:
    """Returns the sum of the singular values of the matched kernels, of all layers, as the matrices of `svd`.

    The tightest convex bound of the rank (Fazel 2002). Its gradient is ``u @ vt``, taken from the decomposition itself,
    which is finite at equal singular values where the derivative of an SVD is not.
    """
    total = jnp.float32(0)
    for path, leaf in select(params, pattern).items():
        weight = dense(leaf)
        layers = layouts.axes_of(axes, path, weight.shape, layouts.squarest).layers(weight)
        total = total + sum(_nuclear(layouts.matrix_of(layer)) for layer in layers)
    return total


def orthogonality(params: Params, pattern: str) -> Array:
    """Returns ``|u.T u - I|^2 + |v v.T - I|^2`` over the square of the rank, summed over the matched `LowRank` leaves.

    Factors with orthonormal columns keep a singular value apart for every component, so that small ones can be cut
    while training (Yang et al. 2020, arXiv:2004.09031, eq. 4). The columns are divided by their norms first, since
    those of `svd` share the singular values. Raises ValueError for a matched leaf without two factors.
    """
    total = jnp.float32(0)
    for path, leaf in select(params, pattern).items():
        if not isinstance(leaf, LowRank):
            raise ValueError(f"{path} is {type(leaf).__name__}, not LowRank: it has no two factors")
        rank = leaf.u.shape[-1]
        for columns in (dense(leaf.u).reshape(-1, rank), dense(leaf.v).reshape(rank, -1).T):
            unit = columns / jnp.maximum(jnp.linalg.norm(columns, axis=0, keepdims=True), 1e-12)
            total = total + jnp.sum(jnp.square(unit.T @ unit - jnp.eye(rank))) / rank**2
    return total
