"""The graph of a model as a device runs it, with the arithmetic of floats.

A device knows fewer and larger operations than a jaxpr: a convolution with its bias and its ReLU is one, batch
normalization is none at all, and a mean is one and not a sum and a division. `jaxcompress.read` finds them in a model.
A graph is itself a function of its weights, a plain tree, so every transform of the library works on it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxcompress.arrays import dense
from jaxcompress.paths import Params

KINDS = (
    *("convolution", "dense", "add", "mean", "average_pool", "max_pool"),
    *("concatenate", "reshape", "transpose", "slice", "pad", "relu", "relu6", "softmax"),
)
INPUT = "input"  # the name of the tensor that goes in


class Window(NamedTuple):
    """Describes how a convolution or a pooling moves over its input, by spatial axis."""

    size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class Node:
    """Describes one operation of one of `KINDS`. Its name is its output's as well; `shape` is for a batch of one.

    A layer is named after the path of its kernel. `activation` is None, ``relu`` or ``relu6``, applied last. `window`
    is of convolutions and poolings; `axes` are those of a mean or a transpose, and the one of a concatenation;
    `extents` are, by axis, (low, high) of a pad and (start, limit, stride) of a slice, which leaves the batch whole.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    window: Window | None = None
    axes: tuple[int, ...] = ()
    extents: tuple[tuple[int, ...], ...] = ()
    activation: str | None = None


@dataclass(frozen=True)
class Graph:
    """Lists a model's operations in the order in which they run. Call it to run them: ``graph(weights, x)``.

    `weights` maps the name of every convolution and dense layer to its ``kernel`` (HWIO, or inputs by outputs) and
    ``bias``. The batch may be of any size.
    """

    nodes: tuple[Node, ...]
    input_shape: tuple[int, ...]
    output: str

    def __call__(self, weights: Params, x: Array) -> Array:
        """Runs the graph in floating point."""
        return self.run(lambda node, inputs: operate(node, weights.get(node.name, {}), inputs), x)

    def run(self, step: Callable[[Node, list[Any]], Any], x: Any) -> Any:
        """Runs the graph with ``step(node, inputs)`` in place of each operation."""
        return self.values(step, x)[self.output]

    def values(self, step: Callable[[Node, list[Any]], Any], x: Any) -> dict[str, Any]:
        """Runs the graph as `run` does and returns every tensor by name."""
        values = {INPUT: x}
        for node in self.nodes:
            values[node.name] = step(node, [values[name] for name in node.inputs])
        return values

    def node(self, name: str) -> Node:
        """Returns the node of a name; raises KeyError if there is none."""
        return {node.name: node for node in self.nodes}[name]


def operate(node: Node, weights: dict[str, Any], inputs: Sequence[Array]) -> Array:
    """Computes one operation in floating point."""
    x = inputs[0]
    match node.kind:
        case "convolution":
            out = convolve(x, dense(weights["kernel"]), window_of(node)) + by_channel(dense(weights["bias"]), x.ndim)
        case "dense":
            out = x @ dense(weights["kernel"]) + by_channel(dense(weights["bias"]), x.ndim)
        case "add":
            out = x + inputs[1]
        case "mean":
            out = jnp.mean(x, axis=node.axes, keepdims=len(node.shape) == x.ndim)
        case "average_pool":
            ones = jnp.ones((1, *x.shape[1:-1], 1), x.dtype)
            out = pool(x, lax.add, 0.0, window_of(node)) / pool(ones, lax.add, 0.0, window_of(node))
        case "max_pool":
            out = pool(x, lax.max, -jnp.inf, window_of(node))
        case "softmax":
            out = jax.nn.softmax(x)
        case _:
            out = rearrange(node, inputs)
    return activate(out, node.activation)


def rearrange(node: Node, inputs: Sequence[Array], zero: int = 0) -> Array:
    """Computes an operation that moves values and changes none; `zero` stands for the real zero."""
    x = inputs[0]
    match node.kind:
        case "concatenate":
            return jnp.concatenate(inputs, axis=node.axes[0])
        case "reshape":
            return x.reshape(-1, *node.shape[1:])
        case "transpose":
            return jnp.transpose(x, node.axes)
        case "slice":
            return x[tuple(slice(None) if i == 0 else slice(*extent) for i, extent in enumerate(node.extents))]
        case "pad":
            return jnp.pad(x, node.extents, constant_values=np.asarray(zero, x.dtype))
        case "relu" | "relu6":
            return activate(x, node.kind)
        case _:
            raise ValueError(f"{node.name} is of kind {node.kind!r}, which is not an operation of a graph")


def convolve(x: Array, kernel: Array, window: Window, **options: Any) -> Array:
    """Convolves `x` (batch, height, width, channels) with `kernel` (height, width, inputs, outputs)."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        rhs_dilation=window.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=window.groups,
        **options,
    )


def pool(x: Array, reduce: Callable[[Any, Any], Any], initial: Any, window: Window) -> Array:
    """Reduces each window of `x` (batch, height, width, channels)."""
    padding = ((0, 0), *window.padding, (0, 0))
    start = np.asarray(initial, x.dtype)
    return lax.reduce_window(x, start, reduce, (1, *window.size, 1), (1, *window.strides, 1), padding)


def by_channel(vector: Any, ndim: int) -> Any:
    """Reshapes a value per channel to stand against an array of `ndim` axes, channels last."""
    return vector.reshape((1,) * (ndim - 1) + (-1,))


def activate(x: Array, activation: str | None) -> Array:
    """Applies a fused activation."""
    if activation is None:
        return x
    return jax.nn.relu(x) if activation == "relu" else jax.nn.relu6(x)


def window_of(node: Node) -> Window:
    """Returns the window of a convolution or pooling."""
    assert node.window is not None
    return node.window


def is_depthwise(node: Node, kernel: Sequence[int]) -> bool:
    """Tells whether a layer with a kernel of this shape convolves each of several channels by itself."""
    return node.window is not None and node.window.groups > 1 and kernel[2] == 1
