"""Holds factorization to tensorly, on its numpy backend."""

import jax.numpy as jnp
import numpy as np
import pytest
import tensorly
from tensorly.decomposition import partial_tucker
from tensorly.tenalg import multi_mode_dot
from tensorly.tenalg.svd import truncated_svd

from jaxcompress.arrays import dense
from jaxcompress.factorize import svd


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
    np.testing.assert_allclose(dense(svd("w", rank=rank).init({"w": jnp.asarray(kernel)})["w"]), expected, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 4, 10])
def test_a_factorized_convolution_is_the_tucker_decomposition_of_its_output_axis(rank):
    kernel = gaussian(3, 3, 4, 10)
    (core, factors), _ = partial_tucker(kernel.astype(np.float64), rank=[rank], modes=[3])
    expected = multi_mode_dot(core, factors, modes=[3])
    np.testing.assert_allclose(dense(svd("w", rank=rank).init({"w": jnp.asarray(kernel)})["w"]), expected, atol=1e-5)
