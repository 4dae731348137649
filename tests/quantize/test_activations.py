"""Checks the grids of activations by hand, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import quantize
from jaxcompress.interpreters.graph import Graph, Node, Window
from jaxcompress.interpreters.integers import decode, encode
from jaxcompress.quantize.activations import on_grid, tensors
from tests.nets import grid

TWICE = Window((2, 2), (2, 2), ((0, 0), (0, 0)))
SHAPE = (1, 6, 6, 4)


def drawn(*shape, seed=0, scale=1.0):
    return jnp.asarray(np.random.default_rng(seed).normal(0, scale, shape), jnp.float32)


def quick_jit(function):
    """Compiles with little optimisation: these programs run once."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def small_net():
    """A stem, a pooled branch, a residual sum and a head: everything that shares a grid, and what does not."""
    half = (1, 3, 3, 4)
    same = Window((3, 3), (1, 1), ((1, 1), (1, 1)))
    nodes = (
        Node("stem", "convolution", ("input",), SHAPE, window=same, activation="relu"),
        Node("max", "max_pool", ("stem",), half, window=TWICE),
        Node("average", "average_pool", ("stem",), half, window=TWICE),
        Node("both", "concatenate", ("max", "average"), (1, 3, 3, 8), axes=(3,)),
        Node("pointwise", "convolution", ("both",), half, window=Window((1, 1), (1, 1), ((0, 0), (0, 0)))),
        Node("add", "add", ("pointwise", "max"), half),
        Node("mean", "mean", ("add",), (1, 4), axes=(1, 2)),
        Node("head", "dense", ("mean",), (1, 3)),
    )
    kernels = {"stem": (3, 3, 4, 4), "pointwise": (1, 1, 8, 4), "head": (4, 3)}
    weights = {
        name: {"kernel": drawn(*shape, seed=i, scale=0.3), "bias": drawn(shape[-1], seed=i + 9)}
        for i, (name, shape) in enumerate(kernels.items())
    }
    return Graph(nodes, SHAPE, "head"), weights


def dense_net(kernel, bias=(0.0, 0.0)):
    graph = Graph((Node("fc", "dense", ("input",), (1, 2)),), (1, 3), "fc")
    return graph, {"fc": {"kernel": kernel, "bias": jnp.asarray(bias, jnp.float32)}}


BATCHES = [drawn(4, *SHAPE[1:], seed=20), drawn(3, *SHAPE[1:], seed=21) + 1]


# Calibration


def test_tensors_share_grids_by_hand():
    assert tensors(small_net()[0]) == {
        "input": "input",
        **dict.fromkeys(["stem", "max", "average", "both"], "stem"),
        "pointwise": "pointwise",
        "add": "add",
        "mean": "mean",
        "head": "head",
    }


def test_a_concatenation_brings_its_inputs_to_the_first_ones_grid():
    shape = (1, 4)
    nodes = (
        Node("a", "dense", ("input",), shape),
        Node("b", "dense", ("input",), shape),
        Node("flat", "reshape", ("b",), shape),
        Node("all", "concatenate", ("flat", "a"), (1, 8), axes=(1,)),
        Node("again", "concatenate", ("all", "input"), (1, 12), axes=(1,)),
    )
    assert set(tensors(Graph(nodes, shape, "again")).values()) == {"input"}
    assert tensors(Graph(nodes[:4], shape, "all")) == {
        "input": "input",
        **dict.fromkeys(["a", "b", "flat", "all"], "a"),
    }


def test_calibration_equals_the_extremes_by_hand():
    graph, weights = dense_net(jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), (0.0, 0.5))
    batches = [jnp.array([[1.0, -2.0, 0.0]]), jnp.array([[3.0, 1.0, -4.0], [0.0, 0.0, 2.0]])]
    grids = quantize.calibrate(graph, weights, batches)
    # The input spans -4..3; the outputs -1.5..3.
    for name, low, high in (("input", -4.0, 3.0), ("fc", -1.5, 3.0)):
        assert grids[name].scale == np.float32((high - low) / 255)
        assert grids[name].zero_point == round(-128 - low / ((high - low) / 255))
        assert isinstance(grids[name].zero_point, int) and isinstance(grids[name].scale, np.float32)


def test_shared_tensors_are_observed_together():
    graph, weights = small_net()
    grids = quantize.calibrate(graph, weights, BATCHES)
    assert grids["stem"] == grids["max"] == grids["average"] == grids["both"]
    stem = Graph(graph.nodes[:1], SHAPE, "stem")
    largest = max(float(stem(weights, x).max()) for x in BATCHES)
    assert grids["stem"].zero_point == -128  # after a ReLU
    np.testing.assert_allclose(grids["stem"].scale * 255, largest, rtol=1e-5)


def test_calibration_does_not_depend_on_how_the_batches_are_cut():
    graph, weights = small_net()
    whole = quantize.calibrate(graph, weights, [jnp.concatenate(BATCHES)])
    assert whole.keys() == {"input", *(node.name for node in graph.nodes)}
    for name, found in quantize.calibrate(graph, weights, iter(BATCHES)).items():
        assert found.zero_point == whole[name].zero_point
        np.testing.assert_allclose(found.scale, whole[name].scale, rtol=1e-5)


