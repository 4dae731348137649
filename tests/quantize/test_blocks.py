"""Checks the blocks of a graph: by hand, by all paths of drawn graphs, and that in order they are the graph."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.interpreters.graph import Graph, Node, operate
from jaxcompress.quantize.blocks import blocks
from tests.graphs import chain, drawn, inputs, residual


def cuts(found):
    return [(block.source, block.graph.output, block.layers) for block in found]


def test_a_residual_block_is_one_and_what_has_no_layer_stands_alone():
    assert cuts(blocks(*residual())) == [
        ("input", "stem", ("stem",)),
        ("stem", "pool", ()),
        ("pool", "sum", ("first", "second", "short")),
        ("sum", "mean", ()),
        ("mean", "head", ("head",)),
    ]


def test_blocks_are_joined_until_they_have_so_many_layers():
    assert cuts(blocks(*residual(), layers=2)) == [
        ("input", "sum", ("stem", "first", "second", "short")),
        ("sum", "mean", ()),
        ("mean", "head", ("head",)),
    ]
    assert cuts(blocks(*chain(5, 4, 3, 2), layers=2)) == [("input", "fc2", ("fc1", "fc2")), ("fc2", "fc3", ("fc3",))]
    (whole,) = blocks(*chain(5, 4, 3, 2), layers=9)
    assert whole.graph == chain(5, 4, 3, 2)[0] and whole.layers == ("fc1", "fc2", "fc3")


def test_a_skip_past_everything_makes_one_block():
    shape = (1, 4)
    nodes = (
        Node("a", "dense", ("input",), shape),
        Node("b", "dense", ("a",), shape),
        Node("c", "add", ("b", "input"), shape),
    )
    weights = {name: {"kernel": drawn(4, 4), "bias": drawn(4)} for name in "ab"}
    assert cuts(blocks(Graph(nodes, shape, "c"), weights)) == [("input", "c", ("a", "b"))]


@pytest.mark.parametrize("layers", [1, 2, 3, 9])
@pytest.mark.parametrize("net", [residual(), chain(5, 4, 3, 2)], ids=["residual", "chain"])
def test_blocks_in_order_are_the_graph(net, layers):
    graph, weights = net
    x = inputs(graph)
    out = x
    for block in blocks(graph, weights, layers):
        out = block.graph(weights, out)
    np.testing.assert_allclose(out, graph(weights, x), atol=1e-6)
    names = [node.name for block in blocks(graph, weights, layers) for node in block.graph.nodes]
    assert names == [node.name for node in graph.nodes]


@st.composite
def nets(draw):
    """Sums of one or two earlier tensors, of which only those that lead to the last are kept."""
    names, nodes = ["input"], []
    for i in range(draw(st.integers(1, 9))):
        near = [names[max(0, len(names) - 1 - draw(st.integers(0, 3)))] for _ in range(2)]
        nodes.append(Node(f"n{i}", "add", tuple(near), (1, 2)))
        names.append(f"n{i}")
    needed = {names[-1]}
    for node in reversed(nodes):
        needed |= set(node.inputs) if node.name in needed else set()
    return Graph(tuple(node for node in nodes if node.name in needed), (1, 2), names[-1])


@settings(deadline=None, max_examples=200)
@given(nets())
def test_a_cut_is_a_tensor_on_all_paths(graph):
    inputs_of = {node.name: set(node.inputs) for node in graph.nodes}

    def paths(name):
        return [[name]] if name == "input" else [[*path, name] for source in inputs_of[name] for path in paths(source)]

    on_all = set.intersection(*map(set, paths(graph.output)))
    found = blocks(graph, {})
    assert [block.graph.output for block in found] == [node.name for node in graph.nodes if node.name in on_all]
    x = np.ones((3, 2), np.float32)
    out = x
    for block in found:
        out = block.graph({}, out)
    np.testing.assert_array_equal(out, graph.run(lambda node, values: operate(node, {}, values), x))


def test_what_leads_nowhere_is_refused():
    graph, weights = chain(5, 4, 3)
    with pytest.raises(ValueError, match="fc2 does not lead to the output, fc1"):
        blocks(Graph(graph.nodes, graph.input_shape, "fc1"), weights)
    with pytest.raises(ValueError, match="layers 0 of a block"):
        blocks(graph, weights, 0)
