"""Checks that the rows found times the kernel, flattened, give the output of the layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxcompress.interpreters.rows import rows
from jaxcompress.interpreters.uses import uses


def found(model, shape):
    x = jax.random.normal(jax.random.key(0), shape)
    params = model.init(jax.random.key(1), x)["params"]

    def measure(use):
        return rows(use), use.output

    ((taken, output),) = uses(lambda p, x: model.apply({"params": p}, x), measure)(params, x)["kernel"]
    return params["kernel"], taken, output


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Dense(5), (7, 4)),
        (nn.Dense(5), (2, 3, 4)),
        (nn.Conv(6, (3, 3)), (2, 5, 6, 4)),
        (nn.Conv(6, (3, 2), strides=2, padding="VALID"), (2, 7, 6, 4)),
        (nn.Conv(6, (3, 3), kernel_dilation=2), (2, 7, 6, 4)),
        (nn.Conv(6, (3, 3), feature_group_count=2), (2, 5, 6, 4)),
        (nn.Conv(4, (3, 3), feature_group_count=4), (2, 5, 6, 4)),
        (nn.Conv(6, (3,)), (2, 8, 4)),
    ],
)
def test_rows_times_the_kernel_are_the_output(model, shape):
    kernel, taken, output = found(model, shape)
    groups = len(taken)
    flat = kernel.reshape(-1, groups, kernel.shape[-1] // groups)
    product = jnp.einsum("gnk,kgo->ngo", taken, flat, precision="highest").reshape(output.shape)
    bias = output - product
    np.testing.assert_allclose(bias, np.zeros(bias.shape), atol=1e-4)


def test_what_is_no_kernel_has_no_rows():
    x, w = jnp.ones((2, 3)), jnp.ones((4, 3))
    assert uses(lambda p, x: x @ p["w"].T, rows)({"w": w}, x)["w"][0] is not None  # stands as one where it is used
    contract_last = lambda p, x: jax.lax.dot_general(x, p["w"], (((1,), (1,)), ((), ())))
    assert uses(contract_last, rows)({"w": w}, x)["w"] == [None]
    batched = lambda p, x: jnp.einsum("bi,bio->bo", x, p["w"])
    assert uses(batched, rows)({"w": jnp.ones((2, 3, 4))}, x)["w"] == [None]
    transposed = lambda p, x: jax.lax.conv_transpose(x, p["w"], (2,), "SAME")
    assert uses(transposed, rows)({"w": jnp.ones((3, 2, 4))}, jnp.ones((1, 5, 2)))["w"] == [None]
