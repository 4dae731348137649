"""Factorized weights under other axes than those that they are factorized in."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from jax import Array

from jaxcompress.arrays.base import CompressedArray, compressed, dense, encode, static
from jaxcompress.arrays.factored import Factored, Move, fitting
from jaxcompress.coding import Coded


@compressed
class Reshaped(Factored):
    """Means a factorized `weight` reshaped to `sizes`, behind its stack of layers, and transposed by `order`.

    So a kernel (heads, d, size) that a model contracts over d can be a factorized matrix (d, heads * size), and a
    kernel (out, in, height, width) a factorized convolution. Axis i of the array is axis ``order[i]`` of the reshaped
    weight; axes of a stack count in `order`, from the first on, so that a slice along one that comes first in both, and
    a stack of these leaves, are such leaves too.
    """

    weight: CompressedArray
    sizes: tuple[int, ...] = static()
    order: tuple[int, ...] = static()
    owner: str = static(default="")

    @property
    def stack_axes(self) -> int:
        return self.weight.stack_axes  # pyright: ignore (a factorized weight, checked)

    @property
    def axes(self) -> tuple[int, ...]:
        """The order of the axes that there are now, with the layers that were sliced off, or stacked, since."""
        more = self.stack_axes + len(self.sizes) - len(self.order)
        return (*range(more), *(axis + more for axis in self.order[max(-more, 0) :]))

    @property
    def is_permutation(self) -> bool:
        """Tells whether the axes are those of the weight, in another order."""
        return self.weight.shape[self.stack_axes :] == self.sizes

    @property
    def shape(self) -> tuple[int, ...]:
        whole = (*self.weight.shape[: self.stack_axes], *self.sizes)
        return tuple(whole[axis] for axis in self.axes)

    def dense(self) -> Array:
        whole = dense(self.weight)
        return whole.reshape(*whole.shape[: self.stack_axes], *self.sizes).transpose(self.axes)

    def product(self) -> Array:
        return self.dense()

    def stacked(self) -> "Reshaped | None":
        return self.layers(0) if self.axes[0] == 0 else None

    def layers(self, axis: int) -> "Reshaped | None":
        if self.axes[axis] >= self.stack_axes or self.axes[axis]:
            return None
        order = tuple(other - 1 for other in self.axes if other)
        return replace(self, weight=self.weight.stacked(), order=order)

    def permuted(self, order: Sequence[int]) -> "Reshaped":
        """Returns the leaf of the array transposed by `order`."""
        return replace(self, order=tuple(self.axes[axis] for axis in order))

    def flipped(self, axes: Sequence[int], reverse: Move) -> "Reshaped | None":
        if self.stack_axes or not self.is_permutation:
            return None
        weight = self.weight.flipped([self.axes[axis] for axis in axes], reverse)  # pyright: ignore (Factored)
        return None if weight is None else replace(self, weight=weight)

    def check(self) -> None:
        if not isinstance(self.weight, Factored) or isinstance(self.weight, Reshaped):
            raise ValueError(f"a Reshaped holds a factorized weight, not {type(self.weight).__name__}")
        stack = self.stack_axes
        fitting(self, (math.prod(self.sizes), math.prod(self.weight.shape[stack:])))
        if sorted(self.order) != list(range(stack + len(self.sizes))):
            raise ValueError(f"order {self.order} is none of {stack + len(self.sizes)} axes")

    def encode(self, kept: np.ndarray | None = None) -> Coded:
        attributes = {"sizes": list(self.sizes), "order": list(self.order)}
        return Coded("Reshaped", attributes, (), {"weight": encode(self.weight)})

    @classmethod
    def of(cls, parts: dict[str, Any], coded: Coded) -> Self:
        coded.part("weight")
        numbers = {name: coded.attribute(name, list) for name in ("sizes", "order")}
        for name, values in numbers.items():
            if len(values) > 64 or any(type(n) is not int or not 0 <= n < 2**63 for n in values):
                raise ValueError(f"a Reshaped has the {name} {values!r}")
        return cls(parts["weight"], tuple(numbers["sizes"]), tuple(numbers["order"]))
