"""Weights as a product of two thin factors."""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.arrays.base import CompressedArray, compressed, decode, dense, encode, pack, stacked, static
from jaxcompress.coding import Coded


@compressed
class LowRank(CompressedArray):
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

    def pack(self) -> "LowRank":
        return replace(self, u=pack(self.u), v=pack(self.v), owner="")

    def encode(self, kept: np.ndarray | None = None) -> Coded:
        attributes = {"inputs": self.input_axes, "outputs": self.output_axes}
        return Coded("LowRank", attributes, (), {"u": encode(self.u), "v": encode(self.v)})

    @classmethod
    def decode(cls, coded: Coded, kept: np.ndarray | None = None) -> "LowRank":
        u, v = decode(coded.part("u")), decode(coded.part("v"))
        inputs, outputs = coded.attribute("inputs", int), coded.attribute("outputs", int)
        stack = u.ndim - inputs - 1
        fits = inputs > 0 and outputs > 0 and stack >= 0 and v.ndim == stack + 1 + outputs
        if not fits or u.shape[:stack] != v.shape[:stack] or u.shape[-1] != v.shape[stack] or u.dtype != v.dtype:
            raise ValueError(f"factors of shape {u.shape} and {v.shape} with {inputs} input axes do not multiply")
        return cls(u, v, inputs, outputs)


def matrix_shape(shape: tuple[int, ...], input_axes: int) -> tuple[int, int]:
    """Returns the shape of the matrix that a kernel is when its first `input_axes` axes are its rows."""
    return math.prod(shape[:input_axes]), math.prod(shape[input_axes:])
