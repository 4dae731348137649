"""Weights as a ring of small tensors, one for every mode."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays.base import CompressedArray, compressed, dense, static
from jaxcompress.arrays.factored import Factored, Move, Product, fitting, layer_shapes
from jaxcompress.coding import Coded

_GROUPS = ("window", "inputs", "outputs")


@compressed
class TensorRing(Factored):
    """Means the kernel whose entries are traces of products of matrices, one of every core.

    A core is (rank before, size, rank after), and the last rank is the first one too, so that the entry at (k1, …, kn)
    is ``trace(cores[0][:, k1, :] @ … @ cores[n-1][:, kn, :])`` (Zhao et al. 2016, arXiv:1606.05535, eq. 1). The cores
    are those of the `window`, one for each of its axes, none in a dense kernel, then those of the modes of `inputs` and
    of `outputs`, one or more of each, whose sizes multiply to the kernel's in row-major order (Wang et al. 2018,
    arXiv:1802.09052, section 3).
    """

    window: tuple[Array | CompressedArray, ...]
    inputs: tuple[Array | CompressedArray, ...]
    outputs: tuple[Array | CompressedArray, ...]
    owner: str = static(default="")

    @property
    def cores(self) -> tuple[Array | CompressedArray, ...]:
        """All cores in the order of the ring."""
        return (*self.window, *self.inputs, *self.outputs)

    @property
    def stack_axes(self) -> int:
        return self.inputs[0].ndim - 3 if self.inputs else 0

    @property
    def shape(self) -> tuple[int, ...]:
        stack = self.inputs[0].shape[: self.stack_axes]
        sizes = (math.prod(core.shape[-2] for core in modes) for modes in (self.inputs, self.outputs))
        return (*stack, *(core.shape[-2] for core in self.window), *sizes)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks before the cores, of which the first is that after the last core too."""
        return tuple(core.shape[-3] for core in self.cores)

    def product(self) -> Array:
        *front, last = self.cores
        whole = _chain(front)
        return jnp.tensordot(whole, dense(last), ((0, whole.ndim - 1), (2, 0))).reshape(self.shape)

    def multiply(self, x: Array, product: Product) -> Array | None:
        if self.window or self.stack_axes:
            return None
        return self._outwards(self._inwards(x, product), product)

    def convolve(self, x: Array, convolution: Callable[[Array, Array], Array], product: Product) -> Array | None:
        if not self.window or self.stack_axes:
            return None
        x = self._inwards(x, product)  # (batch, *places, rank behind the window, rank behind the inputs)
        batch, behind = x.shape[0], x.shape[-1]
        planes = jnp.moveaxis(x, -1, 1).reshape(batch * behind, *x.shape[1:-1])
        moved = convolution(planes, jnp.moveaxis(_chain(self.window), 0, -1))
        x = jnp.moveaxis(moved.reshape(batch, behind, *moved.shape[1:]), 1, -1)
        return self._outwards(x, product)

    def _inwards(self, x: Array, product: Product) -> Array:
        """Multiplies x (…, inputs) by the cores of the inputs, to (…, rank before them, rank after them)."""
        batch = x.ndim - 1
        first, *others = self.inputs
        x = x.reshape(*x.shape[:-1], *(core.shape[1] for core in self.inputs))
        x = product(x, first, (batch,), (1,))
        for core in others:  # the modes still to come stand before the two ranks
            x = jnp.moveaxis(x, -1, batch)
            x = product(x, core, (batch, batch + 1), (0, 1))
        return x

    def _outwards(self, x: Array, product: Product) -> Array:
        """Multiplies x (…, first rank of the ring, rank before the outputs) by their cores, to (…, outputs)."""
        batch = x.shape[:-2]
        *others, last = self.outputs
        for core in others:
            x = product(x, core, (x.ndim - 1,), (0,))
        x = jnp.moveaxis(x, len(batch), -1)
        x = product(x, last, (x.ndim - 2, x.ndim - 1), (0, 2))
        return x.reshape(*batch, -1)

    def transposed(self, permuted: Move) -> "TensorRing | None":
        if self.window or self.stack_axes:  # a trace stays when its product is turned around, but not three of them
            return None
        return replace(self, inputs=self.outputs, outputs=self.inputs)

    def flipped(self, axes: Sequence[int], reverse: Move) -> "TensorRing | None":
        if self.stack_axes or max(axes) >= len(self.window):
            return None
        window = (reverse(core, (1,)) if axis in axes else core for axis, core in enumerate(self.window))
        return replace(self, window=tuple(window))

    def check(self) -> None:
        fitting(self, (min(len(self.inputs), 1), 1), (min(len(self.outputs), 1), 1))
        shapes = layer_shapes(self)
        fitting(self, *((len(shape), 3) for shape in shapes))
        after = [shape[2] for shape in shapes]
        fitting(self, *zip((shape[0] for shape in shapes), [after[-1], *after[:-1]], strict=True))

    @classmethod
    def of(cls, parts: dict[str, Any], coded: Coded) -> Self:
        window, inputs, outputs = (
            tuple(parts[name] for name in (f"{group}/{i}" for i in range(len(parts))) if name in parts)
            for group in _GROUPS
        )
        if len(window) + len(inputs) + len(outputs) != len(parts) or not inputs or not outputs:
            raise ValueError(f"a {cls.__name__} has the parts inputs/0, …, outputs/0, …, not {', '.join(parts)}")
        return cls(window, inputs, outputs)


def _chain(cores: Any) -> Array:
    """Returns the product of cores, (rank before, *sizes, rank after)."""
    whole = dense(cores[0])
    for core in cores[1:]:
        whole = jnp.tensordot(whole, dense(core), 1)
    return whole
