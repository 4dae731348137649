"""Which matrix, or convolution, a kernel is: told by hand, read from a program, or by convention."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import CompressedArray, Factored, LowRank, Reshaped, dense
from jaxcompress.interpreters.axes import Axes

Layout = int | Axes | Mapping[str, int | Axes] | None  # a number is that of the first axes, which are the inputs
Convention = Callable[[str, tuple[int, ...]], Axes]  # path and shape -> the axes of a kernel


def axes_of(layout: Layout, path: str, shape: tuple[int, ...], convention: Convention) -> Axes:
    """Returns the axes of a kernel: by its path in a table, of all kernels alike, or by convention.

    Raises ValueError, with the path, for a table without it, and for axes that are not those of a kernel of the shape.
    """
    if layout is None:
        return convention(path, shape)
    if isinstance(layout, Mapping):
        if path not in layout:
            raise ValueError(f"there are no axes for {path}; there are axes for {', '.join(sorted(layout))}")
        layout = layout[path]
    if isinstance(layout, Axes):
        layout.check(path, shape)
        return layout
    if isinstance(layout, bool) or not isinstance(layout, int) or not 0 < layout < len(shape):
        raise ValueError(f"axes {layout!r} of {path}, shape {shape}: its inputs are from 1 to {len(shape) - 1} axes")
    return split_at(shape, layout)


def split_at(shape: tuple[int, ...], inputs: int, stack: int = 0) -> Axes:
    """Returns the axes of a matrix whose rows are the first `inputs` axes behind those of a stack."""
    first, axes = range(stack, stack + inputs), range(stack + inputs, len(shape))
    return Axes(tuple(first), tuple(axes), tuple(range(stack)))


def convolution(path: str, shape: tuple[int, ...]) -> Axes:
    """Returns the axes of a kernel (*window, inputs, outputs)."""
    spatial = len(shape) - 2
    return Axes((spatial,), (spatial + 1,), (), tuple(range(spatial)))


def squarest(path: str, shape: tuple[int, ...]) -> Axes:
    """Returns the axes of a kernel by convention, for forms that are of matrices and of convolutions.

    Two axes are (inputs, outputs), four and more those of a convolution, (*window, inputs, outputs). Three are split
    where the matrix is nearest to a square, which tells (d, heads, size) from (heads, size, d) and from a convolution
    over one axis; at a tie the last alone are the outputs.
    """
    if len(shape) == 3:
        skew = [max(math.prod(shape[:n]), math.prod(shape[n:])) / math.prod(shape) ** 0.5 for n in (1, 2)]
        if skew[0] < skew[1]:
            return split_at(shape, 1)
    return convolution(path, shape)


def by_sizes(path: str, shape: tuple[int, ...], inputs: int, outputs: int) -> Axes:
    """Returns the axes of a kernel with so many inputs and outputs: a matrix of several axes, or a convolution."""
    fitting = [n for n in range(1, len(shape)) if (math.prod(shape[:n]), math.prod(shape[n:])) == (inputs, outputs)]
    if shape[-2:] == (inputs, outputs) or not fitting:
        return convolution(path, shape)
    return split_at(shape, fitting[-1])


def placed(layers: list[Factored], axes: Axes, shape: tuple[int, ...]) -> CompressedArray:
    """Returns the leaf of a kernel of `shape` whose layers, each (*window, inputs, outputs), are these leaves."""
    natural = tuple(range(len(shape)))
    if axes.order != natural and (*axes.stack, *axes.window, *axes.outputs, *axes.inputs) == natural:
        turned = [leaf.transposed(jnp.transpose) for leaf in layers]
        if all(leaf is not None for leaf in turned):
            layers = [leaf for leaf in turned if leaf is not None]
            axes = Axes(axes.outputs, axes.inputs, axes.stack, axes.window)
    stack = axes.sizes(shape, axes.stack)
    together = lambda *parts: jnp.stack(parts).reshape(*stack, *parts[0].shape)
    leaf = jax.tree.map(together, *layers) if stack else layers[0]
    window, inputs, outputs = (axes.sizes(shape, part) for part in (axes.window, axes.inputs, axes.outputs))
    if isinstance(leaf, LowRank):
        u = jnp.reshape(dense(leaf.u), (*stack, *window, *inputs, leaf.rank))
        v = jnp.reshape(dense(leaf.v), (*stack, leaf.rank, *outputs))
        leaf = LowRank(u, v, len(window) + len(inputs), len(outputs), leaf.owner)
    if axes.order == natural and leaf.shape == shape:
        return leaf
    back = tuple(sorted(natural, key=axes.order.__getitem__))
    return Reshaped(leaf, (*window, *inputs, *outputs), back, leaf.owner)


def matrix_of(layer: Array) -> Array:
    """Returns a layer (*window, inputs, outputs) as the matrix of its outputs."""
    return layer.reshape(-1, layer.shape[-1])
