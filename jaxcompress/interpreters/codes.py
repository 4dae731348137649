"""What a device holds: the grid of every tensor, the integers of every layer; and how reals become codes and back."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxcompress.interpreters.graph import Graph

Arithmetic = Literal["xnnpack", "reference", "micro"]


class Grid(NamedTuple):
    """Maps an activation's codes of `bits` bits to reals, ``scale * (code - zero_point)``; a float32 and an int."""

    scale: np.float32
    zero_point: int
    bits: int = 8

    @property
    def smallest(self) -> int:
        """The smallest code."""
        return -(2 ** (self.bits - 1))

    @property
    def largest(self) -> int:
        """The largest code."""
        return 2 ** (self.bits - 1) - 1


class Layer(NamedTuple):
    """Holds the integers of a convolution or dense layer.

    `kernel` (int8) has the outputs last; `scale` (float32) and `bias` (int32, int64 beside activations of 16 bits, of
    scale ``input's * scale``) are by output. A file stores a code of the kernel in `bits`, 4 or 8. All four may be
    traced, as in training.
    """

    kernel: Any
    scale: Any
    bias: Any
    bits: Any = 8


class Integers(NamedTuple):
    """Holds a model that a device can run: its graph, the grid of every tensor, the integers of every layer."""

    graph: Graph
    grids: Mapping[str, Grid]
    layers: Mapping[str, Layer]


def encode(values: Array, grid: Grid, arithmetic: Arithmetic = "xnnpack") -> Array:
    """Rounds reals, the batch first, to the codes of a grid, as the kernels do with which a file of reals begins.

    XNNPACK multiplies with the inverse of the scale and rounds half to even; the others divide and round half away from
    zero, and have no rule beyond 2**31 steps. LiteRT's default kernel for int16 does as XNNPACK for 8 values of an
    example at a time; those left over it divides in float64 and rounds half away from zero. Codes are int8, and int16
    on a grid of 16 bits.
    """
    if arithmetic == "xnnpack":
        steps = jnp.round(values * (np.float32(1) / grid.scale))
        if grid.bits == 16:
            with jax.enable_x64(True):
                ratio = quotient(values.astype(jnp.float64), np.float64(grid.scale))
                left_over = _away_from_zero(ratio).astype(jnp.float32)
            size = int(np.prod(values.shape[1:]))
            in_vectors = (np.arange(values.size) % size < size // 8 * 8).reshape(values.shape)
            steps = jnp.where(in_vectors, steps, left_over)
    else:
        steps = _away_from_zero(quotient(values, grid.scale))
    codes = jnp.clip(steps + grid.zero_point, grid.smallest, grid.largest)
    return codes.astype(jnp.int16 if grid.bits == 16 else jnp.int8)


def _away_from_zero(ratio: Array) -> Array:
    """Rounds half away from zero by the fraction; adding a half to the whole would lose digits."""
    whole = jnp.trunc(ratio)
    return whole + jnp.sign(ratio) * (jnp.abs(ratio - whole) >= 0.5).astype(ratio.dtype)


def decode(codes: Array, grid: Grid) -> Array:
    """Returns the reals that codes stand for."""
    return (codes.astype(jnp.float32) - grid.zero_point) * grid.scale


def clamp_of(activation: str | None, grid: Grid, arithmetic: Arithmetic = "reference") -> tuple[int, int]:
    """Returns the smallest and largest code that a fused activation lets through.

    XNNPACK adds the zero point in float32 and rounds half to even; the others round half up before.
    """

    def code(real: float) -> int:
        steps = np.float32(real) / grid.scale
        if arithmetic == "xnnpack":
            return int(np.rint(steps + np.float32(grid.zero_point)))
        return grid.zero_point + int(np.floor(np.float64(steps) + 0.5))

    low = grid.smallest if activation is None else max(grid.smallest, code(0.0))
    return low, min(grid.largest, code(6.0)) if activation == "relu6" else grid.largest


def quotient(values: Array, divisor: Any) -> Array:
    """Divides as floats do. The compiler would turn a scalar divisor into a product with its inverse."""
    return values / lax.optimization_barrier(jnp.full_like(values, divisor))
