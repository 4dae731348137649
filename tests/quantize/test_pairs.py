"""Which layers may exchange scales, and that the network stays the same when they do."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.arrays import Masked
from jaxcompress.interpreters.graph import Graph, Node, Window
from jaxcompress.quantize.pairs import by_input, largest_by_input, pairs, rescale, to_channels

ONE = Window((1, 1), (1, 1), ((0, 0), (0, 0)))
SAME = Window((3, 3), (1, 1), ((1, 1), (1, 1)))
TWICE = Window((2, 2), (2, 2), ((0, 0), (0, 0)))
IMAGE = (1, 4, 4, 4)


def drawn(*shape, seed=0, scale=1.0):
    return jnp.asarray(np.random.default_rng(seed).normal(0, scale, shape), jnp.float32)


def chain(*nodes, given_=IMAGE):
    """Builds a graph in which every node without inputs follows the one before."""
    placed, last = [], "input"
    for node in nodes:
        placed.append(node if node.inputs else Node(**{**vars(node), "inputs": (last,)}))
        last = node.name
    return Graph(tuple(placed), given_, last)


def conv(name, outputs=4, window=ONE, shape=(1, 4, 4), activation=None):
    return Node(name, "convolution", (), (*shape, outputs), window=window, activation=activation)


def test_a_flattened_channel_is_many_inputs():
    graph = chain(
        conv("conv", outputs=3, activation="relu"),
        Node("pool", "max_pool", (), (1, 2, 2, 3), window=TWICE),
        Node("flat", "reshape", (), (1, 12)),
        Node("fc", "dense", (), (1, 5)),
    )
    (pair,), blocked = pairs(graph)
    assert pair == ("conv", "fc", (0, 1, 2) * 4, False)
    assert blocked == {"fc": "fc is the output of the graph"}
    values = jnp.array([1.0, 0, 5, 4, 0, 2, 0, 0, 1, 3, 0, 0])
    np.testing.assert_array_equal(to_channels(graph, pair, values), [4, 0, 5])
    np.testing.assert_array_equal(to_channels(graph, pair, values, largest=False), [2, 0, 2])


def test_channels_that_move_are_followed():
    graph = chain(
        conv("conv", outputs=3),
        Node("turn", "transpose", (), (1, 3, 4, 4), axes=(0, 3, 1, 2)),
        Node("flat", "reshape", (), (1, 48)),
        Node("part", "slice", (), (1, 20), extents=((0, 1, 1), (4, 44, 2))),
        Node("fc", "dense", (), (1, 5)),
    )
    (pair,), _ = pairs(graph)
    assert pair.channels == tuple(j // 16 for j in range(4, 44, 2))


@pytest.mark.parametrize(
    ("window", "between", "padded"),
    [
        (ONE, (), False),
        (SAME, (), True),
        (TWICE, (Node("pad", "pad", (), (1, 5, 5, 4), extents=((0, 0), (0, 1), (0, 1), (0, 0))),), True),
        (ONE, (Node("pool", "average_pool", (), IMAGE, window=SAME),), False),
    ],
)
def test_zeros_of_padding_are_noticed(window, between, padded):
    (pair,), _ = pairs(chain(conv("first"), *between, conv("second", window=window)))
    assert pair == ("first", "second", (0, 1, 2, 3), padded)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ((conv("a", activation="relu6"), conv("b")), "a ends in relu6"),
        ((conv("a"), Node("cut", "relu6", (), IMAGE), conv("b")), "cut ends in relu6"),
        ((conv("a"), Node("add", "add", ("a", "input"), IMAGE), conv("b")), "add, a add, joins"),
        ((conv("a"), conv("b"), Node("add", "add", ("a", "b"), IMAGE)), "a is used 2 times"),
        ((conv("a"), Node("add", "add", ("a", "a"), IMAGE), conv("b")), "a is used 2 times"),
        ((conv("a"), Node("s", "softmax", (), IMAGE), conv("b")), "s, a softmax, joins"),
        ((conv("a"), Node("m", "mean", (), (1, 4, 4), axes=(3,)), Node("b", "dense", (), (1, 4, 2))), "m, a mean"),
        ((conv("a"), Node("flat", "reshape", (), (1, 4, 16)), Node("b", "dense", (), (1, 4, 2))), None),
        ((conv("a"), Node("flat", "reshape", (), (1, 32, 2)), Node("b", "dense", (), (1, 32, 2))), "several"),
        ((conv("a", 6), Node("r", "reshape", (), (1, 6, 4, 4)), Node("p", "max_pool", (), (1, 3, 2, 4), window=TWICE),
          conv("b", shape=(1, 3, 2))), "p, a max_pool"),
    ],
)  # fmt: skip
def test_what_stands_between_is_told(nodes, reason):
    found, blocked = pairs(chain(*nodes))
    if reason is None:
        assert found[0].channels == (0, 1, 2, 3) * 4
    else:
        assert reason in blocked["a"] and all(pair.first != "a" for pair in found)


def test_an_output_that_is_also_used_keeps_its_scale():
    graph = chain(conv("a"), conv("b"))
    assert "output" in pairs(Graph(graph.nodes, IMAGE, "a"))[1]["a"]


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_inputs_of_grouped_kernels_by_loops(groups):
    kernel = np.asarray(drawn(3, 2, 6 // groups, 12))
    node = Node("c", "convolution", (), (1, 4, 4, 12), window=SAME._replace(groups=groups))
    vector = np.arange(1.0, 7.0, dtype=np.float32)
    factors, largest = np.zeros((6 // groups, 12)), np.zeros(6)
    for output in range(12):
        group = output // (12 // groups)
        for row in range(6 // groups):
            channel = group * (6 // groups) + row
            factors[row, output] = vector[channel]
            largest[channel] = max(largest[channel], np.abs(kernel[:, :, row, output]).max())
    np.testing.assert_array_equal(by_input(node, kernel.shape, jnp.asarray(vector))[0, 0], factors)
    np.testing.assert_array_equal(largest_by_input(node, jnp.asarray(kernel)), largest.astype(np.float32))


# Random graphs. Few shapes, so that few operations have to be compiled.

OPERATIONS = {
    "same": lambda name: [conv(name, window=SAME, activation="relu")],
    "plain": lambda name: [conv(name)],
    "relu6": lambda name: [conv(name, activation="relu6")],
    "depthwise": lambda name: [conv(name, window=SAME._replace(groups=4), activation="relu")],
    "grouped": lambda name: [conv(name, window=ONE._replace(groups=2))],
    "relu": lambda name: [Node(name, "relu", (), IMAGE)],
    "max": lambda name: [Node(name, "max_pool", (), IMAGE, window=SAME)],
    "average": lambda name: [Node(name, "average_pool", (), IMAGE, window=SAME)],
    "turn": lambda name: [Node(name, "transpose", (), IMAGE, axes=(0, 2, 1, 3))],
    "pad": lambda name: [
        Node(name + "p", "pad", (), (1, 6, 6, 4), extents=((0, 0), (1, 1), (1, 1), (0, 0))),
        conv(name, window=SAME._replace(padding=((0, 0), (0, 0)))),
    ],
    "residual": lambda name: [
        conv(name, activation="relu"),
        conv(name + "b"),
        Node(name + "s", "add", (name, name + "b"), IMAGE, activation="relu"),
    ],
    "both": lambda name: [Node(name, "add", ("input", "input"), IMAGE)],
}
ENDS = {
    "mean": Node("end", "mean", (), (1, 4), axes=(1, 2)),
    "keep": Node("end", "mean", (), (1, 1, 1, 4), axes=(1, 2)),
    "flat": Node("end", "reshape", (), (1, 64)),
}


@given(st.lists(st.sampled_from(sorted(OPERATIONS)), max_size=6), st.sampled_from(sorted(ENDS)), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_random_graphs_compute_the_same_under_any_scales(operations, end, seed):
    inner = [node for i, word in enumerate(operations) for node in OPERATIONS[word](f"{word}{i}")]
    first = ENDS[end].shape
    graph = chain(
        *inner,
        ENDS[end],
        Node("fc1", "dense", (), (*first[:-1], 8), activation="relu"),
        Node("fc2", "dense", (), (*first[:-1], 3)),
    )
    draw = np.random.default_rng(seed)
    weights, inputs = {}, {"input": 4} | {node.name: node.shape[-1] for node in graph.nodes}
    for node in graph.nodes:
        if node.kind in ("convolution", "dense"):
            rows = inputs[node.inputs[0]] // (node.window.groups if node.window else 1)
            size = (*(node.window.size if node.window else ()), rows, node.shape[-1])
            kernel, bias = draw.normal(0, 0.5, size), draw.normal(0, 1, size[-1:])
            weights[node.name] = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    found, blocked = pairs(graph)
    assert {pair.first for pair in found} | blocked.keys() == weights.keys() and found[-1][:2] == ("fc1", "fc2")
    scales = {p: jnp.asarray(np.exp(draw.uniform(-3, 3, len(weights[p.first]["bias"]))), jnp.float32) for p in found}
    x = jnp.asarray(draw.normal(0, 3, (2, *IMAGE[1:])), jnp.float32)
    before, after = graph(weights, x), graph(rescale(graph, weights, scales), x)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=2e-5 * np.abs(before).max())


def test_compressed_leaves_become_the_arrays_that_they_mean():
    graph = chain(Node("fc1", "dense", (), (1, 3)), Node("fc2", "dense", (), (1, 2)), given_=(1, 2))
    kernel, mask = drawn(2, 3), jnp.array([[True, False, True], [False, True, True]])
    weights = {
        "fc1": {"kernel": Masked(kernel, mask), "bias": jnp.ones(3)},
        "fc2": {"kernel": drawn(3, 2), "bias": jnp.zeros(2)},
    }
    (pair,), _ = pairs(graph)
    scaled = rescale(graph, weights, {pair: jnp.array([2.0, 4, 8])})
    np.testing.assert_array_equal(scaled["fc1"]["kernel"], jnp.where(mask, kernel, 0) / jnp.array([[2.0, 4, 8]]))
    np.testing.assert_array_equal(scaled["fc1"]["bias"], [0.5, 0.25, 0.125])
    np.testing.assert_array_equal(scaled["fc2"]["kernel"], weights["fc2"]["kernel"] * jnp.array([[2.0], [4], [8]]))
