"""Sums of two codes, each on a grid of its own, in the arithmetics of kernels.

All take int32 and return int32: steps of the sum's scale from its zero point, which the caller adds, and clamps.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.interpreters.codes import Grid
from jaxcompress.numerics import fixed_point


def xnnpack(x: Array, y: Array, of_x: Grid, of_y: Grid, made: Grid) -> Array:
    """Adds int8 codes with factors of 20 bits and one rounding, ties up."""
    by_x, by_y = of_x.scale / made.scale, of_y.scale / made.scale
    shift = 20 - (int(np.frexp(max(by_x, by_y))[1]) - 1)
    mx, my = (int(np.rint(by * np.float32(2.0) ** shift)) for by in (by_x, by_y))
    start = (1 << (shift - 1)) - mx * of_x.zero_point - my * of_y.zero_point
    return jnp.right_shift(start + x * mx + y * my, shift)


def reference(x: Array, y: Array, of_x: Grid, of_y: Grid, made: Grid) -> Array:
    """Adds codes in fixed point: each is brought to twice the larger scale, and their sum to its own."""
    left, (by_x, by_y, by_sum) = _factors(of_x, of_y, made)

    def scaled(codes: Array, grid: Grid, by: fixed_point.Multiplier) -> Array:
        return fixed_point.multiply(jnp.left_shift(codes - grid.zero_point, left), by)

    return fixed_point.multiply(scaled(x, of_x, by_x) + scaled(y, of_y, by_y), by_sum)


def vectors(x: Array, y: Array, of_x: Grid, of_y: Grid, made: Grid, size: int) -> Array:
    """Adds int16 codes as LiteRT does 16 at a time: each has one rounding where those left over have two.

    LiteRT is given one example after the other, of `size` codes.
    """
    left, (by_x, by_y, by_sum) = _factors(of_x, of_y, made)

    def scaled(codes: Array, by: fixed_point.Multiplier) -> Array:
        shift = left + int(by.shift)
        shifted = codes << shift if shift >= 0 else codes >> -shift
        return fixed_point.doubling_high_product(shifted, by.multiplier)

    high = fixed_point.doubling_high_product(scaled(x, by_x) + scaled(y, by_y), by_sum.multiplier)
    total = fixed_point.divide_by_power(high, -by_sum.shift)
    in_vectors = (np.arange(x.size) % size < size // 16 * 16).reshape(x.shape)
    return jnp.where(in_vectors, total, reference(x, y, of_x, of_y, made))


def _factors(of_x: Grid, of_y: Grid, made: Grid) -> tuple[int, list[fixed_point.Multiplier]]:
    """Returns by how many bits two codes are shifted while they are brought to one scale, and what brings them there.

    The last factor brings their sum to its own scale.
    """
    left = 15 if made.bits == 16 else 20
    sx, sy, so = (np.float64(grid.scale) for grid in (of_x, of_y, made))
    twice = 2 * max(sx, sy)
    reals = (sx / twice, sy / twice, twice / ((1 << left) * so))
    return left, [fixed_point.multiplier_of(real) for real in reals]
