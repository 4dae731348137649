"""Checks the scores of channels by their activations, by hand and in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import jaxcompress as jc
from experiments import models
from jaxcompress.prune import activity
from tests.prune.coupled import drawn, perceptron, perceptron_of, variables_of

PARAMS, CHANNELS = perceptron_of([[1, -1, 2], [0, 1, -1]], [0, 0, 0], [[1], [1], [1]])
# Behind the ReLU: (1, 0, 2), (0, 1, 0) and (0, 0, 1); then (1, 0, 1).
BATCHES = [jnp.asarray([[1.0, 0], [0, 1], [1, 1]]), jnp.asarray([[1.0, 1]])]


def test_a_perceptron_by_hand():
    assert list(activity.apoz(perceptron, PARAMS, CHANNELS, BATCHES)) == ["a:1"]
    made = np.array([[1, 0, 2], [0, 1, 0], [1, 0, 1], [1, 0, 1]])
    np.testing.assert_allclose(activity.apoz(perceptron, PARAMS, CHANNELS, BATCHES)["a:1"], (made != 0).mean(0))
    np.testing.assert_allclose(activity.mean_activation(perceptron, PARAMS, CHANNELS, BATCHES)["a:1"], made.mean(0))


def lenet():
    model = models.LeNet5()
    x = drawn(3, 28, 28, 1)
    params = variables_of(model, x)
    return model, params, x, jc.channels(model.apply, params, x)


def test_a_flattened_channel_is_all_of_its_entries():
    model, params, x, channels = lenet()
    scores = activity.mean_activation(model.apply, params, channels, [x])
    first, second, third = scores.values()
    layers = params["params"]

    def convolved(x, layer):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, layers[layer]["kernel"], (1, 1), "VALID", dimension_numbers=numbers)
        return nn.max_pool(y + layers[layer]["bias"][None, None, None], (2, 2), (2, 2))

    one = convolved(x, "conv1")
    two = convolved(one, "conv2")
    three = jax.nn.relu(two.reshape(3, -1) @ layers["fc1"]["kernel"] + layers["fc1"]["bias"][None])
    np.testing.assert_allclose(first, np.abs(one).mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(second, np.abs(two).mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(third, np.abs(three).mean(0), rtol=1e-4, atol=1e-6)


def convolutions(params, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    for name in "ab":
        x = jax.nn.relu(lax.conv_general_dilated(x, params[name], (1, 1), "SAME", dimension_numbers=numbers))
    return x.mean((1, 2)) @ params["c"]


def test_ranks_of_maps_against_numpy():
    # A 1x1 kernel on two channels, of rank one and of full rank: 1, 3 and 0 by channel.
    one = jnp.outer(jnp.arange(1.0, 4), jnp.arange(2.0, 5))
    full = jnp.asarray([[5.0, 1, 2], [1, 7, 3], [2, 1, 9]])
    x = jnp.stack([jnp.stack([one, full], -1), jnp.stack([2 * one, full.T], -1)])
    kernel = jnp.asarray([[1.0, 0, -1], [0, 1, 0]])[None, None]
    params = {"a": kernel, "b": drawn(3, 3, 3, 4), "c": drawn(4, 2)}
    channels = jc.channels(convolutions, params, x)
    scores = activity.hrank(convolutions, params, channels, [x[:1], x[1:]], groups="a:3")
    np.testing.assert_array_equal(scores["a:3"], [1, 3, 0])
    maps = np.random.default_rng(0).normal(size=(4, 3, 3, 2))
    found = activity.hrank(convolutions, params, channels, [jnp.asarray(maps, jnp.float32)], groups="a:3")["a:3"]
    made = np.maximum(np.einsum("nhwi,io->nohw", maps, np.asarray(kernel[0, 0])), 0)
    np.testing.assert_allclose(found, np.linalg.matrix_rank(made).mean(0))


def test_a_group_without_maps_is_refused_by_name():
    model, params, x, channels = lenet()
    with pytest.raises(ValueError, match="params/conv2/bias:0 is not read by a convolution over height and width"):
        activity.hrank(model.apply, params, channels, [x])
    assert list(activity.hrank(model.apply, params, channels, [x], groups=".*conv1/kernel:3")) == [
        "params/conv1/bias:0"
    ]


def test_every_reader_of_a_stage_counts():
    def apply(params, x):
        y = jax.nn.relu(x @ params["a"])
        return y @ params["b"] + (2 * y) @ params["c"]

    params = {"a": drawn(3, 4), "b": drawn(4, 2, seed=1), "c": drawn(4, 2, seed=2)}
    x = drawn(5, 3, seed=3)
    (scores,) = activity.mean_activation(apply, params, jc.channels(apply, params, x), [x]).values()
    np.testing.assert_allclose(scores, 1.5 * np.maximum(x @ params["a"], 0).mean(0), rtol=1e-5)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_grouped_convolutions_read_the_same_channels_of_each_group(multiplier):
    def apply(params, x):
        y = lax.conv_general_dilated(x, params["a"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(
            jnp.abs(y), params["b"], (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=2
        )
        return y.mean((1, 2)) @ params["c"]

    params = {"a": drawn(1, 1, 2, 4), "b": drawn(3, 3, 2, 2 * multiplier), "c": drawn(2 * multiplier, 1)}
    x = drawn(2, 4, 4, 2, seed=5)
    scores = activity.mean_activation(apply, params, jc.channels(apply, params, x), [x], groups="a:3")
    made = np.abs(np.einsum("nhwi,io->nhwo", x, params["a"][0, 0])).mean((0, 1, 2))
    np.testing.assert_allclose(scores["a:3"], [(made[0] + made[2]) / 2, (made[1] + made[3]) / 2], rtol=1e-5)


def test_heads_are_read_along_their_axis():
    module = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6)
    x = drawn(2, 5, 4)
    params = variables_of(module, x)
    channels = jc.channels(module.apply, params, x)
    with pytest.raises(ValueError, match="is not read by a product or convolution with a kernel"):
        activity.mean_activation(module.apply, params, channels, [x])  # queries and keys meet one another alone
    scores = activity.mean_activation(module.apply, params, channels, [x], groups=".*/out/kernel:0")
    assert [len(score) for score in scores.values()] == [2]


def test_transposed_kernels_are_no_readers():
    def apply(params, x):
        return jax.nn.relu(x @ params["a"]) @ params["b"].T

    params, x = {"a": drawn(3, 4), "b": drawn(2, 4)}, drawn(5, 3)
    with pytest.raises(ValueError, match="a:1 is not read by"):
        activity.apoz(apply, params, jc.channels(apply, params, x), [x])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="there are no batches"):
        activity.apoz(perceptron, PARAMS, CHANNELS, [])
    with pytest.raises(ValueError, match="pattern 'z:0' matches no member of a group"):
        activity.apoz(perceptron, PARAMS, CHANNELS, BATCHES, groups="z:0")
