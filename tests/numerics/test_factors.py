"""Checks matrix factors: the error is the tail energy, and the rank is the smallest that holds the energy asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.utils.extmath
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.numerics.factors import energy_rank, randomized_svd, truncated_svd

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.sampled_from([(4, 7), (6, 3), (1, 4)])
truncate = jax.jit(truncated_svd, static_argnums=1)
randomize = jax.jit(randomized_svd, static_argnums=1)


def gaussian(seed: int, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_truncation_by_hand():
    u, v = truncated_svd(jnp.diag(jnp.array([1.0, 3.0, 2.0])), 2)
    np.testing.assert_allclose(u @ v, np.diag([0, 3, 2]), atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(SEEDS, SHAPES)
def test_the_squared_error_is_the_tail_energy(seed, shape):
    matrix = gaussian(seed, shape)
    s = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    for rank in range(1, min(shape) + 1):
        u, v = truncate(jnp.asarray(matrix), rank)
        assert u.shape == (shape[0], rank) and v.shape == (rank, shape[1])
        error = np.square(matrix - np.asarray(u, np.float64) @ np.asarray(v, np.float64)).sum()
        np.testing.assert_allclose(error, np.square(s[rank:]).sum(), rtol=1e-3, atol=1e-9)


def test_the_factors_share_the_singular_values_evenly():
    matrix = gaussian(0, (7, 4))
    u, v = truncated_svd(jnp.asarray(matrix), 3)
    s = np.linalg.svd(matrix, compute_uv=False)[:3]
    np.testing.assert_allclose(u.T @ u, np.diag(s), atol=1e-4)
    np.testing.assert_allclose(v @ v.T, np.diag(s), atol=1e-4)


def test_a_matrix_of_low_rank_is_reproduced():
    matrix = gaussian(1, (8, 2)) @ gaussian(2, (2, 6))
    u, v = truncated_svd(jnp.asarray(matrix), 2)
    np.testing.assert_allclose(u @ v, matrix, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.sampled_from([(40, 25), (25, 40)]))
def test_the_randomized_factors_miss_hardly_more_than_the_tail(seed, shape):
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((size, 25)))[0] for size in shape)
    s = 0.8 ** np.arange(25)
    matrix = jnp.asarray((left * s) @ right.T, jnp.float32)
    u, v = randomize(matrix, 5, jax.random.key(seed))
    missed = np.square(matrix - np.asarray(u, np.float64) @ np.asarray(v, np.float64)).sum()
    assert np.square(s[5:]).sum() * (1 - 1e-4) <= missed <= np.square(s[5:]).sum() * 1.001
    np.testing.assert_allclose(u.T @ u, v @ v.T, atol=1e-5)  # evenly shared


def test_a_sketch_of_all_columns_is_the_truncation_and_scikit_learn_agrees():
    matrix = gaussian(3, (30, 12))
    u, v = randomized_svd(jnp.asarray(matrix), 4, jax.random.key(0))
    np.testing.assert_allclose(u @ v, np.matmul(*truncated_svd(jnp.asarray(matrix), 4)), atol=1e-4)
    left, s, right = sklearn.utils.extmath.randomized_svd(matrix, 4, random_state=0)
    np.testing.assert_allclose(u @ v, left * s @ right, atol=1e-3)


def test_a_randomized_decomposition_is_that_of_its_key():
    matrix = jnp.asarray(gaussian(4, (40, 30)))
    one, again, other = (randomize(matrix, 3, jax.random.key(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert float(jnp.max(jnp.abs(one - other))) > 1e-6


@pytest.mark.parametrize(
    ("energy", "rank"),
    [(0.01, 1), (0.64, 1), (0.65, 2), (0.92, 2), (0.93, 3), (1.0, 3)],
)
def test_energy_rank_by_hand(energy, rank):
    # The squares 9, 4, 1 of the singular values hold 9/14 = 0.643, 13/14 = 0.929 and all of the energy.
    assert energy_rank(jnp.diag(jnp.array([1.0, 3.0, 2.0])), energy) == rank


def test_all_the_energy_of_a_low_rank_matrix_needs_no_more_than_its_rank():
    assert energy_rank(jnp.asarray(gaussian(1, (8, 2)) @ gaussian(2, (2, 6))), 1.0) == 2


def test_zeros_have_rank_one():
    assert energy_rank(jnp.zeros((3, 4)), 0.9) == 1


@settings(deadline=None, max_examples=40)
@given(SEEDS, SHAPES, st.floats(0.05, 1.0))
def test_energy_rank_is_the_smallest_that_suffices(seed, shape, energy):
    matrix = gaussian(seed, shape)
    squared = np.square(np.linalg.svd(matrix.astype(np.float64), compute_uv=False))
    held = np.concatenate([[0.0], np.cumsum(squared) / squared.sum()])
    rank = energy_rank(jnp.asarray(matrix), energy)
    assert held[rank] >= energy - 3e-6  # float32 sums, and the allowance of 1e-6 for them
    assert held[rank - 1] < energy + 3e-6


def test_all_the_energy_of_a_large_matrix_does_not_fall_to_rank_one():
    # A flat spectrum whose float sum of all may miss the total by more than the allowance.
    assert energy_rank(jnp.diag(jnp.full(512, 0.1)), 1.0) > 500
