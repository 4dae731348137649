"""Checks that the rows found times the kernel, flattened, give the output of the layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxcompress.interpreters.rows import rows
from jaxcompress.interpreters.uses import axes, uses


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


KERNELS = {
    "transposed": (lambda p, x: x @ p["w"].T, (4, 3), (2, 3)),
    "contracted_last": (lambda p, x: jax.lax.dot_general(x, p["w"], (((1,), (1,)), ((), ()))), (4, 3), (2, 3)),
    "attention": (lambda p, x: jnp.einsum("td,hdk->thk", x, p["w"]), (2, 8, 3), (5, 8)),
    "several_inputs": (lambda p, x: jnp.tensordot(x, p["w"], ((2, 1), (0, 1))), (3, 2, 4), (5, 2, 3)),
    "reshaped": (lambda p, x: x @ p["w"].transpose(1, 0, 2).reshape(6, 4), (3, 2, 4), (5, 6)),
    "weight_first": (lambda p, x: jnp.einsum("dk,td->kt", p["w"], x).T, (8, 3), (5, 8)),
    "experts": (lambda p, x: jnp.einsum("eti,eio->eto", x, p["w"]), (3, 4, 5), (3, 2, 4)),
    "experts_behind": (lambda p, x: jnp.einsum("tei,ioe->eto", x, p["w"]), (4, 5, 3), (2, 3, 4)),
    "outputs_first": (
        lambda p, x: jax.lax.conv_general_dilated(x, p["w"], (2,), "VALID", dimension_numbers=("NWC", "OIW", "NWC")),
        *((5, 4, 3), (2, 8, 4)),
    ),
}


@pytest.mark.parametrize("name", KERNELS)
def test_rows_times_the_layers_of_a_kernel_under_any_axes_are_the_output(name):
    apply, kernel, shape = KERNELS[name]
    w, x = (jax.random.normal(jax.random.key(i), size) for i, size in enumerate((kernel, shape)))
    (of,) = axes(apply, {"w": w}, "w", x).values()
    (taken,) = uses(apply, rows)({"w": w}, x)["w"]
    layers = of.layers(w).reshape(len(taken), -1, of.layer_shape(kernel)[-1])
    product = jnp.einsum("lnr,lro->lno", taken, layers, precision="highest")
    np.testing.assert_allclose(product.reshape(-1), apply({"w": w}, x).reshape(-1), rtol=1e-4, atol=1e-4)


def test_what_is_no_kernel_has_no_rows():
    transposed = lambda p, x: jax.lax.conv_transpose(x, p["w"], (2,), "SAME")
    assert uses(transposed, rows)({"w": jnp.ones((3, 2, 4))}, jnp.ones((1, 5, 2)))["w"] == [None]
    backwards = lambda p, x: x @ p["w"][::-1]
    assert uses(backwards, rows)({"w": jnp.ones((3, 4))}, jnp.ones((2, 3)))["w"] == [None]
    halves = lambda p, x: jnp.einsum("a,abc->bc", x, p["w"].reshape(2, 3, 4))
    assert uses(halves, rows)({"w": jnp.ones((6, 4))}, jnp.ones(2))["w"] == [None]
