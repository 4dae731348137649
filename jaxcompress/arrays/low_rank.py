"""Weights as a product of two thin factors."""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.arrays.base import CompressedArray, compressed, dense, encode, stacked, static
from jaxcompress.arrays.factored import Factored, Stage, fitting, window
from jaxcompress.coding import Coded


@compressed
class LowRank(Factored):
    """Means ``u @ v``, contracted over the rank: `u` is (*inputs, rank), `v` is (rank, *outputs).

    A dense kernel (in, out) has one input and one output axis. A convolution kernel (height, width, in, out) has three
    input axes: it runs as a convolution to `rank` channels and a 1x1 convolution (Zhang et al. 2016, arXiv:1505.06798).
    Axes before these in both factors are a stack of layers. The counts of axes are static so that a slice of a stack
    is a LowRank too.
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

    def dense(self) -> Array:
        def product(u: Array, v: Array) -> Array:
            return jnp.tensordot(u, v, 1)

        for _ in range(self.stack_axes):
            product = jax.vmap(product)
        return product(dense(self.u), dense(self.v))

    def stacked(self) -> "LowRank | None":
        return replace(self, u=stacked(self.u), v=stacked(self.v)) if self.stack_axes else None

    def stages(self) -> tuple[Stage, ...] | None:
        if self.stack_axes or self.output_axes != 1:
            return None
        spatial = self.input_axes - 1
        return Stage(self.u, tuple(range(spatial))), Stage(window(self.v, spatial))

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


def matrix_shape(shape: tuple[int, ...], input_axes: int) -> tuple[int, int]:
    """Returns the shape of the matrix that a kernel is when its first `input_axes` axes are its rows."""
    return math.prod(shape[:input_axes]), math.prod(shape[input_axes:])
