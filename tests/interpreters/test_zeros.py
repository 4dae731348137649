"""Checks that weights which are gone are computed with neither in values, multiply-adds nor gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import jaxcompress as jc
from jaxcompress.arrays import Sliced, Zeros, sliced


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def gone(*shape):
    return Zeros(jnp.float32(0), shape)


X = drawn(2, 4, 4, 3)
CASES = {
    "product": (lambda w, x: x + x @ w, (3, 3)),
    "transposed": (lambda w, x: x + x @ w.T, (3, 3)),
    "first": (lambda w, x: jnp.einsum("oi,nhwi->nhwo", w, x), (5, 3)),
    "convolution": (
        lambda w, x: lax.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
        (3, 3, 3, 5),
    ),
    "added": (lambda w, x: x + w, (2, 4, 4, 3)),
    "taken_off": (lambda w, x: x - w, (2, 4, 4, 3)),
    "taken_from": (lambda w, x: w - x, (2, 4, 4, 3)),
    "bias": (lambda w, x: x + w[None, None, None], (3,)),
    "small": (lambda w, x: x[:1] + w, (2, 4, 4, 3)),
    "gate": (lambda w, x: x * jax.nn.sigmoid(w)[None, None, None], (3,)),
    "divided": (lambda w, x: w / (x * x + 1), (2, 4, 4, 3)),
    "relu": (lambda w, x: x + jax.nn.relu(x * w), (2, 4, 4, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_values_are_those_of_zeros(name):
    apply, shape = CASES[name]
    if name == "small":
        apply = lambda w, x: jnp.broadcast_to(x[:1], x.shape) + w
    out = jc.lift(apply)(gone(*shape), X)
    wanted = apply(jnp.zeros(shape), X)
    assert (out.shape, out.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("name", ["product", "transposed", "first", "convolution"])
def test_nothing_is_multiplied(name):
    apply, shape = CASES[name]
    assert jc.macs(jc.lift(apply), gone(*shape), X) == 0 < jc.macs(apply, jnp.zeros(shape), X)


def test_gradients_of_what_stays_are_those_of_zeros():
    def loss(w, v, x):
        return jnp.sum(jnp.square(x @ v + jax.nn.relu(x @ w) @ v))

    v = drawn(3, 3, seed=1)
    grad = jax.jit(jax.grad(lambda v: jc.lift(loss)(gone(3, 3), v, X)))(v)
    np.testing.assert_allclose(grad, jax.grad(lambda v: loss(jnp.zeros((3, 3)), v, X))(v), rtol=1e-5)


def test_it_meets_sliced_weights():
    apply = lambda p, x: (x @ p["a"] + x @ p["b"]) @ p["c"]
    keep = sliced(drawn(3, 4), (None, (0, 2)))
    assert isinstance(keep, Sliced)
    params = {"a": keep, "b": gone(3, 4), "c": drawn(4, 2, seed=2)}
    np.testing.assert_allclose(jc.lift(apply)(params, X), apply(jc.densify(params), X), rtol=1e-5, atol=1e-6)
    assert jc.macs(jc.lift(apply), params, X) == 32 * (3 * 2 + 2 * 2)


def test_a_norm_of_a_layer_that_is_gone_is_zero_in_inference_and_training():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            y = nn.Conv(3, (3, 3), name="conv")(x)
            return x + nn.BatchNorm(use_running_average=not train, name="norm")(y)

    variables = jax.tree.map(lambda w: gone(*w.shape), jax.eval_shape(Net().init, jax.random.key(0), X))
    apply = jc.lift(Net().apply)
    np.testing.assert_array_equal(apply(variables, X), X)
    out, _ = apply(variables, X, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(out, X)
    assert jc.macs(apply, variables, X) == 0


def test_channels_of_what_is_gone_can_be_removed():
    leaf = gone(4, 6)
    assert sliced(leaf, ((0, 3), None)) is leaf
