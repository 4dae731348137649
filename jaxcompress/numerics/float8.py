"""Floating-point numbers of 8 bits, E4M3 and E5M2: rounding to them, and their bit patterns.

Micikevicius et al. 2022 (arXiv:2209.05433, table 1). Written in float32 arithmetic that is exact but for the
one rounding, so that every backend and every program gives the same bits.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, UInt8

from jaxcompress.numerics.binary import Axes, reciprocal

Format = Literal["e4m3", "e5m2"]


class Layout(NamedTuple):
    """Describes a format: the bits of its mantissa, its smallest normal exponent, its largest finite magnitude."""

    mantissa: int
    exponent: int
    largest: float
    largest_code: int


# E5M2 follows IEEE 754; E4M3 has no infinities and one pattern of NaN, for a larger range (table 1).
LAYOUTS: dict[Format, Layout] = {"e4m3": Layout(3, -6, 448.0, 0x7E), "e5m2": Layout(2, -14, 57344.0, 0x7B)}


def encode(values: Float[Array, "..."], format: Format) -> UInt8[Array, "..."]:
    """Rounds `values` half to even and returns their bit patterns: sign, exponent, mantissa.

    What lies beyond the largest finite magnitude, infinities included, saturates to it. NaN becomes NaN, and negative
    zero becomes zero, which the sum of the straight-through estimator makes of it anyway.
    """
    layout = LAYOUTS[format]
    wide = values.astype(jnp.float32)
    magnitude = jnp.abs(wide)
    _, above = jnp.frexp(magnitude)  # magnitude = fraction * 2**above with the fraction in [1/2, 1)
    exponent = jnp.clip(above - 1, layout.exponent, 15)
    # In units of its last place a magnitude is an integer of at most 2**(mantissa + 1), and the patterns count on from
    # one exponent to the next. Subnormal numbers have the unit of the smallest normal ones.
    units = jnp.round(jnp.ldexp(magnitude, layout.mantissa - exponent))
    steps = units + jnp.ldexp((exponent - layout.exponent).astype(jnp.float32), layout.mantissa)
    code = jnp.where(units > 0, jnp.minimum(steps, layout.largest_code), 0.0).astype(jnp.uint8)  # zero has no exponent
    code = jnp.where((wide < 0) & (code > 0), code | jnp.uint8(0x80), code)
    return jnp.where(jnp.isnan(wide), jnp.uint8(0x7F), code)


def decode(codes: UInt8[Array, "..."], format: Format) -> Float[Array, "..."]:
    """Returns the float32 values of bit patterns; those of no finite number become NaN."""
    layout = LAYOUTS[format]
    code = (codes & jnp.uint8(0x7F)).astype(jnp.int32)
    field, fraction = code >> layout.mantissa, code & (2**layout.mantissa - 1)
    units = jnp.where(field > 0, fraction + 2**layout.mantissa, fraction).astype(jnp.float32)
    magnitude = jnp.ldexp(units, jnp.maximum(field - 1, 0) + layout.exponent - layout.mantissa)
    value = jnp.where(codes >= 0x80, -magnitude, magnitude)
    return jnp.where(code > layout.largest_code, jnp.nan, value)


def largest_scale(weight: Float[Array, "..."], axes: Axes, format: Format) -> Float[Array, "..."]:
    """Returns the scale that maps the largest magnitude over `axes` to the format's largest; 1 where all are zero.

    Float32; the axes stay with size 1. The scale is at least the smallest normal number.
    """
    peak = jnp.max(jnp.abs(weight.astype(jnp.float32)), axis=axes, keepdims=True, initial=0.0)
    scale = peak * reciprocal(jnp.float32(LAYOUTS[format].largest))
    return jnp.where(peak > 0, jnp.maximum(scale, jnp.finfo(jnp.float32).tiny), 1.0)


def quantize(weight: Float[Array, "..."], scale: Array, format: Format) -> UInt8[Array, "..."]:
    """Returns the bit patterns of ``weight / scale``."""
    return encode(weight.astype(jnp.float32) * reciprocal(scale), format)


def dequantize(codes: UInt8[Array, "..."], scale: Array, format: Format) -> Float[Array, "..."]:
    """Returns the reals that bit patterns of a scale stand for."""
    return decode(codes, format) * scale
