"""Truncated singular value decomposition that weighs the error by what a matrix multiplies."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxcompress.numerics.factors import truncated_svd
from jaxcompress.numerics.precision import widened


def weighted_svd(
    matrix: Float[Array, "m n"], rank: int, metric: Array
) -> tuple[Float[Array, "m rank"], Float[Array, "rank n"]]:
    """Factors `matrix` into the ``u @ v`` of that rank with the least ``norm(root.T @ (matrix - u @ v))``.

    `metric` (m, m) is ``root @ root.T``, positive definite, or (m,) its diagonal. If it is the second moment of the
    rows x that the matrix multiplies, the error is that of the products ``x @ matrix``.
    """
    full = widened(matrix)
    metric = metric.astype(full.dtype)
    if metric.ndim == 1:
        root = jnp.sqrt(metric)
        u, v = truncated_svd(root[:, None] * full, rank)
        return (u / root[:, None]).astype(matrix.dtype), v.astype(matrix.dtype)
    root = jnp.linalg.cholesky(metric)
    u, v = truncated_svd(root.T @ full, rank)
    u = jax.scipy.linalg.solve_triangular(root, u, lower=True, trans="T")
    return u.astype(matrix.dtype), v.astype(matrix.dtype)
