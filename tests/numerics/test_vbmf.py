"""Checks the rank of variational Bayes: on matrices of known rank, and against a reading of the paper by scanning."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.numerics.vbmf import vbmf_rank


def noisy(rows: int, columns: int, rank: int, noise: float, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed).standard_normal
    return draw((rows, rank)) @ draw((rank, columns)) + noise * draw((rows, columns))


def scanned_rank(matrix: np.ndarray, points: int = 4000) -> int:
    """Returns the rank at the least free energy over a grid of variances, computed component by component."""
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    small, large = matrix.shape
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    alpha = small / large
    tau_bar = 2.5129 * math.sqrt(alpha)
    x_bar = (1 + tau_bar) * (1 + alpha / tau_bar)

    def energy(variance: float) -> float:
        total = 0.0
        for value in values:
            x = value**2 / (large * variance)
            if x <= x_bar:
                total += x - math.log(x)
            else:
                shifted = x - (1 + alpha)
                tau = (shifted + math.sqrt(shifted**2 - 4 * alpha)) / 2
                total += x - tau + math.log((tau + 1) / x) + alpha * math.log(tau / alpha + 1)
        return total

    first = math.ceil(small / (1 + alpha)) - 1
    high = float(np.sum(values**2)) / (small * large)
    low = max(values[first] ** 2 / (large * x_bar), float(np.mean(values[first:] ** 2)) / large)
    best = min(np.geomspace(low, high, points), key=energy)
    return int(np.sum(values > math.sqrt(large * best * x_bar)))


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (50, 50), (30, 200)])
@pytest.mark.parametrize("rank", [1, 4, 9])
def test_the_rank_behind_noise_is_found(shape, rank):
    assert vbmf_rank(jnp.asarray(noisy(*shape, rank, 0.3), jnp.float32)) == rank


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise", [0.5, 1.5, 4.0])
def test_the_rank_is_that_of_an_independent_scan(seed, noise):
    matrix = noisy(24 + 7 * seed, 40, 6, noise, seed)
    assert vbmf_rank(jnp.asarray(matrix, jnp.float32)) == scanned_rank(matrix)


def test_noise_alone_and_zeros_have_rank_zero():
    assert vbmf_rank(jnp.asarray(noisy(40, 60, 0, 1.0), jnp.float32)) == 0
    assert vbmf_rank(jnp.zeros((5, 8))) == 0


def test_a_known_variance_sets_the_threshold():
    matrix = jnp.diag(jnp.float32([10.0, 5.0, 1.0, 0.1]))
    # sqrt(4 v (1 + 2.5129) (1 + 1 / 2.5129)) = 4.43 sqrt(v)
    assert [vbmf_rank(matrix, variance) for variance in (1.0, 0.04, 0.0001, 100.0)] == [2, 3, 4, 0]


@pytest.mark.parametrize("variance", [0.0, -1.0])
def test_a_variance_that_is_none_is_named(variance):
    with pytest.raises(ValueError, match=f"variance={variance} of the noise must be above 0"):
        vbmf_rank(jnp.eye(3), variance)
