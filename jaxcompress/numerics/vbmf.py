"""Analytic variational Bayesian matrix factorization: the rank of a matrix under noise."""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from scipy.optimize import minimize_scalar

from jaxcompress.numerics.precision import largest, widened

_GOLDEN = 2.5129  # times sqrt(alpha), nearly the root that the threshold of the empirical solution stands on


def vbmf_rank(matrix: Float[Array, "m n"], variance: float | None = None) -> int:
    """Returns the rank that empirical variational Bayes gives a matrix, from 0 to the full rank.

    A component stays when its singular value is above ``sqrt(M v (1 + t) (1 + alpha / t))`` with L <= M the sides,
    ``alpha = L / M`` and ``t = 2.5129 sqrt(alpha)``; the `variance` v of the noise, unless given, is where the free
    energy is least (Nakajima, Sugiyama, Babacan & Tomioka 2013, JMLR 14, theorem 2 and corollary 3; Nakajima, Tomioka,
    Sugiyama & Babacan 2015, JMLR 16, theorem 13). Raises ValueError for a variance that is not above 0.
    """
    if variance is not None and not variance > 0:
        raise ValueError(f"variance={variance} of the noise must be above 0")
    shape = min(matrix.shape), max(matrix.shape)
    full = widened(matrix)
    scale = float(largest(full))  # of which the search knows no other, and sums do not overflow
    s = np.asarray(jnp.linalg.svd(full / scale, compute_uv=False), np.float64)
    if not s[0] > 0:
        return 0
    noise = _variance(s, shape) if variance is None else variance / scale**2
    return int(np.sum(s > math.sqrt(noise * shape[1] * _threshold(shape))))


def _threshold(shape: tuple[int, int]) -> float:
    """Returns the squared singular value, over ``M * variance``, above which a component stays."""
    alpha = shape[0] / shape[1]
    tau = _GOLDEN * math.sqrt(alpha)
    return (1 + tau) * (1 + alpha / tau)


def _variance(s: np.ndarray, shape: tuple[int, int]) -> float:
    """Returns the variance of the noise at which the free energy of the singular values is least."""
    least, most = shape
    alpha, over = least / most, _threshold(shape)
    first = math.ceil(least / (1 + alpha)) - 1  # of the components that cannot stay, and so bound the variance
    upper = float(np.mean(s**2)) / most
    lower = max(float(s[first] ** 2) / over, float(np.mean(s[first:] ** 2))) / most
    if lower >= upper or lower == 0:  # all singular values alike, or a matrix of low rank without noise
        return min(lower, upper)
    found = minimize_scalar(lambda v: _free_energy(s, shape, v), bounds=(lower, upper), method="bounded")
    return float(found.x)


def _free_energy(s: np.ndarray, shape: tuple[int, int], variance: float) -> float:
    """Returns the free energy of the noise variance, up to a constant."""
    alpha, over = shape[0] / shape[1], _threshold(shape)
    x = s**2 / (shape[1] * variance)
    stays = x > over
    z = x[stays]
    tau = (z - (1 + alpha) + np.sqrt(np.square(z - (1 + alpha)) - 4 * alpha)) / 2
    noise = np.sum(x[~stays] - np.log(np.maximum(x[~stays], np.finfo(float).tiny)))
    signal = np.sum(z - tau) + np.sum(np.log((tau + 1) / z)) + alpha * np.sum(np.log(tau / alpha + 1))
    return float(noise + signal)
