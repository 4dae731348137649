"""From the equations of a jaxpr to the operations of a device: what belongs together becomes one node."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxcompress.arrays import CompressedArray, dense, scale_by
from jaxcompress.interpreters.graph import INPUT, KINDS, Graph, Node, by_channel, pool, window_of
from jaxcompress.paths import Params

_WEIGHTED = ("convolution", "dense")


def fuse(
    nodes: dict[str, Node], constants: dict[str, Any], input_shape: tuple[int, ...], output: str
) -> tuple[Graph, Params]:
    """Builds the graph, and the weights of its layers, from raw nodes and the constants that they compute with.

    Constants added to and multiplied with the output of a layer are folded into its weights: biases, and batch
    normalization in inference. A kernel of integers keeps its codes, as `Scaled`; one whose factors cancel, as those of
    `jaxcompress.quantize.folded` do, is what it was. Raises ValueError for what is left of raw kinds.
    """
    nodes, output = _without_identities(nodes, input_shape, output)
    nodes = _without_softmax_parts(nodes, constants, output)
    uses = Counter([output, *(name for node in nodes.values() for name in node.inputs)])
    fusing = _Fusing(uses, constants, input_shape)
    for node in nodes.values():
        fusing.place(node)
    for node in fusing.placed.values():
        if node.kind not in KINDS:
            raise ValueError(
                f"{node.name} of shape {node.shape} is no operation of a graph by itself; there are {', '.join(KINDS)}"
            )
    weights = {name: {"kernel": kernel, "bias": fusing.biases[name]} for name, kernel in fusing.kernels.items()}
    return _named(Graph(tuple(fusing.placed.values()), input_shape, fusing.stands_in[output])), weights


def _named(graph: Graph) -> Graph:
    """Names the nodes without weights after their kind: ``add``, ``add_2``."""
    names = {INPUT: INPUT} | {node.name: node.name for node in graph.nodes if node.kind in _WEIGHTED}
    seen: Counter[str] = Counter()
    for node in graph.nodes:
        if node.name not in names:
            seen[node.kind] += 1
            names[node.name] = node.kind if seen[node.kind] == 1 else f"{node.kind}_{seen[node.kind]}"
    nodes = [replace(n, name=names[n.name], inputs=tuple(names[i] for i in n.inputs)) for n in graph.nodes]
    return replace(graph, nodes=tuple(nodes), output=names[graph.output])


class _Fusing:
    """Places nodes one by one; `stands_in` maps a raw name to the placed node that computes it."""

    def __init__(self, uses: Counter[str], constants: dict[str, Any], input_shape: tuple[int, ...]) -> None:
        self.uses, self.constants = uses, constants
        self.shapes = {INPUT: input_shape}
        self.placed: dict[str, Node] = {}
        self.kernels: dict[str, Any] = {}
        self.biases: dict[str, Any] = {}
        self.stands_in = {INPUT: INPUT}

    def place(self, node: Node) -> None:
        inputs = tuple(self.stands_in[name] for name in node.inputs)
        before = self.placed.get(inputs[0]) if self.uses[node.inputs[0]] == 1 else None
        if before is not None and (merged := self._merged(before, node)) is not None:
            self._set(merged)
            self.stands_in[node.name] = merged.name
        else:
            self._new(replace(node, inputs=inputs))

    def _new(self, node: Node) -> None:
        if node.kind in _WEIGHTED:
            self.kernels[node.name] = kernel = self.constants[node.name]
            self.biases[node.name] = jnp.zeros(kernel.shape[-1], kernel.dtype)
        self._set(replace(node, kind=_activation(None, node.kind, self.constants.get(node.name)) or node.kind))
        self.stands_in[node.name] = node.name

    def _set(self, node: Node) -> None:
        self.placed[node.name] = node
        self.shapes[node.name] = node.shape

    def _merged(self, before: Node, node: Node) -> Node | None:
        """Returns `before` and its only user as one operation, None if they are two."""
        constant = self.constants.get(node.name)
        given = self.shapes[before.inputs[0]]
        match before.kind, node.kind:
            case "relu", "min" if _activation("relu", "min", constant):
                return replace(before, kind="relu6")
            case (("convolution" | "dense" | "add"), ("max" | "min")):
                activation = _activation(before.activation, node.kind, constant)
                return None if activation is None else replace(before, activation=activation)
            case (("convolution" | "dense"), ("shift" | "subtract" | "scale" | "divide")):
                folds = before.activation is None and constant is not None and _is_by_channel(constant, before.shape)
                return self._folded(before, node.kind, constant) if folds else None
            case "sum", "divide" if is_constant(constant, math.prod(given[axis] for axis in before.axes)):
                return replace(before, kind="mean")
            case (("sum" | "mean"), "reshape") if node.shape == _keeping(before.axes, given):
                return replace(before, shape=node.shape)
            case "window_sum", "divide" if _averages(before, given, constant):
                return replace(before, kind="average_pool")
            case _:
                return None

    def _folded(self, layer: Node, kind: str, constant: Any) -> Node:
        """Folds ``layer(x) <kind> constant`` into the layer's weights."""
        vector = jnp.broadcast_to(jnp.reshape(constant, -1), (layer.shape[-1],))
        kernel, bias = self.kernels[layer.name], self.biases[layer.name]
        match kind:
            case "shift":
                bias = bias + vector
            case "subtract":
                bias = bias - vector
            case "scale":
                kernel, bias = _rescaled(kernel, jnp.multiply, vector), bias * vector
            case "divide":
                kernel, bias = _rescaled(kernel, jnp.divide, vector), bias / vector
        self.kernels[layer.name], self.biases[layer.name] = kernel, bias
        return layer


