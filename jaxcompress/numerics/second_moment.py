"""The second moment of a layer's inputs, half the Hessian of the squared error of its outputs."""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float


def second_moment(rows: Float[Array, "groups number inputs"]) -> Float[Array, "groups inputs inputs"]:
    """Sums ``outer(row, row)`` over the rows of each group."""
    return jnp.einsum("gni,gnj->gij", rows, rows, precision=lax.Precision.HIGHEST)


def damped(moment: Float[Array, "inputs inputs"], damping: Array | float) -> Float[Array, "inputs inputs"]:
    """Returns a moment at a common factor, with `damping` times its mean diagonal entry added to the diagonal.

    Inputs that were always zero count in no mean, and have the mean itself on the diagonal.
    """
    diagonal = jnp.diag(moment)
    # To a peak in [0.5, 1) by a power of two: a quotient would turn into a product, whose factor may underflow.
    _, exponent = jnp.frexp(jnp.max(diagonal))
    moment = jnp.ldexp(moment, -exponent)
    dead = diagonal == 0
    mean = jnp.sum(jnp.diag(moment)) / jnp.maximum(jnp.sum(~dead, dtype=moment.dtype), 1.0)
    mean = jnp.where(mean > 0, mean, 1.0)
    return moment + jnp.diag(jnp.where(dead, mean, damping * mean))


def inverse_factor(moment: Float[Array, "inputs inputs"], damping: Array | float) -> Float[Array, "inputs inputs"]:
    """Returns the upper U, up to a common factor, with ``U.T @ U`` the inverse of the damped moment.

    With the order of the axes reversed a lower Cholesky factor becomes an upper R with ``R @ R.T`` the moment, and U is
    the inverse of R. Not finite if the moment is not positive semi-definite.
    """
    factor = jnp.linalg.cholesky(damped(moment, damping)[::-1, ::-1])[::-1, ::-1]
    return jax.scipy.linalg.solve_triangular(factor, jnp.eye(len(factor), dtype=factor.dtype), lower=False)
