"""The convolution that all share pads as TensorFlow does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from experiments.models.blocks import Separable, convolution
from tests.experiments.models import draws


class Sums(nn.Module):
    """Adds up the pixels under a kernel."""

    kernel: tuple[int, int]

    @nn.compact
    def __call__(self, x):
        options = {"strides": 2, "norm": None, "initial": nn.initializers.ones}
        return convolution(x, 1, self.kernel, name="conv", **options)


@pytest.mark.parametrize(
    ("size", "kernel", "rows"),
    [
        (4, 3, [(0, 3), (2, 4)]),  # one row of padding, at the end
        (5, 3, [(0, 2), (1, 4), (3, 5)]),  # one at each end
        (4, 1, [(0, 1), (2, 3)]),
        (10, 4, [(0, 3), (1, 5), (3, 7), (5, 9), (7, 10)]),  # DS-CNN's coefficients
    ],
)
def test_padding_at_stride_two(size, kernel, rows):
    pixels = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    x = jnp.asarray(pixels)[None, :, :, None]
    found = Sums((kernel, kernel)).init_with_output(jax.random.key(0), x)[0]
    expected = [[pixels[a:b, c:d].sum() for c, d in rows] for a, b in rows]
    np.testing.assert_allclose(found[0, :, :, 0], expected, rtol=1e-5, atol=1e-5)


def test_depthwise_kernels_see_one_channel_each():
    model, x = Separable(4, None), draws.normal(1, 5, 5, 3)
    params = draws.variables(model, x.shape[1:])["params"]
    assert params["depthwise"]["kernel"].shape == (3, 3, 1, 3) and params["pointwise"]["kernel"].shape == (1, 1, 3, 4)
    first = params["pointwise"]["kernel"].at[:, :, 1:].set(0)  # reads the first channel alone
    params = {**params, "pointwise": {**params["pointwise"], "kernel": first}}
    np.testing.assert_array_equal(
        model.apply({"params": params}, x), model.apply({"params": params}, x.at[..., 1:].set(7.0))
    )
