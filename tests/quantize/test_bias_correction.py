"""Corrected biases: means that are the float network's, measured and in closed form."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress import quantize
from jaxcompress.arrays import dense
from jaxcompress.interpreters.graph import Graph, Node, Window, operate
from jaxcompress.interpreters.integers import decode, encode
from jaxcompress.quantize import Moments, correct_bias, correct_bias_by_moments
from jaxcompress.quantize.activations import fake_quantized_values

SAME = Window((3, 3), (1, 1), ((1, 1), (1, 1)))
SHAPE = (1, 6, 6, 4)
HALF = (1, 3, 3, 4)
TWICE = Window((2, 2), (2, 2), ((0, 0), (0, 0)))


def drawn(*shape, seed=0, scale=1.0):
    return jnp.asarray(np.random.default_rng(seed).normal(0, scale, shape), jnp.float32)


def quick_jit(function):
    """Compiles with little optimisation: these programs run once."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def net():
    """A stem, a pooled branch, a residual sum and a head, with inputs and the grids for them."""
    nodes = (
        Node("stem", "convolution", ("input",), SHAPE, window=SAME, activation="relu"),
        Node("max", "max_pool", ("stem",), HALF, window=TWICE),
        Node("depthwise", "convolution", ("max",), HALF, window=SAME._replace(groups=4), activation="relu6"),
        Node("add", "add", ("depthwise", "max"), HALF, activation="relu"),
        Node("mean", "mean", ("add",), (1, 4), axes=(1, 2)),
        Node("head", "dense", ("mean",), (1, 3)),
    )
    kernels = {"stem": (3, 3, 4, 4), "depthwise": (3, 3, 1, 4), "head": (4, 3)}
    weights = {
        name: {"kernel": drawn(*shape, seed=i, scale=0.4), "bias": drawn(shape[-1], seed=i + 9)}
        for i, (name, shape) in enumerate(kernels.items())
    }
    batches = [drawn(24, *SHAPE[1:], seed=20), drawn(8, *SHAPE[1:], seed=21) + 0.5]
    graph = Graph(nodes, SHAPE, "head")
    return graph, weights, batches, quantize.calibrate(graph, weights, batches)


def one_layer(node, kernel, difference, shape):
    """A network of one layer, and its rounded self: the kernel and a difference."""
    weights = {node.name: {"kernel": kernel, "bias": jnp.ones(kernel.shape[-1])}}
    rounded = {node.name: {"kernel": kernel + difference, "bias": jnp.ones(kernel.shape[-1])}}
    return Graph((node,), shape, node.name), weights, rounded


# Measured


@pytest.mark.parametrize("bits", [3, 8])
def test_means_before_every_activation_become_the_float_networks(net, bits):
    graph, weights, batches, grids = net
    rounded = quantize.weights(".*/kernel", bits, granularity="tensor").init(weights)
    corrected = correct_bias(graph, weights, rounded, grids, batches)
    x = jnp.concatenate(batches)

    @quick_jit
    def shifts(tree):
        floats = graph.values(lambda node, inputs: operate(node, weights.get(node.name, {}), inputs), x)
        values = fake_quantized_values(graph, tree, grids, x)
        found = []
        for name in weights:
            node = replace(graph.node(name), activation=None)
            made = operate(node, tree[name], [values[node.inputs[0]]])
            wanted = operate(node, weights[name], [floats[node.inputs[0]]])
            found.append(jnp.abs(jnp.mean(made - wanted, axis=tuple(range(made.ndim - 1)))).max())
        return jnp.stack(found)

    # What is left is the rounding of sums, and that of the biases before, to the accumulators' units.
    unit = max(
        float(grids[graph.node(n).inputs[0]].scale * np.max(rounded[n]["kernel"].integers()[1])) for n in weights
    )
    assert np.all(shifts(corrected) < 5 * unit + 1e-5)
    assert np.all(shifts(corrected) < 0.5 * shifts(rounded))
    assert all(corrected[name]["kernel"] is rounded[name]["kernel"] for name in weights)


def test_the_mean_error_of_the_output_falls(net):
    graph, weights, batches, grids = net
    rounded = quantize.post_training(graph, weights, grids, batches, bits=3, granularity="tensor")
    wanted = graph(weights, jnp.concatenate(batches))

    @quick_jit
    def error(tree):
        made = quantize.fake_quantized(graph, tree, grids)(jnp.concatenate(batches))
        return jnp.stack([jnp.abs(jnp.mean(made - wanted, axis=0)).max(), jnp.mean(jnp.square(made - wanted))])

    measured = error(correct_bias(graph, weights, rounded, grids, batches))
    closed = error(correct_bias_by_moments(graph, weights, rounded, quantize.moments(graph, weights, batches)))
    assert np.all(measured < 0.5 * error(rounded)) and measured[0] < 0.1 * error(rounded)[0]
    assert np.all(closed < 0.8 * error(rounded))


def test_the_mean_error_of_the_integers_of_a_device_falls(net):
    graph, weights, batches, grids = net
    rounded = jc.pack(quantize.weights(".*/kernel", 4, granularity="tensor").init(weights))
    x = jnp.concatenate(batches)

    def error(tree):
        run = quick_jit(jc.integers(quantize.to_integers(graph, tree, grids)))
        made = decode(run(encode(x, grids["input"])), grids["head"])
        return np.abs(np.mean(made - graph(weights, x), axis=0)).max()

    assert error(correct_bias(graph, weights, rounded, grids, batches)) < 0.2 * error(rounded)


