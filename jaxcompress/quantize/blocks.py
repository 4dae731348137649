"""The blocks of a graph: what stands between two tensors that everything passes through."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from jaxcompress.interpreters.graph import INPUT, Graph, Node
from jaxcompress.paths import Params


class Block(NamedTuple):
    """Holds a part of a graph as a graph of its own, whose input stands for the tensor `source` of the whole.

    Its output is the name of the last of its nodes, and `layers` are those of them that have a kernel.
    """

    source: str
    graph: Graph
    layers: tuple[str, ...]


def blocks(graph: Graph, weights: Params, layers: int = 1) -> list[Block]:
    """Cuts a graph into blocks; run one after the other they are the graph.

    A cut is a tensor that every path from the input to the output passes through, so a residual block, whose branches
    meet in its sum, is one block and a plain chain is one layer a block. With `layers` above 1 blocks are joined in
    order until each has at least as many kernels. Operations without a kernel, such as a pooling, that stand between
    two blocks are blocks without layers.

    Raises ValueError for `layers` below 1 and for a node that does not lead to the output.
    """
    if layers < 1:
        raise ValueError(f"layers {layers} of a block must be at least 1")
    found: list[Block] = []
    shapes = {INPUT: graph.input_shape} | {node.name: node.shape for node in graph.nodes}
    source, pending = INPUT, []
    for nodes in _between_cuts(graph):
        pending += nodes
        held = tuple(node.name for node in pending if node.name in weights)
        if held and len(held) < layers and pending[-1].name != graph.output:
            continue
        inside = tuple(replace(node, inputs=_renamed(node.inputs, source)) for node in pending)
        found.append(Block(source, Graph(inside, shapes[source], pending[-1].name), held))
        source, pending = pending[-1].name, []
    return found


def _between_cuts(graph: Graph) -> Iterator[list[Node]]:
    """Yields the nodes up to each cut.

    In any order in which a graph can run, the ancestors of a cut come before it and all others after, so a cut is known
    by being the only tensor that is needed afterwards.
    """
    last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    last_use[graph.output] = len(graph.nodes)
    needed_until, nodes = last_use.get(INPUT, -1), []  # by what was made before the node at hand
    for i, node in enumerate(graph.nodes):
        if node.name not in last_use:
            raise ValueError(f"{node.name} does not lead to the output, {graph.output}")
        nodes.append(node)
        if needed_until <= i:
            yield nodes
            nodes = []
        needed_until = max(needed_until, last_use[node.name])


def _renamed(inputs: Sequence[str], source: str) -> tuple[str, ...]:
    return tuple(INPUT if name == source else name for name in inputs)
