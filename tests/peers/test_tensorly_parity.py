"""Holds factorization to tensorly, on its numpy backend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorly
from tensorly.decomposition import parafac, partial_tucker, tensor_train, tensor_train_matrix, tucker
from tensorly.tenalg import multi_mode_dot
from tensorly.tenalg.svd import truncated_svd
from tensorly.tt_matrix import tt_matrix_to_tensor

from jaxcompress import factorize
from jaxcompress.arrays import dense
from jaxcompress.factorize import svd
from jaxcompress.numerics.cp import composed
from jaxcompress.numerics.cp import cp as cp_als
from jaxcompress.numerics.tensor_train import tensor_train as tt_svd


def gaussian(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_the_peer_is_not_jax_itself():
    assert tensorly.get_backend() == "numpy"


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (3, 3, 4, 10)])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_factorized_kernel_is_tensorlys_truncated_svd(shape, rank):
    kernel = gaussian(*shape)
    u, s, vt = truncated_svd(kernel.astype(np.float64).reshape(-1, shape[-1]), n_eigenvecs=rank)
    expected = ((u * s) @ vt).reshape(shape)
    np.testing.assert_allclose(
        dense(svd("w", rank=rank, always=True).init({"w": jnp.asarray(kernel)})["w"]), expected, atol=1e-5
    )


@pytest.mark.parametrize("rank", [1, 4, 10])
def test_a_factorized_convolution_is_the_tucker_decomposition_of_its_output_axis(rank):
    kernel = gaussian(3, 3, 4, 10)
    (core, factors), _ = partial_tucker(kernel.astype(np.float64), rank=[rank], modes=[3])
    expected = multi_mode_dot(core, factors, modes=[3])
    np.testing.assert_allclose(
        dense(svd("w", rank=rank, always=True).init({"w": jnp.asarray(kernel)})["w"]), expected, atol=1e-5
    )


def relative_error(found, tensor) -> float:
    return float(np.linalg.norm(np.asarray(found, np.float64) - tensor) / np.linalg.norm(tensor))


@pytest.mark.parametrize("ranks", [(2, 3), (5, 8), (6, 9)])
def test_tucker_2_leaves_the_error_of_tensorlys(ranks):
    kernel = gaussian(3, 3, 6, 10)
    (core, factors), _ = partial_tucker(kernel.astype(np.float64), rank=list(ranks), modes=[2, 3], n_iter_max=50)
    expected = multi_mode_dot(core, factors, modes=[2, 3])
    leaf = factorize.tucker2("w", ranks, sweeps=50, always=True).init({"w": jnp.asarray(kernel)})["w"]
    assert relative_error(dense(leaf), kernel) == pytest.approx(relative_error(expected, kernel), abs=2e-3)


def test_a_kernel_of_low_rank_is_found_by_both():
    draw = np.random.default_rng(1).standard_normal
    kernel = np.einsum("hwab,ia,ob->hwio", draw((3, 3, 2, 4)), draw((6, 2)), draw((10, 4))).astype(np.float32)
    leaf = factorize.tucker2("w", (2, 4)).init({"w": jnp.asarray(kernel)})["w"]
    (core, factors), _ = partial_tucker(kernel.astype(np.float64), rank=[2, 4], modes=[2, 3])
    np.testing.assert_allclose(dense(leaf), multi_mode_dot(core, factors, modes=[2, 3]), atol=2e-4)


def test_full_tucker_leaves_the_error_of_tensorlys():
    kernel = gaussian(3, 3, 6, 10)
    expected = tensorly.tucker_to_tensor(tucker(kernel.astype(np.float64), rank=[2, 2, 3, 4], n_iter_max=50))
    leaf = factorize.tucker("w", (2, 2, 3, 4), sweeps=50).init({"w": jnp.asarray(kernel)})["w"]
    assert relative_error(dense(leaf), kernel) == pytest.approx(relative_error(expected, kernel), abs=2e-3)


@pytest.mark.parametrize("rank", [2, 4])
def test_a_sum_of_products_is_found_by_both(rank):
    draw = np.random.default_rng(rank).standard_normal
    factors = [draw((size, rank)) for size in (3, 3, 6, 10)]
    kernel = np.asarray(tensorly.cp_to_tensor((np.ones(rank), factors)))
    found = min(
        (cp_als(jnp.float32(kernel), rank, jax.random.key(i), sweeps=400) for i in range(5)), key=lambda fit: fit.error
    )
    theirs = tensorly.cp_to_tensor(parafac(kernel, rank, n_iter_max=500, init="random", random_state=1))
    assert relative_error(composed(found.factors), kernel) < 1e-3 > relative_error(theirs, kernel)


def test_canonical_polyadic_leaves_no_more_error_than_tensorlys():
    kernel = gaussian(3, 3, 6, 10).astype(np.float64)
    errors = [
        relative_error(tensorly.cp_to_tensor(parafac(kernel, 8, n_iter_max=200, init="random", random_state=i)), kernel)
        for i in range(3)
    ]
    fits = [cp_als(jnp.float32(kernel), 8, jax.random.key(i), sweeps=200) for i in range(3)]
    assert min(float(fit.error) for fit in fits) <= min(errors) + 0.01


@pytest.mark.parametrize("ranks", [(2, 3), (4, 5)])
def test_a_tensor_train_is_tensorlys(ranks):
    tensor = gaussian(4, 6, 5)
    theirs = tensorly.tt_to_tensor(tensor_train(tensor.astype(np.float64), rank=[1, *ranks, 1]))
    cores = tt_svd(jnp.asarray(tensor), lambda _, place: ranks[place])
    ours = tensorly.tt_to_tensor([np.asarray(core, np.float64) for core in cores])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("rank", [2, 5])
def test_a_tensor_train_of_a_dense_kernel_is_tensorlys(rank):
    kernel = gaussian(4 * 3 * 2, 2 * 3 * 5)
    paired = kernel.reshape(4, 3, 2, 2, 3, 5)
    theirs = tt_matrix_to_tensor(tensor_train_matrix(paired.astype(np.float64), rank=[1, rank, rank, 1]))
    leaf = factorize.tensor_train("w", (4, 3, 2), (2, 3, 5), rank).init({"w": jnp.asarray(kernel)})["w"]
    np.testing.assert_allclose(dense(leaf), np.asarray(theirs).reshape(kernel.shape), atol=5e-5)


@pytest.mark.parametrize("window", [(5,), (3, 2, 2)])
def test_tucker_of_windows_of_one_axis_and_three_leaves_the_error_of_tensorlys(window):
    kernel = gaussian(*window, 6, 10)
    ranks = [2] * len(window) + [3, 4]
    expected = tensorly.tucker_to_tensor(tucker(kernel.astype(np.float64), rank=ranks, n_iter_max=50))
    leaf = factorize.tucker("w", tuple(ranks), sweeps=50, always=True).init({"w": jnp.asarray(kernel)})["w"]
    assert relative_error(dense(leaf), kernel) == pytest.approx(relative_error(expected, kernel), abs=2e-3)


@pytest.mark.parametrize("window", [(5,), (3, 2, 2)])
def test_canonical_polyadic_of_windows_of_one_axis_and_three_leaves_no_more_error_than_tensorlys(window):
    kernel = gaussian(*window, 6, 10).astype(np.float64)
    errors = [
        relative_error(tensorly.cp_to_tensor(parafac(kernel, 6, n_iter_max=200, init="random", random_state=i)), kernel)
        for i in range(3)
    ]
    make = factorize.cp("w", 6, key=jax.random.key(0), sweeps=200, always=True)
    leaf = make.init({"w": jnp.asarray(kernel, jnp.float32)})["w"]
    assert relative_error(dense(leaf), kernel) <= min(errors) + 0.01
