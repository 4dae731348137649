"""Checks the Tucker decomposition against numpy's singular vectors."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.numerics.tucker import tucker, unfolding

TENSOR = np.random.default_rng(0).standard_normal((3, 3, 8, 10))


def whole(core, factors):
    return np.einsum("hwab,ia,ob->hwio", np.asarray(core, np.float64), *(np.asarray(f, np.float64) for f in factors))


def error(found):
    return float(np.sum((whole(*found) - TENSOR) ** 2))


def test_an_unfolding_has_the_entries_of_its_axis_as_rows():
    np.testing.assert_array_equal(unfolding(jnp.asarray(TENSOR), 2)[5], jnp.asarray(TENSOR)[:, :, 5].reshape(-1))


def test_without_sweeps_factors_are_the_leading_singular_vectors_of_the_unfoldings():
    _, factors = tucker(jnp.asarray(TENSOR, jnp.float32), (2, 3), (3, 4), sweeps=0)
    for axis, factor in zip((2, 3), factors, strict=True):
        u = np.linalg.svd(np.moveaxis(TENSOR, axis, 0).reshape(TENSOR.shape[axis], -1))[0][:, : factor.shape[1]]
        np.testing.assert_allclose(np.asarray(factor) @ np.asarray(factor).T, u @ u.T, atol=1e-4)


@pytest.mark.parametrize("ranks", [(1, 1), (3, 4), (8, 10)])
def test_sweeps_never_raise_the_error_and_factors_are_orthonormal(ranks):
    errors = []
    for sweeps in (0, 1, 2, 5):
        core, factors = tucker(jnp.asarray(TENSOR, jnp.float32), (2, 3), ranks, sweeps=sweeps)
        errors.append(error((core, factors)))
        for factor in factors:
            np.testing.assert_allclose(factor.T @ factor, np.eye(factor.shape[1]), atol=1e-5)
    assert all(after <= before + 1e-3 for before, after in zip(errors, errors[1:], strict=False))
    # What orthogonal projections leave over is the difference of the squared norms.
    assert errors[-1] == pytest.approx(np.sum(TENSOR**2) - float(jnp.sum(core**2)), abs=1e-3)


def test_a_tensor_of_the_ranks_comes_back():
    rng = np.random.default_rng(1)
    low = whole(rng.standard_normal((3, 3, 2, 3)), (rng.standard_normal((8, 2)), rng.standard_normal((10, 3))))
    np.testing.assert_allclose(whole(*tucker(jnp.asarray(low, jnp.float32), (2, 3), (2, 3))), low, atol=1e-4)
