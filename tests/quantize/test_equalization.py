"""Equal ranges on either side of every channel, of networks that compute the same; and biases absorbed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcompress as jc
from experiments.models.lenet import LeNet5
from experiments.models.mobilenet import MobileNetV1
from experiments.models.resnet import ResNet8
from jaxcompress import adapters, quantize
from jaxcompress.interpreters.graph import Graph, Node, Window
from jaxcompress.quantize import Moments, absorb_bias, equalize, without_relu6
from jaxcompress.quantize.pairs import pairs, rescale

ONE = Window((1, 1), (1, 1), ((0, 0), (0, 0)))
MODELS = {
    "lenet5": (LeNet5(), (28, 28, 1), 3),
    "resnet8": (ResNet8(), (32, 32, 3), 3),
    "mobilenet": (MobileNetV1(), (32, 32, 3), 27),
}


def read(name, seed=0):
    """Reads a model with drawn weights and statistics, and draws inputs for it."""
    module, shape, _ = MODELS[name]
    example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    draw = np.random.default_rng(seed)

    def values(leaf):
        of_kernel = draw.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
        return jnp.asarray(of_kernel if leaf.ndim > 1 else draw.uniform(0.3, 1.2, leaf.shape), jnp.float32)

    variables = jax.tree.map(values, jax.eval_shape(module.init, jax.random.key(0), example))
    graph, weights = jc.read(*adapters.linen.functional(module, variables), example)
    return graph, weights, jnp.asarray(draw.normal(size=(16, *shape)), jnp.float32)


def mlp(first, second, bias=(0.0, 0.0), activation="relu"):
    """Two dense layers of two inputs, two hidden units and two outputs."""
    nodes = (
        Node("fc1", "dense", ("input",), (1, 2), activation=activation),
        Node("fc2", "dense", ("fc1",), (1, 2)),
    )
    arrays = (jnp.asarray(x, jnp.float32) for x in (first, bias, second, (0.0, 0.0)))
    leaves = dict(zip(("fc1", "fc2"), zip(arrays, arrays, strict=True), strict=True))
    return Graph(nodes, (1, 2), "fc2"), {n: {"kernel": k, "bias": b} for n, (k, b) in leaves.items()}


def signal_to_noise(signal, noisy):
    """In decibels."""
    return 10 * np.log10(np.mean(np.square(signal)) / np.mean(np.square(noisy - signal)))


# Equalization


def test_two_layers_by_hand():
    graph, weights = mlp([[1.0, 4.0], [-8.0, 2.0]], [[2.0, -1.0], [1.0, 0.5]], bias=(3.0, 6.0))
    found = equalize(graph, weights)
    # Ranges are 8, 4 of the outputs and 2, 1 of the inputs behind them, so both scales are 2.
    np.testing.assert_allclose(found.weights["fc1"]["kernel"], [[0.5, 2.0], [-4.0, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(found.weights["fc1"]["bias"], [1.5, 3.0], rtol=1e-6)
    np.testing.assert_allclose(found.weights["fc2"]["kernel"], [[4.0, -2.0], [2.0, 1.0]], rtol=1e-6)
    assert [pair[:3] for pair in found.pairs] == [("fc1", "fc2", (0, 1))] and found.blocked.keys() == {"fc2"}


@pytest.mark.parametrize("name", ["lenet5", "resnet8"])
def test_models_compute_the_same_with_equal_ranges(name):
    graph, weights, x = read(name)
    found = equalize(graph, weights)
    run = jax.jit(graph.__call__)
    expected = np.asarray(run(weights, x))
    assert len(found.pairs) == MODELS[name][2]
    np.testing.assert_allclose(run(found.weights, x), expected, atol=1e-5 * np.abs(expected).max())
    for pair in found.pairs:
        before = np.abs(np.asarray(found.weights[pair.first]["kernel"]))
        rows = np.abs(np.asarray(found.weights[pair.second]["kernel"]))
        by_row = rows.reshape(-1, *rows.shape[-2:]).max((0, 2))
        after = [by_row[np.array(pair.channels) == channel].max() for channel in range(before.shape[-1])]
        np.testing.assert_allclose(before.reshape(-1, before.shape[-1]).max(0), after, rtol=0.01)


@pytest.mark.slow
def test_one_scale_per_tensor_serves_unequal_channels_of_mobilenet_after_equalization():
    graph, weights, x = read("mobilenet")
    draw = np.random.default_rng(3)
    scales = {
        pair: jnp.asarray(np.exp(draw.normal(0, 1, len(weights[pair.first]["bias"]))), jnp.float32)
        for pair in pairs(graph)[0]
    }
    unequal = jax.jit(lambda w: rescale(graph, w, scales))(weights)
    found = equalize(graph, unequal)
    assert len(found.pairs) == MODELS["mobilenet"][2] and found.blocked.keys() == {"fc"}
    run = jax.jit(graph.__call__)
    expected = np.asarray(run(weights, x))
    np.testing.assert_allclose(run(found.weights, x), expected, atol=2e-5 * np.abs(expected).max())

    def rounded(tree):
        fake = quantize.weights(".*/kernel", 8, granularity="tensor").init(tree)
        return signal_to_noise(expected, run(jax.jit(jc.densify)(fake), x))

    assert rounded(found.weights) > rounded(unequal) + 10


def test_equalizing_again_changes_nothing_and_traces_once():
    graph, weights, _ = read("lenet5")
    traces = []

    @jax.jit
    def run(weights):
        traces.append(1)
        return equalize(graph, weights).weights

    once = run(weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.01), run(once), once)
    assert len(traces) == 1


VALUES = st.lists(st.floats(-8, 8, width=32), min_size=4, max_size=4)
TINY = st.sampled_from([1.0, 0.0, 1e-20, 1e-38, 1e-42])
EQUALIZED = jax.jit(lambda weights: equalize(mlp(*[np.zeros((2, 2))] * 2)[0], weights).weights)


@given(VALUES, VALUES, TINY, TINY)
@settings(max_examples=60, deadline=None)
def test_zero_and_tiny_channels(first, second, shrink1, shrink2):
    first, second = np.reshape(first, (2, 2)) * [1, shrink1], np.reshape(second, (2, 2)) * [[1], [shrink2]]
    graph, weights = mlp(first, second, bias=(0.5, -0.25))
    found = EQUALIZED(weights)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))
    x = jnp.array([[1.0, -2.0], [0.5, 4.0], [-3.0, -1.0]])
    np.testing.assert_allclose(graph(found, x), graph(weights, x), rtol=1e-4, atol=1e-5)
    dead = (np.abs(weights["fc1"]["kernel"]).max(0) < 1e-38) | (np.abs(weights["fc2"]["kernel"]).max(1) < 1e-38)
    np.testing.assert_array_equal(np.asarray(found["fc1"]["bias"])[dead], np.asarray(weights["fc1"]["bias"])[dead])


def test_a_constant_channel_keeps_its_contribution():
    graph, weights = mlp([[1.0, 0.0], [2.0, 0.0]], [[1.0, 1.0], [3.0, 5.0]], bias=(0.0, 7.0))
    found = equalize(graph, weights).weights
    np.testing.assert_array_equal(found["fc1"]["bias"], [0.0, 7.0])
    np.testing.assert_array_equal(found["fc2"]["kernel"][1], [3.0, 5.0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("leaf", ["kernel", "bias"])
def test_weights_that_are_not_finite_are_refused(leaf, value):
    graph, weights = mlp([[1.0, 2.0]] * 2, [[1.0, 2.0]] * 2)
    weights["fc1"][leaf] = weights["fc1"][leaf].at[-1].set(value)
    with pytest.raises(ValueError, match=f"fc1/{leaf} holds NaN or infinity"):
        equalize(graph, weights)
    with pytest.raises(ValueError, match=f"fc1/{leaf} holds NaN or infinity"):
        absorb_bias(graph, weights, {"fc1": Moments(jnp.ones(2), jnp.ones(2))})


@pytest.mark.parametrize("options", [{"iterations": 0}, {"iterations": 1.5}, {"tolerance": 0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} {next(iter(options.values()))}"):
        equalize(*mlp([[1.0, 2.0]] * 2, [[1.0, 2.0]] * 2), **options)


def test_relu6_blocks_until_it_is_replaced():
    graph, weights = mlp([[1.0, 4.0]] * 2, [[1.0, 2.0]] * 2, activation="relu6")
    found = equalize(graph, weights)
    assert not found.pairs and "relu6" in found.blocked["fc1"]
    replaced = without_relu6(graph)
    assert [node.activation for node in replaced.nodes] == ["relu", None]
    assert len(equalize(replaced, weights).pairs) == 1
    alone = Graph((Node("cut", "relu6", ("input",), (1, 2)),), (1, 2), "cut")
    np.testing.assert_array_equal(without_relu6(alone)({}, jnp.array([[-1.0, 9.0]])), [[0.0, 9.0]])


# Absorbing biases


def test_absorbed_biases_by_hand():
    graph, weights = mlp([[1.0, 1.0], [0.0, 1.0]], [[2.0, -1.0], [3.0, 0.5]], bias=(10.0, 1.0))
    moments = {"fc1": Moments(jnp.array([10.0, 1.0]), jnp.array([2.0, 0.5]))}
    found = absorb_bias(graph, weights, moments)
    # c is 10 - 3 * 2 = 4 and max(0, 1 - 1.5) = 0.
    np.testing.assert_array_equal(found.weights["fc1"]["bias"], [6.0, 1.0])
    np.testing.assert_array_equal(found.weights["fc2"]["bias"], [8.0, -4.0])
    x = jnp.array([[-5.0, 1.0], [0.0, 2.0], [3.0, -4.0]])  # all leave the first channel above 4
    np.testing.assert_allclose(graph(found.weights, x), graph(weights, x), rtol=1e-6)


def test_absorbing_shrinks_activations_of_pairs_without_padding_and_keeps_the_output():
    shape = (1, 6, 6, 4)
    nodes = (
        Node("depthwise", "convolution", ("input",), shape, window=Window((3, 3), (1, 1), ((1, 1), (1, 1)), groups=4),
             activation="relu"),
        Node("grouped", "convolution", ("depthwise",), shape, window=ONE._replace(groups=2), activation="relu"),
        Node("pool", "average_pool", ("grouped",), (1, 3, 3, 4), window=Window((2, 2), (2, 2), ((0, 0), (0, 0)))),
        Node("same", "convolution", ("pool",), (1, 3, 3, 4), window=Window((3, 3), (1, 1), ((1, 1), (1, 1)))),
        Node("flat", "reshape", ("same",), (1, 36)),
        Node("fc", "dense", ("flat",), (1, 3)),
    )  # fmt: skip
    graph, draw = Graph(nodes, shape, "fc"), np.random.default_rng(0)
    sizes = {"depthwise": (3, 3, 1, 4), "grouped": (1, 1, 2, 4), "same": (3, 3, 4, 4), "fc": (36, 3)}
    weights = {
        name: {
            "kernel": jnp.asarray(draw.normal(0, 0.1, size), jnp.float32),
            "bias": jnp.asarray(draw.uniform(3, 9, size[-1]), jnp.float32),
        }
        for name, size in sizes.items()
    }
    x = jnp.asarray(draw.uniform(-1, 1, (40, *shape[1:])), jnp.float32)
    moments = quantize.moments(graph, weights, [x])
    found = absorb_bias(graph, weights, moments)
    assert [pair.first for pair in found.pairs] == ["depthwise", "same"]
    assert "padding" in found.blocked["grouped"]
    before, after = graph(weights, x), graph(found.weights, x)
    np.testing.assert_allclose(after, before, atol=2e-3 * np.abs(before).max())
    outputs = quantize.calibrate(graph, found.weights, [x])
    assert outputs["depthwise"].scale < 0.5 * quantize.calibrate(graph, weights, [x])["depthwise"].scale


def test_missing_moments_are_refused():
    graph, weights = mlp([[1.0, 2.0]] * 2, [[1.0, 2.0]] * 2)
    with pytest.raises(ValueError, match="moments of fc1 are missing"):
        absorb_bias(graph, weights, {})
