"""Means of a normal variable after an activation, in closed form."""

import jax.numpy as jnp
from jax import Array
from jax.scipy.stats import norm
from jaxtyping import Float


def rectified_mean(mean: Float[Array, "..."], deviation: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the mean of ``max(x, 0)`` for a normal x; a deviation of 0 is a constant.

    Nagel et al. 2019 (arXiv:1906.04721), eq. 19: ``deviation * pdf(mean / deviation) + mean * cdf(mean / deviation)``.
    """
    spread = deviation >= jnp.finfo(jnp.float32).tiny  # processors may divide by denormals as by zero
    ratio = mean / jnp.where(spread, deviation, 1.0)
    return jnp.where(spread, deviation * norm.pdf(ratio) + mean * norm.cdf(ratio), jnp.maximum(mean, 0.0))


def clipped_mean(
    mean: Float[Array, "..."], deviation: Float[Array, "..."], low: float, high: float
) -> Float[Array, "..."]:
    """Returns the mean of a normal x clipped to [low, high] (Nagel et al. 2019, arXiv:1906.04721, appendix C).

    Written ``low + E max(x - low, 0) - E max(x - high, 0)``, which is their sum of four terms in two of one kind.
    """
    return low + rectified_mean(mean - low, deviation) - rectified_mean(mean - high, deviation)
