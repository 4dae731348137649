"""Matrix factors: truncated singular value decomposition and the rank that an energy asks for."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxcompress.numerics.precision import largest, widened


def truncated_svd(matrix: Float[Array, "m n"], rank: int) -> tuple[Float[Array, "m rank"], Float[Array, "rank n"]]:
    """Factors `matrix` into ``u @ v``, the nearest matrix of that rank (Eckart & Young 1936).

    The singular values are shared evenly (square root on each side), so that both factors train at the same scale.
    The squared error equals the tail energy, the sum of the squared singular values left out.
    """
    u, s, vt = jnp.linalg.svd(widened(matrix), full_matrices=False)
    u, v = _shared(u, s, vt, rank)
    return u.astype(matrix.dtype), v.astype(matrix.dtype)


def randomized_svd(
    matrix: Float[Array, "m n"], rank: int, key: Array, *, oversampling: int = 10, iterations: int = 4
) -> tuple[Float[Array, "m rank"], Float[Array, "rank n"]]:
    """Factors `matrix` as `truncated_svd` does, but nearly: within a random sketch of ``rank + oversampling`` columns.

    Halko, Martinsson & Tropp 2011 (arXiv:0909.4061): a basis of the range by `iterations` of subspace iteration (alg.
    4.4), and the decomposition of what is in it (alg. 5.1). The flatter the spectrum, the more of them it takes.
    """
    full = widened(matrix)
    columns = min(rank + oversampling, *matrix.shape)
    basis, _ = jnp.linalg.qr(full @ jax.random.normal(key, (matrix.shape[1], columns), full.dtype))
    for _ in range(iterations):
        rows, _ = jnp.linalg.qr(full.T @ basis)
        basis, _ = jnp.linalg.qr(full @ rows)
    u, s, vt = jnp.linalg.svd(basis.T @ full, full_matrices=False)
    u, v = _shared(basis @ u, s, vt, rank)
    return u.astype(matrix.dtype), v.astype(matrix.dtype)


def energy_rank(matrix: Float[Array, "m n"], energy: float) -> int:
    """Returns the smallest rank whose squared singular values sum to at least `energy` in (0, 1] of the total."""
    s = jnp.linalg.svd(widened(matrix), compute_uv=False)
    numerical = int(jnp.sum(s > s[0] * max(matrix.shape) * jnp.finfo(s.dtype).eps))  # the rest is rounding
    squared = jnp.square(s / largest(s))
    short = int(jnp.sum(jnp.cumsum(squared) < energy * jnp.sum(squared)))  # ranks that hold too little
    return max(1, numerical if energy == 1 else min(short + 1, numerical))


def _shared(u: Array, s: Array, vt: Array, rank: int) -> tuple[Array, Array]:
    root = jnp.sqrt(s[:rank])
    return u[:, :rank] * root[None, :], root[:, None] * vt[:rank]
