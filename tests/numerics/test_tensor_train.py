"""Checks TT-SVD: exact at full ranks, within its bound below."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.numerics.tensor_train import tensor_train

TENSOR = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)


def whole(cores):
    return np.einsum("aib,bjc,ckd->ijk", *(np.asarray(core, np.float64) for core in cores))


def test_full_ranks_give_the_tensor_back():
    cores = tensor_train(jnp.asarray(TENSOR), lambda matrix, _: min(matrix.shape))
    assert [core.shape for core in cores] == [(1, 4, 4), (4, 5, 6), (6, 6, 1)]
    np.testing.assert_allclose(whole(cores), TENSOR, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_error_is_within_the_sum_of_the_tails(rank):
    tails, places = [], []

    def chosen(matrix, place):
        places.append(place)
        tails.append(float(np.sum(np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)[rank:] ** 2)))
        return rank

    cores = tensor_train(jnp.asarray(TENSOR), chosen)
    assert places == [0, 1] and [core.shape[-1] for core in cores] == [rank, rank, 1]
    # The projections are orthogonal, one within the other, so that the bound is met here.
    assert np.sum((whole(cores) - TENSOR) ** 2) == pytest.approx(sum(tails), rel=1e-4)


def test_a_matrix_is_its_truncated_decomposition():
    cores = tensor_train(jnp.asarray(TENSOR[0]), lambda *_: 2)
    u, s, vt = np.linalg.svd(TENSOR[0])
    np.testing.assert_allclose(cores[0][0] @ cores[1][..., 0], (u[:, :2] * s[:2]) @ vt[:2], atol=1e-4)
