"""SmoothQuant and AWQ: scales by formulas in float64, outputs that stay, errors that shrink."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcompress as jc
from jaxcompress import quantize
from jaxcompress.interpreters.graph import Graph, Node, Window, operate
from jaxcompress.quantize import awq, smoothquant

SAME = Window((3, 3), (1, 1), ((1, 1), (1, 1)))
SHAPE = (1, 4, 4, 3)


def net(spread=1.0):
    """A convolution, a depthwise one, a pooling, a flattening and a dense layer; channels spread by factors."""
    nodes = (
        Node("conv", "convolution", ("input",), (1, 4, 4, 6), window=SAME, activation="relu"),
        Node("depthwise", "convolution", ("conv",), (1, 4, 4, 6), window=SAME._replace(groups=6), activation="relu"),
        Node("max", "max_pool", ("depthwise",), (1, 2, 2, 6), window=Window((2, 2), (2, 2), ((0, 0), (0, 0)))),
        Node("flat", "reshape", ("max",), (1, 24)),
        Node("fc", "dense", ("flat",), (1, 8)),
    )
    draw = np.random.default_rng(0)
    sizes = {"conv": (3, 3, 3, 6), "depthwise": (3, 3, 1, 6), "fc": (24, 8)}
    weights = {
        name: {
            "kernel": jnp.asarray(draw.normal(size=size) * np.exp(spread * draw.normal(size=size[-1])), jnp.float32),
            "bias": jnp.asarray(draw.normal(size=size[-1]), jnp.float32),
        }
        for name, size in sizes.items()
    }
    batches = [jnp.asarray(draw.normal(size=(n, *SHAPE[1:])), jnp.float32) for n in (12, 5)]
    return Graph(nodes, SHAPE, "fc"), weights, batches


def two_layers(hidden, second):
    """The identity, so that hidden units are the inputs, and a dense layer."""
    nodes = (Node("fc1", "dense", ("input",), (1, hidden)), Node("fc2", "dense", ("fc1",), (1, second.shape[1])))
    weights = {
        "fc1": {"kernel": jnp.eye(hidden), "bias": jnp.zeros(hidden)},
        "fc2": {"kernel": jnp.asarray(second, jnp.float32), "bias": jnp.zeros(second.shape[1])},
    }
    return Graph(nodes, (1, hidden), "fc2"), weights


def tensors(graph, weights, batches):
    x = jnp.concatenate(batches)
    return graph.values(lambda node, inputs: operate(node, weights.get(node.name, {}), inputs), x)


RULES = {"smoothquant": smoothquant, "awq": awq}


@pytest.mark.parametrize("rule", RULES)
def test_outputs_stay_and_what_cannot_move_is_told(rule):
    graph, weights, batches = net()
    found = RULES[rule](graph, weights, batches)
    assert [pair[:2] for pair in found.pairs] == [("conv", "depthwise"), ("depthwise", "fc")]
    assert found.blocked.keys() == {"fc"}
    changed = [float(np.abs(found.weights[n]["kernel"] / weights[n]["kernel"] - 1).max()) for n in weights]
    assert min(changed) > 0.01
    expected = graph(weights, batches[0])
    np.testing.assert_allclose(graph(found.weights, batches[0]), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.75, 1.0])
def test_smoothquant_is_equation_4(alpha):
    graph, weights, batches = net()
    found = smoothquant(graph, weights, batches, alpha=alpha).weights
    values = {name: np.asarray(x, np.float64) for name, x in tensors(graph, weights, batches).items()}
    kernels = {name: np.asarray(layer["kernel"], np.float64) for name, layer in weights.items()}
    # The depthwise convolution meets conv's channels one by one; fc meets each of depthwise's four times.
    met1, met2 = np.abs(values["conv"]).max((0, 1, 2)), np.abs(values["max"]).max((0, 1, 2))
    weight1, weight2 = np.abs(kernels["depthwise"]).max((0, 1, 2)), np.abs(kernels["fc"]).reshape(4, 6, 8).max((0, 2))
    s1, s2 = (m**alpha / w ** (1 - alpha) for m, w in ((met1, weight1), (met2, weight2)))
    np.testing.assert_allclose(found["conv"]["kernel"], kernels["conv"] / s1, rtol=1e-4)
    np.testing.assert_allclose(found["depthwise"]["kernel"], kernels["depthwise"] * s1 / s2, rtol=1e-4)
    np.testing.assert_allclose(found["fc"]["kernel"], kernels["fc"] * np.tile(s2, 4)[:, None], rtol=1e-4)


def rounded_columns(weight, bits, axis):
    step = np.abs(weight).max(axis, keepdims=True) / (2 ** (bits - 1) - 1)
    return np.round(weight / step) * step


@pytest.mark.parametrize(("granularity", "axis"), [("channel", 0), ("tensor", None)])
@pytest.mark.parametrize("bits", [3, 4])
def test_awq_finds_the_alpha_of_least_error(bits, granularity, axis):
    draw = np.random.default_rng(bits)
    second, loud = draw.normal(size=(16, 5)), np.exp(1.5 * draw.normal(size=16))
    x = (draw.normal(size=(200, 16)) * loud).astype(np.float32)
    graph, weights = two_layers(16, second)
    batches = [jnp.asarray(x[:150]), jnp.asarray(x[150:])]
    found = awq(graph, weights, batches, bits=bits, granularity=granularity, points=10).weights
    exact, kernel = x.astype(np.float64), second.astype(np.float32).astype(np.float64)
    scales = [np.abs(exact).mean(0) ** (i / 10) for i in range(11)]
    errors = [
        np.square(exact / s @ rounded_columns(kernel * s[:, None], bits, axis) - exact @ kernel).sum() for s in scales
    ]
    best = scales[int(np.argmin(errors))]
    assert 0 < np.argmin(errors)
    best = best / np.sqrt(best.max() * best.min())
    np.testing.assert_allclose(found["fc2"]["kernel"], kernel * best[:, None], rtol=1e-4)
    np.testing.assert_allclose(np.diag(found["fc1"]["kernel"]), 1 / best, rtol=1e-4)


def test_awq_keeps_the_outputs_of_rounded_weights_better():
    draw = np.random.default_rng(0)
    graph, weights = two_layers(16, draw.normal(size=(16, 5)))
    x = jnp.asarray(draw.normal(size=(200, 16)) * np.where(np.arange(16) < 2, 20, 1), jnp.float32)  # two outliers

    def error(tree):
        rounded = jc.densify(quantize.weights(".*/kernel", 4).init(tree))
        return float(jnp.sum((graph(rounded, x) - graph(weights, x)) ** 2))

    assert error(awq(graph, weights, [x], bits=4).weights) < 0.5 * error(weights)


def test_smoothquant_keeps_the_outputs_of_rounded_activations_better():
    draw = np.random.default_rng(0)
    graph, weights = two_layers(16, draw.normal(size=(16, 5)))
    x = jnp.asarray(draw.normal(size=(100, 16)) * np.where(np.arange(16) < 2, 100, 1), jnp.float32)  # two outliers
    weights["fc2"]["kernel"] = weights["fc2"]["kernel"].at[:2].multiply(0.01)

    def error(tree):
        grids = quantize.calibrate(graph, tree, [x]) | {"input": quantize.calibrate(graph, tree, [x / 1e3])["input"]}
        values = tensors(graph, tree, [x])["fc1"]
        codes = jnp.round(values / grids["fc1"].scale) * grids["fc1"].scale
        return float(jnp.mean((codes @ tree["fc2"]["kernel"] - graph(weights, x)) ** 2))

    assert error(smoothquant(graph, weights, [x]).weights) < 0.1 * error(weights)


VALUES = st.lists(st.floats(-9, 9, width=32) | st.sampled_from([0.0, 1e-42, 1e-30]), min_size=6, max_size=6)


@given(VALUES, VALUES)
@settings(max_examples=5, deadline=None)
def test_dead_channels_keep_scale_one(inputs, column):
    met, weight = np.array([*inputs, 0, 1e-42, 2, 2], np.float32), np.array([*column, 3, 3, 0, 1e-42], np.float32)
    graph, weights = two_layers(10, np.stack([weight, -weight], axis=1))
    x = jnp.asarray(met[None])
    for rule in (smoothquant, lambda *args: awq(*args, points=2)):
        found = rule(graph, weights, [x]).weights
        assert all(np.all(np.isfinite(leaf)) for layer in found.values() for leaf in layer.values())
        scales = 1 / np.diag(found["fc1"]["kernel"])
        dead = np.abs(met) < 1e-38
        assert np.all(scales[dead | (np.abs(weight) < 1e-38) if rule is smoothquant else dead] == 1)
        np.testing.assert_allclose(graph(found, x), graph(weights, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "options", "words"),
    [
        (smoothquant, {"alpha": 1.5}, "alpha 1.5 is not in"),
        (awq, {"bits": 9}, "bits 9"),
        (awq, {"points": 0}, "points 0"),
        (awq, {"granularity": "row"}, "granularity 'row' is not one of tensor, channel"),
    ],
)
def test_bad_options_are_refused(rule, options, words):
    graph, weights = two_layers(2, np.ones((2, 2)))
    with pytest.raises(ValueError, match=words):
        rule(graph, weights, [jnp.ones((1, 2))], **options)


@pytest.mark.parametrize("rule", RULES)
def test_no_batches_and_values_that_are_not_finite_are_refused(rule):
    graph, weights = two_layers(2, np.ones((2, 2)))
    with pytest.raises(ValueError, match="no batches"):
        RULES[rule](graph, weights, [])
    with pytest.raises(ValueError, match="inputs of fc2 are not finite"):
        RULES[rule](graph, weights, [jnp.array([[1.0, jnp.nan]])])
    weights["fc2"]["kernel"] = weights["fc2"]["kernel"].at[0, 0].set(jnp.nan)
    with pytest.raises(ValueError, match="fc2/kernel holds NaN"):
        RULES[rule](graph, weights, [jnp.ones((1, 2))])