@pytest.mark.parametrize(("bits", "smallest", "largest"), [(2, -2, 1), (3, -4, 3), (8, -128, 127), (16, -32768, 32767)])
def test_grids_of_other_bits_by_hand(bits, smallest, largest):
    graph, weights = dense_net(jnp.eye(3)[:, :2])
    of = quantize.calibrate(graph, weights, [jnp.array([[1.0, -2.0, 4.0]])], bits=bits)["input"]
    assert (of.bits, of.smallest, of.largest) == (bits, smallest, largest)
    if bits == 16:  # symmetric, and without the smallest code
        assert of.zero_point == 0 and of.scale == np.float32(4 / 32767)
    else:
        assert of.scale == np.float32(6 / (2**bits - 1)) and of.zero_point == round(smallest + 2 / float(of.scale))
    every = decode(jnp.arange(smallest, largest + 1, dtype=jnp.int32), of)
    np.testing.assert_array_equal(on_grid(every, of), every)
    assert on_grid(jnp.array([1e9, -1e9]), of).tolist() == [every[-1], every[0]]


@pytest.mark.parametrize("bits", [1, 9, 32, 8.5])
def test_bits_without_a_grid_are_refused(bits):
    with pytest.raises(ValueError, match="bits are from 2 to 8, or 16"):
        quantize.calibrate(*small_net(), BATCHES, bits=bits)


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="the calibration set is empty"):
        quantize.calibrate(*small_net(), [])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    graph, weights = dense_net(drawn(3, 2))
    with pytest.raises(ValueError, match="NaN or infinity|not finite"):
        quantize.calibrate(graph, weights, [jnp.ones((2, 3)), jnp.array([[0.0, value, 1.0]])])


# Training


@given(
    st.floats(2.0**-20, 2.0**20, width=32), st.integers(-128, 127), st.lists(st.floats(-9, 9), min_size=4, max_size=4)
)
@settings(max_examples=50, deadline=None)
def test_values_on_a_grid_stay_and_others_go_to_the_nearest(scale, zero, steps):
    of = grid(scale, zero)
    every = decode(jnp.arange(-128, 128).astype(jnp.int8), of)
    np.testing.assert_array_equal(on_grid(every, of), every)
    values = jnp.asarray(np.array(steps) * 30 * scale, jnp.float32)
    rounded = np.asarray(on_grid(values, of), np.float64)
    nearest = np.abs(np.asarray(every, np.float64)[:, None] - np.asarray(values, np.float64)).min(0)
    np.testing.assert_allclose(np.abs(rounded - np.asarray(values, np.float64)), nearest, atol=1e-4 * scale)
    np.testing.assert_array_equal(rounded, decode(encode(values, of), of))


def test_gradients_pass_inside_and_stop_outside():
    of = grid(0.5, 28)  # -78 to 49.5
    values = jnp.array([-78.1, -77.9, 0.2, 49.4, 49.6])
    assert jax.grad(lambda x: jnp.sum(on_grid(x, of)))(values).tolist() == [0, 1, 1, 1, 0]


def test_fake_quantized_tensors_lie_on_their_grids():
    graph, weights = small_net()
    weights = quantize.weights(".*/kernel", 8).init(weights)
    grids = quantize.calibrate(graph, weights, BATCHES)
    parts = [Graph(graph.nodes[: i + 1], SHAPE, graph.nodes[i].name) for i in range(len(graph.nodes))]
    outputs = quick_jit(lambda x: [quantize.fake_quantized(part, weights, grids)(x) for part in parts])(BATCHES[1])
    for part, out in zip(parts, outputs, strict=True):
        of = grids[part.output]
        np.testing.assert_array_equal(decode(encode(out, of), of), out, err_msg=part.output)


def test_fake_quantized_biases_are_whole_numbers_of_the_sum_and_trained():
    graph, weights = dense_net(drawn(3, 2), (0.3, -7.0))
    weights = quantize.weights(".*/kernel", 8).init(weights)
    grids = {"input": grid(0.25, 0), "fc": grid(1e-3, 0)}

    def run(bias):
        layer = {"fc": weights["fc"] | {"bias": bias}}
        return quantize.fake_quantized(graph, layer, grids)(jnp.zeros((1, 3)))[0]

    unit = 0.25 * np.asarray(weights["fc"]["kernel"].integers()[1]).reshape(-1)
    np.testing.assert_allclose(run(jnp.array([0.03, -0.07])), np.round([0.03, -0.07] / unit) * unit, atol=6e-4)
    assert jax.grad(lambda bias: run(bias).sum())(jnp.array([0.03, -0.07])).tolist() == [1, 1]


def test_fake_quantized_gradients_reach_the_weights():
    graph, weights = small_net()
    grids = quantize.calibrate(graph, weights, BATCHES)

    def loss(weights, rounds):
        leaves = quantize.weights(".*/kernel", 8).init(weights)
        run = quantize.fake_quantized(graph, leaves, grids) if rounds else lambda x: graph(leaves, x)
        return jnp.sum(run(BATCHES[0]) ** 2)

    rounded, plain = quick_jit(lambda w: [jax.grad(loss)(w, rounds) for rounds in (True, False)])(weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.05 * np.abs(b).max()), rounded, plain)
