"""Weights as a product of two thin factors."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.arrays.base import CompressedArray, compressed, dense, encode, stacked, static
from jaxcompress.arrays.factored import Factored, Move, Product, Stage, fitting, swapped, window
from jaxcompress.coding import Coded


@compressed
class LowRank(Factored):
    """Means ``u @ v``, contracted over the rank: `u` is (*inputs, rank), `v` is (rank, *outputs).

    A dense kernel (in, out) has one input and one output axis. A convolution kernel (height, width, in, out) has three
    input axes: it runs as a convolution to `rank` channels and a 1x1 convolution (Zhang et al. 2016, arXiv:1505.06798).
    Kernels of attention have several outputs or inputs: (d, heads, size) and (heads, size, d). Axes before these in
    both factors are a stack of layers. The counts of axes are static so that a slice of a stack is a LowRank too; a
    scan over the first of several input axes slices `u` alone.
    """

    u: Array | CompressedArray
    v: Array | CompressedArray
    input_axes: int = static(default=1)
    output_axes: int = static(default=1)
    owner: str = static(default="")

    @property
    def stack_axes(self) -> int:
        """The number of leading axes that stack layers."""
        return self.u.ndim - self.input_axes - 1

    @property
    def rank(self) -> int:
        """The size of the contracted axis."""
        return self.u.shape[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.u.shape[:-1], *self.v.shape[self.stack_axes + 1 :])

    @property
    def dtype(self) -> Any:
        return self.u.dtype

    def product(self) -> Array:
        return jnp.tensordot(dense(self.u), dense(self.v), 1)

    def stacked(self) -> "LowRank | None":
        if self.stack_axes:
            return replace(self, u=stacked(self.u), v=stacked(self.v))
        if self.input_axes == 1:
            return None
        shared = dense(self.v)  # each entry of the first input axis is a product of its part of `u` with all of `v`
        return replace(
            self,
            u=stacked(self.u),
            v=jnp.broadcast_to(shared, (self.u.shape[0], *shared.shape)),
            input_axes=self.input_axes - 1,
        )

    def stages(self) -> tuple[Stage, ...] | None:
        if self.stack_axes or self.output_axes != 1:
            return None
        spatial = self.input_axes - 1
        return Stage(self.u, tuple(range(spatial))), Stage(window(self.v, spatial))

    def convolve(self, x: Array, convolution: Callable[[Array, Array], Array], product: Product) -> Array | None:
        if self.stack_axes or self.output_axes != 2:
            return None
        batch, *_, inputs = x.shape  # the window alone is on the side of the inputs: each channel meets it by itself
        moved = convolution(jnp.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:-1], 1), dense(self.u)[..., None, :])
        planes = moved.reshape(batch, inputs, *moved.shape[1:])
        return product(planes, self.v, (1, planes.ndim - 1), (1, 0))

    def transposed(self, permuted: Move) -> "LowRank | None":
        if self.stack_axes or self.ndim != 2:
            return None
        return replace(self, u=swapped(self.v, permuted), v=swapped(self.u, permuted))

    def flipped(self, axes: Sequence[int], reverse: Move) -> "LowRank | None":
        inside = not self.stack_axes and max(axes) < min(self.input_axes, self.ndim - 2)
        return replace(self, u=reverse(self.u, axes)) if inside else None

    def check(self) -> None:
        stack = self.stack_axes
        fits = self.input_axes > 0 and self.output_axes > 0 and stack >= 0
        if not fits or self.v.ndim != stack + 1 + self.output_axes:
            raise ValueError(
                f"factors of shape {self.u.shape} and {self.v.shape} do not multiply with {self.input_axes} input axes"
            )
        fitting(self, (self.u.shape[-1], self.v.shape[stack]), *zip(self.u.shape[:stack], self.v.shape, strict=False))

    def encode(self, kept: np.ndarray | None = None) -> Coded:
        attributes = {"inputs": self.input_axes, "outputs": self.output_axes}
        return Coded("LowRank", attributes, (), {"u": encode(self.u), "v": encode(self.v)})

    @classmethod
    def of(cls, parts: dict[str, Any], coded: Coded) -> "LowRank":
        inputs, outputs = coded.attribute("inputs", int), coded.attribute("outputs", int)
        for name in ("u", "v"):
            coded.part(name)
        return cls(parts["u"], parts["v"], inputs, outputs)
