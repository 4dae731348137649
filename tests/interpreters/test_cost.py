import math

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax import lax

from jaxcompress import cost, lift, macs
from jaxcompress.arrays import LowRank, Masked
from tests.nets import CAFFE, LinenLeNet5, LinenMLP, data

W = jax.ShapeDtypeStruct((8, 8), jnp.float32)
X = jax.ShapeDtypeStruct((3, 8), jnp.float32)


def operations(module, *shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return cost(module.apply, jax.eval_shape(module.init, jax.random.key(0), x), x)


def test_mlp_by_hand():
    assert [o.macs for o in operations(LinenMLP((300, 100, 10)), 1, 784)] == [784 * 300, 300 * 100, 100 * 10]
    assert sum(o.macs for o in operations(LinenMLP((300, 100, 10)), 7, 784)) == 7 * 266200


def test_lenet5_of_caffe_by_hand():
    found = operations(LinenLeNet5(CAFFE), 1, 28, 28, 1)
    assert [o.macs for o in found] == [288000, 1600000, 400000, 5000]
    assert found[0].name == "conv_general_dilated"
    assert (found[0].inputs, found[0].output) == (((1, 28, 28, 1), (5, 5, 1, 20)), (1, 24, 24, 20))
    assert (found[3].name, found[3].inputs, found[3].output) == ("dot_general", ((1, 500), (500, 10)), (1, 10))


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"strides": 2}, 4 * 4 * 12 * 9 * 6),
        ({"padding": "VALID"}, 6 * 6 * 12 * 9 * 6),
        ({"feature_group_count": 3}, 8 * 8 * 12 * 9 * 2),
        ({"feature_group_count": 6}, 8 * 8 * 12 * 9),  # depthwise, two outputs a channel
        ({"kernel_dilation": 2}, 8 * 8 * 12 * 9 * 6),
    ],
)
def test_convolutions_by_hand(options, expected):
    (found,) = operations(nn.Conv(12, (3, 3), **options), 1, 8, 8, 6)
    assert found.macs == expected


def test_batched_products():
    a, b = jax.ShapeDtypeStruct((5, 2, 3), jnp.float32), jax.ShapeDtypeStruct((5, 3, 4), jnp.float32)
    assert macs(jnp.matmul, a, b) == 5 * 2 * 3 * 4
    assert macs(lambda a, b: jnp.einsum("bij,bjk->", a, b), a, b) > 0


def test_scan_counts_its_body_once_a_turn_and_loops_in_loops_multiply():
    def once(x, w):
        return lax.scan(lambda x, _: (x @ w, None), x, None, length=5)[0]

    def twice(x, w):
        return lax.scan(lambda x, _: (once(x, w), None), x, None, length=4)[0]

    assert macs(once, X, W) == 5 * 3 * 64
    assert macs(twice, X, W) == 4 * 5 * 3 * 64


def test_conditional_counts_the_dearer_branch():
    def branch(x, w):
        return lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x @ w @ w)

    assert macs(branch, X, W) == 2 * 3 * 64
    assert macs(lambda x, w: lax.scan(lambda x, _: (branch(x, w), None), x, None, length=3)[0], X, W) == 6 * 3 * 64


def test_while_counts_its_body_once():
    def loop(x, w):
        return lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ w, x)

    assert macs(loop, X, W) == 3 * 64


def test_products_in_jit_remat_and_custom_derivatives_count_once():
    product = lambda x, w: x @ w
    custom = jax.custom_vjp(product)
    custom.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1].T, r[0].T @ g))
    jvp = jax.custom_jvp(product)
    jvp.defjvp(lambda p, t: (p[0] @ p[1], t[0] @ p[1] + p[0] @ t[1]))
    for function in (product, jax.jit(product), jax.checkpoint(product), custom, jvp, jax.jit(jax.checkpoint(custom))):
        assert macs(function, X, W) == 3 * 64


def test_gradient_costs_twice_the_model_more():
    assert macs(jax.grad(lambda w, x: jnp.sum(jnp.square(x @ w))), W, X) == 2 * 3 * 64
    assert macs(jax.grad(lambda x, w: jnp.sum(jnp.square(x @ w)), (0, 1)), X, W) == 3 * 3 * 64


def test_factors_count_thin_and_masks_in_full():
    apply = lift(lambda w, x: x @ w)
    low_rank = LowRank(data(8, 2), data(2, 8))
    assert macs(apply, low_rank, X) == 3 * (8 * 2 + 2 * 8)
    assert macs(apply, Masked(data(8, 8), data(8, 8) > 9), X) == 3 * 64
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), low_rank)
    assert macs(apply, shapes, X) == 3 * 32


def test_factored_convolution_counts_thin():
    def apply(kernel, x):
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    x = jax.ShapeDtypeStruct((1, 8, 8, 6), jnp.float32)
    thin = [o.macs for o in cost(lift(apply), LowRank(data(3, 3, 6, 2), data(2, 12), 3), x)]
    assert thin == [64 * 9 * 6 * 2, 64 * 2 * 12]
    assert math.fsum(thin) < macs(apply, data(3, 3, 6, 12), x)
