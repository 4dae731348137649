"""Fixed-point arithmetic of integer kernels: products with a real number, in int32 alone.

A kernel multiplies its accumulator by a real number, such as ``scale_in * scale_w / scale_out``. The reference kernels
of TensorFlow Lite and of the microcontrollers write it as ``multiplier * 2**(shift - 31)`` with an integer multiplier
in [2**30, 2**31) (Jacob et al. 2018, arXiv:1712.05877, section 2.2, and the gemmlowp library) and round twice.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jaxtyping import Int32, Int64

Integer = np.ndarray | np.int32 | int | Array
Ties = Literal["away", "up"]


class Multiplier(NamedTuple):
    """Holds positive reals as ``multiplier * 2**(shift - 31)``; int32 of one shape."""

    multiplier: Integer
    shift: Integer


def multiplier_of(real: np.ndarray | np.float64 | Array) -> Multiplier:
    """Writes positive reals, float64, as fixed-point multipliers, rounded half away from zero.

    Known reals become known multipliers; traced ones are of a scope in which JAX has 64 bits.
    """
    with jax.enable_x64(True):
        xp, split = (jnp, _fraction_and_exponent) if isinstance(real, Tracer) else (np, np.frexp)
        fraction, exponent = split(xp.asarray(real, np.float64))
        multiplier = xp.floor(fraction * 2.0**31 + 0.5).astype(np.int64)
        carried = multiplier == 2**31
        multiplier, exponent = xp.where(carried, 2**30, multiplier), exponent + carried.astype(np.int32)
        vanishes = (multiplier == 0) | (exponent < -31)
        found = xp.where(vanishes, 0, multiplier), xp.where(vanishes, 0, exponent)
        return Multiplier(*(part.astype(np.int32) for part in found))


def _fraction_and_exponent(real: Array) -> tuple[Array, Array]:
    """Returns what `numpy.frexp` does for positive normal float64, from their bits; below them, a vanishing exponent.

    `jnp.frexp` does not serve: newer JAX expands it after the scope of 64 bits has ended.
    """
    bits = lax.bitcast_convert_type(real, jnp.int64)
    exponent = (bits >> 52) - 1022
    fraction = lax.bitcast_convert_type((bits & (2**52 - 1)) | (1022 << 52), jnp.float64)
    return fraction, exponent.astype(jnp.int32)


def multiply(values: Int32[Array, "..."], by: Multiplier, ties: Ties = "away") -> Int32[Array, "..."]:
    """Multiplies int32 `values` by reals with two roundings, whose last sends ties ``away`` from zero or ``up``.

    The reference kernels round away; those that LiteRT has for int4 convolutions round up, as vector units do.
    """
    left = jnp.left_shift(values, jnp.maximum(by.shift, 0))
    return divide_by_power(doubling_high_product(left, by.multiplier), jnp.maximum(-by.shift, 0), ties)


def multiply_wide(values: Int64[Array, "..."], by: Multiplier) -> Int32[Array, "..."]:
    """Multiplies int64 `values` by reals below 2**14 with one rounding, ties up, and 16 bits of each multiplier.

    So do the kernels for activations of 16 bits. Called where JAX has 64 bits.
    """
    multiplier = jnp.asarray(by.multiplier).astype(jnp.int64)
    reduced = jnp.where(multiplier < 0x7FFF0000, (multiplier + 2**15) >> 16, 0x7FFF)
    shift = 15 - jnp.asarray(by.shift).astype(jnp.int64)
    return ((values * reduced + (1 << (shift - 1))) >> shift).astype(jnp.int32)


def doubling_high_product(a: Int32[Array, "..."], b: Integer) -> Int32[Array, "..."]:
    """Returns ``round(a * b / 2**31)`` for b >= 0, half away from zero but for negative halves, which go up.

    The 64-bit product is put together from 16-bit limbs, since accelerators and JAX by default have no int64.
    """
    magnitude, factor = jnp.abs(a).astype(jnp.uint32), jnp.asarray(b).astype(jnp.uint32)
    low, high = jnp.uint32(0xFFFF), jnp.uint32(16)
    a0, a1, b0, b1 = magnitude & low, magnitude >> high, factor & low, factor >> high
    middle = ((a0 * b0) >> high) + ((a0 * b1) & low) + ((a1 * b0) & low)
    bottom = ((a0 * b0) & low) | (middle << high)
    top = a1 * b1 + ((a0 * b1) >> high) + ((a1 * b0) >> high) + (middle >> high)
    rounded = bottom + jnp.where(a < 0, jnp.uint32(2**30 - 1), jnp.uint32(2**30))
    top = top + (rounded < bottom).astype(jnp.uint32)
    result = ((top << jnp.uint32(1)) | (rounded >> jnp.uint32(31))).astype(jnp.int32)
    return jnp.where(a < 0, -result, result)


def divide_by_power(values: Int32[Array, "..."], exponent: Integer, ties: Ties = "away") -> Int32[Array, "..."]:
    """Returns ``round(values / 2**exponent)``, ties away from zero or up."""
    mask = jnp.left_shift(jnp.int32(1), jnp.asarray(exponent, jnp.int32)) - 1
    threshold = mask >> 1
    if ties == "away":
        threshold = threshold + (values < 0).astype(jnp.int32)
    return jnp.right_shift(values, jnp.asarray(exponent, jnp.int32)) + ((values & mask) > threshold).astype(jnp.int32)
