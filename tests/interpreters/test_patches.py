import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress import adapters, cost, factorize, lift, patches
from tests.nets import LinenLeNet5, data, linen_net

LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}


def convolution(strides, padding, dilation, numbers, **options):
    def convolve(x, kernel):
        return lax.conv_general_dilated(
            *(x, kernel, strides, padding), rhs_dilation=dilation, dimension_numbers=numbers, **options
        )

    return convolve


def assert_same_values_and_gradients(convolve, x, kernel, operations=("dot_general",)):
    def run(function):
        loss = lambda x, kernel: (jnp.sum(jnp.sin(function(x, kernel))), function(x, kernel))
        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, kernel)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-5), run(patches(convolve)), run(convolve)
    )
    assert [o.name for o in cost(patches(convolve), x, kernel)] == list(operations)


@pytest.mark.parametrize(
    "strides, padding, dilation",
    [
        *itertools.product(((1, 1), (2, 1)), ("SAME", "VALID"), ((1, 1), (1, 2))),
        ((2, 3), ((2, 1), (0, 3)), (2, 1)),
        ((1, 1), ((0, 0), (-1, 2)), (1, 1)),
    ],
)
def test_patches_equal_native_convolutions_over_two_axes(strides, padding, dilation):
    convolve = convolution(strides, padding, dilation, LAYOUTS[2])
    assert_same_values_and_gradients(convolve, data(2, 7, 8, 3), data(3, 2, 3, 4))


@pytest.mark.parametrize(
    "strides, padding, dilation", list(itertools.product(((1,), (3,)), ("SAME", "VALID"), ((1,), (2,))))
)
def test_patches_equal_native_convolutions_over_one_axis(strides, padding, dilation):
    convolve = convolution(strides, padding, dilation, LAYOUTS[1])
    assert_same_values_and_gradients(convolve, data(2, 9, 3), data(3, 3, 4))


def test_patches_keep_other_layouts():
    convolve = convolution((1, 2), "SAME", (1, 1), ("NCHW", "OIHW", "NCHW"))
    assert_same_values_and_gradients(convolve, data(2, 3, 7, 8), data(4, 3, 3, 2))


def test_patches_of_a_gradient_equal_the_native_gradient():
    convolve = convolution((2, 2), "SAME", (1, 1), LAYOUTS[2])
    grad = jax.grad(lambda kernel, x: jnp.sum(jnp.square(convolve(x, kernel))))
    args = data(3, 3, 3, 4), data(2, 8, 8, 3)
    np.testing.assert_allclose(jax.jit(patches(grad))(*args), grad(*args), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{"feature_group_count": 3}, {"lhs_dilation": (2, 2)}], ids=["grouped", "transposed"]
)
def test_grouped_and_transposed_convolutions_stay_native(options):
    convolve = convolution((1, 1), ((1, 1), (1, 1)), (1, 1), LAYOUTS[2], **options)
    x, kernel = data(2, 6, 6, 6), data(3, 3, 2 if "feature_group_count" in options else 6, 6)
    assert [o.name for o in cost(patches(convolve), x, kernel)] == ["conv_general_dilated"]
    np.testing.assert_allclose(patches(convolve)(x, kernel), convolve(x, kernel), rtol=1e-6)


@pytest.mark.parametrize(
    ("strides", "padding", "dilation"), [((1, 1), "SAME", (1, 1)), ((2, 1), ((1, 2), (0, 1)), (1, 2))]
)
@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_convolutions_are_sums_of_shifted_inputs(strides, padding, dilation, multiplier):
    convolve = convolution(strides, padding, dilation, LAYOUTS[2], feature_group_count=3)
    x, kernel = data(2, 7, 8, 3), data(3, 2, 1, 3 * multiplier)
    assert_same_values_and_gradients(convolve, x, kernel, operations=[])


def test_depthwise_convolutions_keep_other_layouts():
    convolve = convolution((1, 2), "SAME", (1, 1), ("NCHW", "OIHW", "NCHW"), feature_group_count=3)
    assert_same_values_and_gradients(convolve, data(2, 3, 7, 8), data(6, 1, 3, 2), operations=[])


def test_patches_inside_scan_grad_and_jit():
    convolve = convolution((1, 1), "SAME", (1, 1), LAYOUTS[2])
    x, kernel = data(2, 5, 5, 3), data(3, 3, 3, 3)

    def loss(kernel):
        return jnp.sum(lax.scan(lambda x, _: (jnp.tanh(convolve(x, kernel)), None), x, None, length=3)[0])

    assert {o.name for o in cost(patches(loss), kernel)} == {"dot_general"}
    np.testing.assert_allclose(jax.jit(jax.grad(patches(loss)))(kernel), jax.grad(loss)(kernel), rtol=1e-4, atol=1e-5)


def test_patches_keep_reduced_precision():
    convolve = convolution((1, 1), "SAME", (1, 1), LAYOUTS[2])
    x, kernel = data(2, 5, 5, 3).astype(jnp.bfloat16), data(3, 3, 3, 3).astype(jnp.bfloat16)
    out = patches(convolve)(x, kernel)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(out), np.float32(convolve(x, kernel)), rtol=5e-2, atol=0.1)


def test_patches_of_a_lifted_model_keep_factors_thin():
    apply, params, x, *_ = linen_net(LinenLeNet5(), data(2, 28, 28, 1), "")
    tree = factorize.svd("(conv2|fc1)/kernel", 2).init(params)
    run = patches(lift(apply))
    np.testing.assert_allclose(jax.jit(run)(tree, x), apply(tree, x), rtol=1e-4, atol=1e-5)
    operations = cost(run, tree, x)
    assert {o.name for o in operations} == {"dot_general"}
    assert sum(o.macs for o in operations) == sum(o.macs for o in cost(apply, tree, x))


def test_linen_functional_is_already_lifted():
    apply, params = adapters.linen.functional(LinenLeNet5(), {"params": {}})
    assert params == {} and apply.__name__ == "apply"
