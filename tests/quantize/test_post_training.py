"""Rounding kernels after training: better than to nearest, on what the rounded layers before give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.arrays import Masked, Quantized, dense
from jaxcompress.interpreters.graph import Window
from jaxcompress.interpreters.patches import columns
from jaxcompress.quantize import post_training
from tests.nets import LinenLeNet5

KEY = jax.random.key(0)
MIXED = jax.random.normal(KEY, (784, 20)) @ jax.random.normal(jax.random.key(1), (20, 784)) / 5  # inputs that correlate
X = (jax.random.normal(jax.random.key(2), (64, 784)) @ MIXED / 28).reshape(64, 28, 28, 1)


@pytest.fixture(scope="module")
def calibrated():
    net = LinenLeNet5()
    graph, weights = jc.read(lambda p, x: net.apply({"params": p}, x), net.init(KEY, X[:1])["params"], X[:1])
    return graph, weights, jc.quantize.calibrate(graph, weights, [X[:32], X[32:]])


def error(calibrated, **options):
    graph, weights, grids = calibrated
    rounded = post_training(graph, weights, grids, [X[:32], X[32:]], **options)
    assert all(isinstance(layer["kernel"], Quantized) for layer in rounded.values())
    return float(jnp.mean((graph(rounded, X) - graph(weights, X)) ** 2)), rounded


@pytest.mark.parametrize("bits", [pytest.param(3, marks=pytest.mark.slow), 4])
@pytest.mark.slow
def test_gptq_and_adaround_keep_outputs_better_than_nearest(calibrated, bits):
    nearest, _ = error(calibrated, bits=bits)
    assert error(calibrated, bits=bits, rounding="gptq")[0] < nearest
    assert error(calibrated, bits=bits, rounding="adaround", steps=300, key=KEY)[0] < nearest


@pytest.mark.parametrize("granularity, scales", [("tensor", (1, 1)), ("channel", (1, 16))])
def test_nearest_is_the_best_of_the_searched_scales(calibrated, granularity, scales):
    _, rounded = error(calibrated, bits=4, granularity=granularity)
    kernel, weight = rounded["fc1"]["kernel"], calibrated[1]["fc1"]["kernel"]
    assert kernel.scale.shape == scales
    axis = (0, 1) if granularity == "tensor" else 0
    largest = np.abs(weight).max(axis=axis, keepdims=True) / 7
    for fraction in (0.5, 0.7, 0.9, 1.0):
        plain = np.clip(np.round(weight / (fraction * largest)), -7, 7) * fraction * largest
        assert np.sum((dense(kernel) - weight) ** 2) <= np.sum((plain - weight) ** 2) * 1.0001


def test_grouped_convolutions_are_rounded_group_by_group():
    kernel = jax.random.normal(KEY, (3, 3, 2, 6))
    x = jax.random.normal(KEY, (20, 8, 8, 4))

    def apply(params, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        options = {"dimension_numbers": numbers, "feature_group_count": 2}
        return jax.lax.conv_general_dilated(x, params["c"]["kernel"], (1, 1), "SAME", **options)

    params = {"c": {"kernel": kernel}}
    graph, weights = jc.read(apply, params, x[:1])
    grids = jc.quantize.calibrate(graph, weights, [x])
    rounded = (post_training(graph, weights, grids, [x], bits=3, rounding=how) for how in ("gptq", "nearest"))
    errors = [float(jnp.sum((graph(tree, x) - apply(params, x)) ** 2)) for tree in rounded]
    assert errors[0] < errors[1]


def test_zeros_stay_zero(calibrated):
    graph, weights, grids = calibrated
    mask = jax.random.bernoulli(KEY, 0.3, weights["fc1"]["kernel"].shape)
    pruned = weights | {"fc1": weights["fc1"] | {"kernel": Masked(weights["fc1"]["kernel"], mask)}}
    kernel = post_training(graph, pruned, grids, [X], bits=4, rounding="gptq")["fc1"]["kernel"]
    assert not np.any(np.asarray(kernel.codes)[~np.asarray(mask)])


def test_kernels_that_are_not_finite_are_refused(calibrated):
    graph, weights, grids = calibrated
    broken = weights | {"fc1": weights["fc1"] | {"kernel": weights["fc1"]["kernel"].at[0, 0].set(jnp.nan)}}
    with pytest.raises(ValueError, match="fc1/kernel holds NaN"):
        post_training(graph, broken, grids, [X])


def test_columns_times_kernel_is_the_convolution():
    window = Window((3, 2), (2, 1), ((1, 0), (1, 2)), (1, 2))
    x, kernel = jax.random.normal(KEY, (2, 9, 8, 3)), jax.random.normal(KEY, (3, 2, 3, 5))
    taken = columns(x, window.size, window.strides, window.padding, window.dilation)
    expected = jax.lax.conv_general_dilated(
        *(x, kernel, window.strides, window.padding),
        rhs_dilation=window.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(taken @ kernel.reshape(-1, 5), expected, atol=1e-5)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"bits": 9}, "bits 9 is not an integer from 2 to 8"),
        ({"granularity": "row"}, "'row'.* is not one of tensor, channel"),
        ({"rounding": "up"}, "'up' is not one of .*nearest, gptq, adaround"),
        ({"rounding": "adaround"}, "adaround needs a key"),
    ],
)
def test_bad_options_are_refused(calibrated, options, words):
    with pytest.raises(ValueError, match=words):
        post_training(*calibrated, [X], **options)


def test_every_layer_gets_its_own_bits(calibrated):
    graph, weights, grids = calibrated
    bits = {"conv1": 8, "conv2": 2, "fc1": 4, "fc2": 2}
    rounded = post_training(graph, weights, grids, [], bits=bits)
    same = {number: post_training(graph, weights, grids, [], bits=number) for number in set(bits.values())}
    for name, number in bits.items():
        jax.tree.map(np.testing.assert_array_equal, rounded[name], same[number][name])
        assert rounded[name]["kernel"].bits == number


def test_gptq_rounds_every_layer_to_its_own_bits(calibrated):
    bits = {"conv1": 8, "conv2": 3, "fc1": 4, "fc2": 2}
    _, rounded = error(calibrated, bits=bits, rounding="gptq")
    for name, number in bits.items():
        codes = rounded[name]["kernel"].codes
        assert rounded[name]["kernel"].bits == number and int(jnp.abs(codes).max()) == 2 ** (number - 1) - 1


@pytest.mark.parametrize(
    "bits, words",
    [
        ({"conv1": 8, "conv2": 8, "fc1": 8}, "no bits for fc2; .*: conv1, conv2, fc1, fc2"),
        ({"conv1": 8, "conv2": 8, "fc1": 8, "fc2": 8, "conv3": 8}, "'conv3', which is no layer .did you mean 'conv"),
        ({"conv1": 8, "conv2": 8, "fc1": 1, "fc2": 8}, "bits 1 of fc1 is not an integer from 2 to 8"),
    ],
)
def test_bits_without_a_layer_and_layers_without_bits_are_refused(calibrated, bits, words):
    with pytest.raises(ValueError, match=words):
        post_training(*calibrated, [X], bits=bits)


def test_gptq_without_batches_is_refused(calibrated):
    with pytest.raises(ValueError, match="needs at least one batch"):
        post_training(*calibrated, [], rounding="gptq")
