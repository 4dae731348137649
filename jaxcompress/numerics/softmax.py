"""Softmax of int8 codes as integer kernels compute it: by a table of exponentials, or in fixed point.

A row's codes differ from its largest by 0 to 255 at most, so the exponentials of a scale are a table of 256 values,
computed once in whole numbers or floats as the kernels do. Probabilities are codes of the grid that every kernel
library demands, ``(code + 128) / 256``.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Int8, Int32

from jaxcompress.numerics.fixed_point import divide_by_power, doubling_high_product, multiplier_of

OUTPUT_SCALE, OUTPUT_ZERO_POINT = 1 / 256, -128
_CODES = 256
_INTEGER_BITS = 5  # of a difference in fixed point: those below -32 count as none
_SUM_BITS = 12  # integer bits of the sum of a row's exponentials
_ONE = 2**31 - 1  # the reals 0 to 1 as int32

# exp(-2**k) for k from -2 to 4 in 31 fractional bits, by which gemmlowp puts an exponential together.
_POWERS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
_EXP_EIGHTH, _THIRD = 1895147668, 715827883  # exp(-1/8) and 1/3
_48_17, _32_17 = 1515870810, 1010580540  # where Newton's division starts, with 29 fractional bits


def by_table(codes: Int8[Array, "... classes"], scale: np.float32) -> Int8[Array, "... classes"]:
    """Computes softmax over the last axis in float32 from a table, as LiteRT's kernels on CPUs do.

    The sum runs from the first class to the last, since floats do not add up alike in every order.
    """
    table = np.exp(np.float64(-np.float32(scale)) * np.arange(_CODES)).astype(np.float32)
    values = jnp.asarray(table)[_below_largest(codes)]
    classes = jnp.moveaxis(values, -1, 0)
    total, _ = lax.scan(lambda total, value: (total + value, None), jnp.zeros_like(classes[0]), classes)
    inverse = 1 / lax.optimization_barrier(total * np.float32(OUTPUT_SCALE))
    scaled = lax.optimization_barrier(values * inverse[..., None])
    below = jnp.floor(scaled)
    rounded = below.astype(jnp.int32) + (scaled - below >= 0.5).astype(jnp.int32)
    return jnp.clip(rounded + OUTPUT_ZERO_POINT, -128, 127).astype(jnp.int8)


def in_fixed_point(codes: Int8[Array, "... classes"], scale: np.float32) -> Int8[Array, "... classes"]:
    """Computes softmax over the last axis in int32 alone, as the reference kernels and microcontrollers do.

    The exponential is a polynomial of degree four around -1/8 times powers, and the division is Newton's, both of the
    gemmlowp library.
    """
    table, last = _exponentials(scale)
    below = _below_largest(codes)
    values = table[below]
    total = jnp.sum(divide_by_power(values, _SUM_BITS), -1, keepdims=True)
    zeros = lax.clz(total)
    fraction = ((total.astype(jnp.uint32) << zeros.astype(jnp.uint32)) - jnp.uint32(2**31)).astype(jnp.int32)
    product = doubling_high_product(values, _reciprocal_of_one_plus(fraction))
    rounded = divide_by_power(product, _SUM_BITS - zeros + 31 - 8) + OUTPUT_ZERO_POINT
    kept = jnp.where(below <= last, rounded, OUTPUT_ZERO_POINT)
    return jnp.clip(kept, -128, 127).astype(jnp.int8)


def _below_largest(codes: Array) -> Array:
    wide = codes.astype(jnp.int32)
    return jnp.max(wide, -1, keepdims=True) - wide


def _exponentials(scale: np.float32) -> tuple[Array, int]:
    """Returns ``exp(-scale * d)`` for d from 0 to 255, int32 of 31 fractional bits, and the last d that counts."""
    by = multiplier_of(np.float64(min(float(scale) * 2.0 ** (31 - _INTEGER_BITS), 2.0**31 - 1)))
    shift = int(by.shift)
    if shift < 0 or by.multiplier == 0:
        raise ValueError(f"a softmax of scale {scale:g} is below what its kernels take, 2**-27")
    last = int(np.floor((2.0**_INTEGER_BITS - 1) * 2.0 ** (31 - _INTEGER_BITS) / 2.0**shift))
    below = np.arange(_CODES)
    counted = jnp.asarray(np.where(below <= last, -below, 0) << shift, jnp.int32)
    table = _exponential_of(doubling_high_product(counted, by.multiplier))
    return jnp.where(below <= last, table, 0), last


def _exponential_of(values: Int32[Array, "..."]) -> Int32[Array, "..."]:
    """Returns the exponentials of fixed-point numbers (26 fractional bits) from -32 to 0, with 31 fractional bits."""
    bits = 31 - _INTEGER_BITS
    quarter = 1 << (bits - 2)
    within = (values & (quarter - 1)) - quarter  # in [-1/4, 0)
    result = _near_eighth(within << _INTEGER_BITS)
    rest = within - values
    for power, factor in zip(range(-2, _INTEGER_BITS), _POWERS, strict=True):
        smaller = doubling_high_product(result, np.int32(factor))
        result = jnp.where((rest & (1 << (bits + power))) != 0, smaller, result)
    return jnp.where(values == 0, _ONE, result)


def _near_eighth(values: Int32[Array, "..."]) -> Int32[Array, "..."]:
    """Returns exp of numbers in [-1/4, 0) by its Taylor polynomial around -1/8; 31 fractional bits in and out."""
    x = values + (1 << 28)
    square = _product(x, x)
    cube, fourth = _product(square, x), _product(square, square)
    higher = divide_by_power(_product(divide_by_power(fourth, 2) + cube, _THIRD) + square, 1)
    return _EXP_EIGHTH + _product(x + higher, _EXP_EIGHTH)


def _product(a: Array, b: Array | int) -> Array:
    """Returns ``round(a * b / 2**31)`` as `doubling_high_product` does, for b of either sign."""
    b = jnp.asarray(b, jnp.int32)
    return doubling_high_product(jnp.where(b < 0, -a, a), jnp.abs(b))


def _reciprocal_of_one_plus(fraction: Array) -> Array:
    """Returns ``1 / (1 + fraction)`` by three steps of Newton's division; int32 of 31 fractional bits in and out."""
    half = (fraction >> 1) + 2**30  # (1 + fraction) / 2
    x = _48_17 + doubling_high_product(-half, jnp.int32(_32_17))
    for _ in range(3):
        rest = 2**29 - doubling_high_product(half, x)  # 29 fractional bits, of either sign
        x = x + (_product(x, rest) << 2)
    return jnp.where(x >= 2**30, _ONE, x << 1)
