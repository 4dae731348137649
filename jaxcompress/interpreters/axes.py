"""The part that each axis of a kernel plays where a program multiplies by it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Axes:
    """Says which axes of a kernel are the rows of the matrix that it is, and which the columns.

    Rows are those of its `window`, if it is a convolution's, and its `inputs`; columns are its `outputs`, in `groups`
    one after the other. Along the axes of a `stack` a kernel is one such matrix for each entry: layers of a scan,
    experts, places. So a kernel (d, heads, size) of attention has ``Axes(inputs=(0,), outputs=(1, 2))``. `counts` give
    the multiply-adds of each product or convolution, of all layers, with an array or leaf in the place of the kernel.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    stack: tuple[int, ...] = ()
    window: tuple[int, ...] = ()
    groups: int = 1
    counts: tuple[Callable[[Any], int], ...] = field(default=(), compare=False, repr=False)

    @property
    def order(self) -> tuple[int, ...]:
        """All axes: those of the stack, of the window, the inputs and the outputs."""
        return (*self.stack, *self.window, *self.inputs, *self.outputs)

    @property
    def sides(self) -> tuple[tuple[int, ...], tuple[int, ...], frozenset[tuple[int, ...]]]:
        """What two uses of one kernel must have in common: a kernel may be used transposed too."""
        return self.stack, self.window, frozenset((self.inputs, self.outputs))

    def check(self, path: str, shape: tuple[int, ...]) -> None:
        """Raises ValueError, with the path, unless these are the axes of a kernel of `shape`."""
        if sorted(self.order) != list(range(len(shape))) or not self.inputs or not self.outputs:
            raise ValueError(
                f"{self} are not the axes of {path}, shape {shape}: each is one of them, inputs and outputs"
            )

    def sizes(self, shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the sizes of some of the axes of a kernel of `shape`."""
        return tuple(shape[axis] for axis in axes)

    def layer_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape (*window, inputs, outputs) of one layer of a kernel of `shape`."""
        window, inputs, outputs = (self.sizes(shape, axes) for axes in (self.window, self.inputs, self.outputs))
        return (*window, math.prod(inputs), math.prod(outputs))

    def layers(self, kernel: Any) -> Any:
        """Returns a kernel as (layers, *window, inputs, outputs), one layer if it is no stack."""
        return kernel.transpose(self.order).reshape(-1, *self.layer_shape(kernel.shape))

    def kernel(self, layers: Any, shape: tuple[int, ...]) -> Any:
        """Returns the kernel of `shape` whose `layers` are these."""
        back = sorted(range(len(shape)), key=self.order.__getitem__)
        return layers.reshape(self.sizes(shape, self.order)).transpose(back)

    def multiply_adds(self, kernel: Any) -> int | None:
        """Returns the multiply-adds of all uses with an array, or a leaf, for the kernel; None if none is known."""
        return sum(count(kernel) for count in self.counts) if self.counts else None


def matrices(layer: Any, groups: int) -> Any:
    """Returns one layer (*window, inputs, outputs) as (groups, rows, outputs of a group)."""
    split = layer.reshape(-1, groups, layer.shape[-1] // groups)
    return split.transpose(1, 0, 2)


def layer_of(matrices: Any, shape: tuple[int, ...]) -> Any:
    """Returns the layer of `shape` whose `matrices` are these."""
    return matrices.transpose(1, 0, 2).reshape(shape)
