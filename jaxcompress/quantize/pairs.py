"""Pairs of layers between which the scale of a channel may move, while the network computes the same."""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float

from jaxcompress.arrays import dense, densify
from jaxcompress.interpreters.graph import Graph, Node, by_channel
from jaxcompress.paths import Params, flatten

_LAYERS = ("convolution", "dense")
_LARGEST = 2.0**20  # of a scale and of its inverse: weights and biases of any sense stay finite


class Pair(NamedTuple):
    """Names two layers, of which the first alone feeds the second through what commutes with positive scales.

    Those are ReLU, pooling, means over the image, reshapes, transposes, slices and padding. Input j of `second` carries
    output ``channels[j]`` of `first`: after a flattening, many inputs carry one output. `padded` tells whether zeros
    of a padding, which no layer computes, stand among these inputs.
    """

    first: str
    second: str
    channels: tuple[int, ...]
    padded: bool


class Prepared(NamedTuple):
    """Holds weights prepared for rounding, the pairs that were treated, and why the other layers begin none."""

    weights: Params
    pairs: tuple[Pair, ...]
    blocked: dict[str, str]


def pairs(graph: Graph) -> tuple[tuple[Pair, ...], dict[str, str]]:
    """Finds the pairs of a graph in its order, and for every other layer the reason why its output ends in none."""
    users: defaultdict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        for name in node.inputs:
            users[name].append(node)
    ends = {node.name: _follow(graph, users, node) for node in graph.nodes if node.kind in _LAYERS}
    found = tuple(end for end in ends.values() if isinstance(end, Pair))
    return found, {name: end for name, end in ends.items() if isinstance(end, str)}


def rescale(graph: Graph, weights: Params, scales: Mapping[Pair, Float[Array, "channels"]]) -> Params:
    """Divides the outputs of each pair's first layer by a scale and multiplies the second's inputs with it.

    Compressed leaves of these layers become the arrays that they mean.
    """
    changed = dict(weights)
    for pair, scale in scales.items():
        first = {name: dense(leaf) for name, leaf in changed[pair.first].items()}
        changed[pair.first] = {name: x / by_channel(scale.astype(x.dtype), x.ndim) for name, x in first.items()}
        second = {name: dense(leaf) for name, leaf in changed[pair.second].items()}
        kernel = second["kernel"]
        factors = by_input(graph.node(pair.second), kernel.shape, to_inputs(pair, scale).astype(kernel.dtype))
        changed[pair.second] = second | {"kernel": kernel * factors}
    return changed


def bounded(scale: Array, live: Array) -> Array:
    """Keeps a scale within 2**-20 and 2**20, and at 1 where a channel is not `live`."""
    return jnp.where(live, jnp.clip(scale, 1 / _LARGEST, _LARGEST), 1.0)


def is_live(magnitude: Array) -> Array:
    """Tells where a magnitude is above zero, denormals not counted: processors may round these to zero."""
    return magnitude >= jnp.finfo(magnitude.dtype).tiny


def to_inputs(pair: Pair, values: Float[Array, "channels"]) -> Float[Array, "inputs"]:
    """Spreads a value per output of the first layer over the inputs of the second."""
    return values[np.asarray(pair.channels)]


def to_channels(
    graph: Graph, pair: Pair, values: Float[Array, "inputs"], largest: bool = True
) -> Float[Array, "channels"]:
    """Takes the largest, or the mean, of the non-negative values of the inputs that carry each output."""
    outputs = graph.node(pair.first).shape[-1]
    places = jnp.zeros(outputs, values.dtype).at[np.asarray(pair.channels)]
    if largest:
        return places.max(values)
    return places.add(values) / np.maximum(np.bincount(pair.channels, minlength=outputs), 1).astype(values.dtype)


def by_input(node: Node, shape: tuple[int, ...], vector: Float[Array, "inputs"]) -> Float[Array, "..."]:
    """Reshapes a value per input of a layer to stand against its kernel of `shape`, grouped or not."""
    rows, outputs = shape[-2:]
    groups = _groups(node)
    by_row = jnp.repeat(vector.reshape(groups, rows).T, outputs // groups, axis=1)
    return by_row.reshape((1,) * (len(shape) - 2) + by_row.shape)


def largest_by_input(node: Node, kernel: Float[Array, "..."]) -> Float[Array, "inputs"]:
    """Returns the largest magnitude among the weights of each input of a layer."""
    largest = jnp.max(jnp.abs(kernel), axis=tuple(range(kernel.ndim - 2)))
    return largest.reshape(len(largest), _groups(node), -1).max(axis=2).T.reshape(-1)


def check_finite(weights: Params) -> None:
    """Raises ValueError for weights that are not finite, where they can be looked at."""
    finite = jax.jit(lambda weights: jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), densify(weights)))(weights)
    for path, holds in flatten(finite).items():
        if not isinstance(holds, Tracer) and not holds:
            raise ValueError(f"{path} holds NaN or infinity; only finite weights can be prepared")


def _groups(node: Node) -> int:
    return 1 if node.window is None else node.window.groups


def _follow(graph: Graph, users: Mapping[str, list[Node]], layer: Node) -> Pair | str:
    """Follows the output of a layer to the next one, or returns what stands between."""
    channels = np.broadcast_to(np.arange(layer.shape[-1]), layer.shape)
    node, padded = layer, False
    while True:
        if "relu6" in (node.kind, node.activation):
            return f"{node.name} ends in relu6, which cuts where no scale moves it"
        if node.name == graph.output:
            return f"{node.name} is the output of the graph"
        if len(users[node.name]) != 1:
            return f"{node.name} is used {len(users[node.name])} times"
        (node,) = users[node.name]
        if node.kind in _LAYERS:
            break
        moved = _through(node, channels)
        if moved is None:
            return f"{node.name}, a {node.kind}, joins its channels with others"
        channels, padded = moved, padded or node.kind == "pad"
    rows = channels.reshape(-1, channels.shape[-1])
    if np.any(rows != rows[0]):
        return f"{node.name} has inputs that carry several of its channels each"
    padded |= node.window is not None and any(edge > 0 for edges in node.window.padding for edge in edges)
    return Pair(layer.name, node.name, tuple(rows[0].tolist()), padded)


def _through(node: Node, channels: np.ndarray) -> np.ndarray | None:
    """Moves the number of the channel that each entry carries; None if an operation joins several in one entry."""
    match node.kind:
        case "relu" | "relu6":
            return channels
        case "max_pool" | "average_pool" | "mean":
            axes = {axis % channels.ndim for axis in node.axes} if node.kind == "mean" else {1, 2}
            first = channels[tuple(slice(1 if axis in axes else None) for axis in range(channels.ndim))]
            if np.any(channels != first):
                return None
            return first.reshape(node.shape) if node.kind == "mean" else np.broadcast_to(first, node.shape)
        case "reshape":
            return channels.reshape(node.shape)
        case "transpose":
            return np.transpose(channels, node.axes)
        case "slice":
            return channels[tuple(slice(*extent) for extent in node.extents)]
        case "pad":
            return np.pad(channels, node.extents, mode="edge")  # a zero takes any scale
        case _:
            return None