def test_what_is_missing_is_refused(net):
    graph, weights, batches, grids = net
    with pytest.raises(ValueError, match="no batches"):
        correct_bias(graph, weights, weights, grids, [])
    with pytest.raises(ValueError, match="no rounded weights of stem"):
        correct_bias(graph, weights, {name: weights[name] for name in ("depthwise", "head")}, grids, batches)
    with pytest.raises(ValueError, match="range of head was never observed"):
        correct_bias(graph, weights, weights, {k: v for k, v in grids.items() if k != "head"}, batches)
    with pytest.raises(ValueError, match="not finite"):
        correct_bias(graph, weights, weights, grids, [batches[0].at[0, 0, 0, 0].set(jnp.nan)])


# In closed form


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_the_shift_behind_normals_is_that_of_many_draws(activation):
    before = Moments(jnp.array([0.5, -1.0, 5.0]), jnp.array([1.0, 0.7, 2.0]))
    nodes = (
        Node("fc1", "dense", ("input",), (1, 3), activation=activation),
        Node("fc2", "dense", ("fc1",), (1, 2)),
    )
    weights = {
        "fc1": {"kernel": jnp.diag(before.deviation), "bias": before.mean},
        "fc2": {"kernel": drawn(3, 2), "bias": jnp.zeros(2)},
    }
    rounded = quantize.weights("fc2/kernel", 3, granularity="tensor").init(weights)
    moments = {"input": Moments(jnp.zeros(3), jnp.ones(3)), "fc1": before}
    corrected = correct_bias_by_moments(Graph(nodes, (1, 3), "fc2"), weights, rounded, moments)
    draw = np.random.default_rng(1).standard_normal((400_000, 3))
    x = draw * np.asarray(before.deviation) + np.asarray(before.mean)
    x = x if activation is None else np.clip(x, 0, 6 if activation == "relu6" else None)
    error = np.asarray(dense(rounded["fc2"]["kernel"]) - weights["fc2"]["kernel"], np.float64)
    np.testing.assert_allclose(corrected["fc2"]["bias"], -(x @ error).mean(0), atol=0.003)
    np.testing.assert_array_equal(corrected["fc1"]["bias"], before.mean)


def test_the_sum_over_a_convolutions_kernel_by_hand():
    kernel, difference = jnp.zeros((3, 3, 1, 1)), jnp.full((3, 3, 1, 1), 0.5)
    moments = {"input": Moments(jnp.array([2.0]), jnp.array([1.0]))}
    valid = Node("c", "convolution", ("input",), (1, 2, 2, 1), window=SAME._replace(padding=((0, 0), (0, 0))))
    corrected = correct_bias_by_moments(*one_layer(valid, kernel, difference, (1, 4, 4, 1)), moments)
    np.testing.assert_allclose(corrected["c"]["bias"], [1 - 9 * 0.5 * 2])
    same = Node("c", "convolution", ("input",), (1, 4, 4, 1), window=SAME)
    corrected = correct_bias_by_moments(*one_layer(same, kernel, difference, (1, 4, 4, 1)), moments)
    # Of 16 places 4 see all nine weights, 8 six and 4 four.
    np.testing.assert_allclose(corrected["c"]["bias"], [1 - (4 * 9 + 8 * 6 + 4 * 4) / 16 * 0.5 * 2])


def test_means_pass_through_sums_pools_and_flattening():
    shape = (1, 2, 2, 2)
    one = Window((1, 1), (1, 1), ((0, 0), (0, 0)))
    nodes = (
        Node("a", "convolution", ("input",), shape, window=one, activation="relu"),
        Node("b", "convolution", ("input",), shape, window=one),
        Node("sum", "add", ("a", "b"), shape),
        Node("pool", "average_pool", ("sum",), shape, window=SAME),
        Node("flat", "reshape", ("pool",), (1, 8)),
        Node("fc", "dense", ("flat",), (1, 1)),
    )
    kernels = {"a": jnp.zeros((1, 1, 2, 2)), "b": jnp.zeros((1, 1, 2, 2)), "fc": jnp.zeros((8, 1))}
    weights = {name: {"kernel": k, "bias": jnp.zeros(k.shape[-1])} for name, k in kernels.items()}
    rounded = weights | {"fc": {"kernel": jnp.arange(8.0).reshape(8, 1), "bias": jnp.zeros(1)}}
    certain = Moments(jnp.array([3.0, -1.0]), jnp.zeros(2)), Moments(jnp.array([1.0, 10.0]), jnp.ones(2))
    moments = {"input": Moments(jnp.zeros(2), jnp.ones(2)), "a": certain[0], "b": certain[1]}
    corrected = correct_bias_by_moments(Graph(nodes, shape, "fc"), weights, rounded, moments)
    # Means of 3 + 1 and 0 + 10; the even inputs have weights 0 + 2 + 4 + 6, the odd ones 1 + 3 + 5 + 7.
    np.testing.assert_allclose(corrected["fc"]["bias"], [-(12 * 4 + 16 * 10)])


def test_measured_moments_suffice_and_missing_ones_are_named(net):
    graph, weights, batches, _ = net
    moments = quantize.moments(graph, weights, batches)
    corrected = correct_bias_by_moments(graph, weights, weights, moments)
    jax.tree.map(np.testing.assert_array_equal, corrected, weights)  # nothing was rounded
    for name, user in (("input", "stem"), ("max", "depthwise"), ("add", "mean")):
        with pytest.raises(ValueError, match=f"the mean of {name}, which {user} is given, needs moments"):
            correct_bias_by_moments(graph, weights, weights, {k: v for k, v in moments.items() if k != name})
    correct_bias_by_moments(graph, weights, weights, {k: v for k, v in moments.items() if k != "head"})
    with pytest.raises(ValueError, match="no rounded weights of stem, depthwise, head"):
        correct_bias_by_moments(graph, weights, {}, moments)