def _rescaled(kernel: Any, operation: Callable[[Any, Any], Any], vector: Any) -> Any:
    """Multiplies or divides the outputs of a kernel; one of integers keeps them, with the factor beside it."""
    factor = by_channel(vector, kernel.ndim)
    if isinstance(kernel, CompressedArray) and kernel.integers() is not None:
        return scale_by(kernel, operation(jnp.float32(1), factor.astype(jnp.float32)))
    return operation(dense(kernel), factor)


def _activation(before: str | None, kind: str, constant: Any) -> str | None:
    """Returns the activation that a maximum or minimum completes, None if it is none."""
    if kind == "max" and before in (None, "relu") and is_constant(constant, 0):
        return "relu"
    if kind == "min" and before == "relu" and is_constant(constant, 6):
        return "relu6"
    return None


def is_constant(constant: Any, value: float) -> bool:
    """Tells whether a constant is known while tracing and equal to `value`."""
    return constant is not None and not isinstance(constant, Tracer) and bool(np.all(np.asarray(constant) == value))


def _is_by_channel(constant: Any, shape: Sequence[int]) -> bool:
    axes = jnp.shape(constant)
    return math.prod(axes[:-1]) == 1 and (not axes or axes[-1] in (1, shape[-1]))


def _keeping(axes: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape of a sum over `axes` that keeps them as axes of one."""
    return tuple(1 if axis in axes else n for axis, n in enumerate(shape))


def _averages(pooling: Node, given: Sequence[int], constant: Any) -> bool:
    """Tells whether a sum over windows is divided by the number of the input's entries in each, padding left out."""
    if constant is None or isinstance(constant, Tracer):
        return constant is not None and jnp.shape(constant) == (1, *pooling.shape[1:-1], 1)
    counts = pool(jnp.ones((1, *given[1:-1], 1)), lax.add, 0.0, window_of(pooling))
    return bool(np.all(np.asarray(constant) == np.asarray(counts)))


def _without_identities(
    nodes: dict[str, Node], input_shape: tuple[int, ...], output: str
) -> tuple[dict[str, Node], str]:
    """Drops what changes nothing, so that each tensor's uses are counted together; returns the output's name too."""
    stands_in, shapes, kept = {INPUT: INPUT}, {INPUT: input_shape}, {}
    for node in nodes.values():
        inputs = tuple(stands_in[name] for name in node.inputs)
        same = node.kind == "identity" or (node.kind == "reshape" and node.shape == shapes[inputs[0]])
        stands_in[node.name] = inputs[0] if same else node.name
        if not same:
            kept[node.name], shapes[node.name] = replace(node, inputs=inputs), node.shape
    return kept, stands_in[output]


def _without_softmax_parts(nodes: dict[str, Node], constants: dict[str, Any], output: str) -> dict[str, Node]:
    """Replaces ``exp(x - max(x)) / sum(exp(x - max(x)))`` by one softmax and drops what nothing needs any more."""
    nodes = {name: _softmax(node, nodes, constants) or node for name, node in nodes.items()}
    needed, stack = set(), [output]
    while stack:
        name = stack.pop()
        if name not in needed and name in nodes:
            needed.add(name)
            stack.extend(nodes[name].inputs)
    return {name: node for name, node in nodes.items() if name in needed}


def _softmax(node: Node, nodes: dict[str, Node], constants: dict[str, Any]) -> Node | None:
    def behind(name: str, kind: str) -> Node | None:
        """Returns the node of a kind behind what changes no value: reshapes, identities, a maximum with -inf."""
        found = nodes.get(name)
        while found is not None and found.kind in ("reshape", "identity", "max") and found.kind != kind:
            if found.kind == "max" and not is_constant(constants.get(found.name), -math.inf):
                return None
            found = nodes.get(found.inputs[0])
        return found if found is not None and found.kind == kind else None

    if node.kind != "divide" or len(node.inputs) != 2:
        return None
    numerator, total = behind(node.inputs[0], "exp"), behind(node.inputs[1], "sum")
    if numerator is None or total is None or behind(total.inputs[0], "exp") is not numerator:
        return None
    difference = behind(numerator.inputs[0], "subtract")
    largest = None if difference is None or len(difference.inputs) != 2 else behind(difference.inputs[1], "reduce_max")
    last = (len(node.shape) - 1,)
    if difference is None or largest is None or largest.inputs[0] != difference.inputs[0] or total.axes != last:
        return None
    return replace(node, kind="softmax", inputs=(difference.inputs[0],))
