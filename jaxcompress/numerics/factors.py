"""Matrix factors: truncated singular value decomposition and the rank that an energy asks for."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def truncated_svd(matrix: Float[Array, "m n"], rank: int) -> tuple[Float[Array, "m rank"], Float[Array, "rank n"]]:
    """Factors `matrix` into ``u @ v``, the nearest matrix of that rank (Eckart & Young 1936).

    The singular values are shared evenly (square root on each side), so that both factors train at the same scale.
    The squared error equals the tail energy, the sum of the squared singular values left out.
    """
    u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
    root = jnp.sqrt(s[:rank])
    return u[:, :rank] * root, root[:, None] * vt[:rank]


def energy_rank(matrix: Float[Array, "m n"], energy: float) -> int:
    """Returns the smallest rank whose squared singular values sum to at least `energy` in (0, 1] of the total."""
    squared = jnp.square(jnp.linalg.svd(matrix, compute_uv=False))
    total = jnp.sum(squared)
    enough = jnp.cumsum(squared) >= energy * total * (1 - 1e-6)  # the float sum of all may fall short of the total
    return int(jnp.argmax(enough)) + 1
