"""Histograms over a range that doubles, and the clipping ranges that they suggest.

A histogram is a pair ``(counts, exponent)``: `counts` are uint32, over equal bins that share out the reals from
``-2**exponent`` to ``2**exponent``; the number of bins is a power of two. Zeros are in no bin, since every affine
quantizer stores them exactly. Bin `i` holds ``floor(x / width) == i - bins / 2``, and a wider range has bins that are
whole unions of the narrower one's, so the histogram of some values does not depend on how they came in batches.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int, UInt32

from jaxcompress.numerics import affine

LOWEST_EXPONENT = -100  # all bins are wider than the smallest normal float32; smaller values share the middle ones

# Clipped to these fractions of the extremes: 16 an octave, since the squared error is flat, down to 1/246.
_FRACTIONS = np.exp2(-np.arange(128) / 16).astype(np.float32)
_STRIDE = 8  # bins from one threshold that the divergence is measured at to the next


def empty(bins: int) -> tuple[UInt32[Array, "bins"], Int[Array, ""]]:
    """Returns the histogram of no values; raises ValueError unless `bins` is a power of two from 4."""
    if bins < 4 or bins & (bins - 1):
        raise ValueError(f"bins {bins!r} is not a power of two from 4, of which halves and pairs are whole")
    return jnp.zeros(bins, jnp.uint32), jnp.int32(LOWEST_EXPONENT)


@jax.jit
def add(
    counts: UInt32[Array, "bins"], exponent: Int[Array, ""], values: Float[Array, "..."]
) -> tuple[UInt32[Array, "bins"], Int[Array, ""]]:
    """Counts `values` in, after doubling the range until it holds them all; what is not finite is left out."""
    values = values.reshape(-1).astype(jnp.float32)
    values = jnp.where(jnp.isfinite(values), values, 0.0)
    # peak = m * 2**needed with m in [0.5, 1): the range ends strictly above every value, so none is cut to its bin.
    _, needed = jnp.frexp(jnp.max(jnp.abs(values), initial=0.0))
    wider = jnp.where(jnp.any(values != 0), jnp.maximum(exponent, needed), exponent)
    half = counts.size // 2
    merged = (jnp.arange(-half, half) >> jnp.minimum(wider - exponent, 31)) + half
    places = jnp.floor(_scaled(values, half.bit_length() - 1 - wider)).astype(jnp.int32) + half
    places = jnp.where(values < 0, jnp.minimum(places, half - 1), places)  # it may have underflowed to -0
    counts = jnp.zeros_like(counts).at[merged].add(counts)
    return counts.at[places].add((values != 0).astype(jnp.uint32)), wider


def clipped(
    low: Float[Array, ""], high: Float[Array, ""], threshold: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Returns [low, high] clipped to [-threshold, threshold], and to its end nearer to zero where both lie beyond."""
    threshold = jnp.maximum(threshold, jnp.maximum(low, -high))
    return jnp.maximum(low, -threshold), jnp.minimum(high, threshold)


@partial(jax.jit, static_argnames="percent")  # in float32 the 0.01 per cent above 99.99 would be off by 0.04 %
def absolute_percentile(
    counts: UInt32[Array, "bins"], exponent: Int[Array, ""], total: UInt32[Array, ""], percent: float
) -> Float[Array, ""]:
    """Returns the magnitude that `percent` of all `total` values (zeros included) do not exceed.

    Interpolates inside a bin, so it is off by less than a bin's width. `percent` lies in (0, 100].
    """
    half = counts.size // 2
    falling = counts[:half] + counts[half:][::-1]  # by magnitude, the largest first
    reached = jnp.cumsum(falling, dtype=jnp.uint32)
    clipped = jnp.floor((1 - percent / 100) * total.astype(jnp.float32)).astype(jnp.uint32)
    bin = jnp.argmax(reached > clipped)
    before = (clipped + falling[bin] - reached[bin]).astype(jnp.float32)
    magnitude = half - bin.astype(jnp.float32) - before / jnp.maximum(falling[bin], 1).astype(jnp.float32)
    # Where zeros alone make up the percentage no bin is reached.
    return _scaled(jnp.where(reached[-1] > clipped, magnitude / half, 0.0), exponent)


def squared_error(
    counts: UInt32[Array, "bins"],
    edges: Float[Array, "bins+1"],
    low: Float[Array, ""],
    high: Float[Array, ""],
    bits: Array | int,
    symmetric: bool,
) -> Float[Array, ""]:
    """Returns the expected squared error of the affine quantizer for [low, high], values spread evenly in each bin.

    The integral over a bin is exact, so bins may be wider than a quantization step. With u = x / scale and n its
    clipped rounding, ``n / 12 + (u - n)**3 / 3`` is an antiderivative of the squared error ``(u - n)**2``.
    """
    scale, zero_point = affine.affine_range(low, high, bits, symmetric)
    smallest, largest = affine.code_range(bits, symmetric)

    def split(position: Array) -> tuple[Array, Array]:
        nearest = jnp.clip(jnp.round(position), smallest - zero_point, largest - zero_point)
        return nearest, position - nearest

    # The ends of the bins are taken apart first: a difference of neighbours after the rounding would not fuse.
    (first, left), (last, right) = split(edges[:-1] / scale), split(edges[1:] / scale)
    steps, width = last - first, jnp.diff(edges) / scale
    # Of one code the difference of the cubes is divided out by hand: far beyond the range it would lose all digits.
    across = (steps / 12 + (right**3 - left**3) / 3) / jnp.where(steps > 0, width, 1.0)
    mean = jnp.where(steps > 0, across, (left**2 + left * right + right**2) / 3)
    weights = counts.astype(jnp.float32)
    return jnp.square(scale) * jnp.sum(weights * mean) / jnp.maximum(jnp.sum(weights), 1.0)


@partial(jax.jit, static_argnames="symmetric")
def least_error_range(
    counts: UInt32[Array, "bins"],
    exponent: Int[Array, ""],
    low: Float[Array, ""],
    high: Float[Array, ""],
    bits: Array | int,
    symmetric: bool,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the clipping range within the extremes `low` and `high` whose `squared_error` is least.

    Searches 128 thresholds for both ends together, 16 an octave; an asymmetric range then moves one end at a time,
    twice over, from the best of them. The error is never above that of the extremes.
    """
    low, high = _scaled(jnp.minimum(low, 0.0), -exponent), _scaled(jnp.maximum(high, 0.0), -exponent)
    half = counts.size // 2
    edges = jnp.clip(jnp.arange(-half, half + 1, dtype=jnp.float32) / half, low, high)

    def best(lows: Array, highs: Array) -> tuple[Array, Array]:
        errors = jax.vmap(lambda a, b: squared_error(counts, edges, a, b, bits, symmetric))(lows, highs)
        return lows[jnp.argmin(errors)], highs[jnp.argmin(errors)]

    lower, upper = best(*clipped(low, high, jnp.maximum(-low, high) * _FRACTIONS))
    for _ in range(0 if symmetric else 2):
        highs = jnp.append(upper, high * _FRACTIONS)  # the first is the range found so far: ties keep it
        lower, upper = best(jnp.full_like(highs, lower), highs)
        lows = jnp.append(lower, low * _FRACTIONS)
        lower, upper = best(lows, jnp.full_like(lows, upper))
    return _scaled(lower, exponent), _scaled(upper, exponent)


@partial(jax.jit, static_argnames=("bits", "symmetric"))
def least_divergence_range(
    counts: UInt32[Array, "bins"],
    exponent: Int[Array, ""],
    low: Float[Array, ""],
    high: Float[Array, ""],
    bits: int,
    symmetric: bool,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the clipping range whose quantized histogram diverges least from the clipped one.

    The entropy calibration of Migacz (2017, "8-bit inference with TensorRT", GTC S7310): for each threshold T the
    reference P is the histogram with what lies beyond T added to its last bins; the candidate Q is the histogram within
    T, each code's total spread evenly over its bins that are not empty; T minimises KL(P, Q). Departures: both signs
    have bins of their own, which the affine quantizer of [max(low, -T), min(high, T)] maps to codes, so that the
    search serves asymmetric ranges too; T moves by 8 bins; zeros do not count; an empty last bin that takes in clipped
    values counts as one value in Q, where the divergence would be infinite and a lone outlier never clipped; no more
    than half of the values are clipped, since of values far from zero the first bin alone diverges nowhere. As in the
    source T starts where there are as many bins as codes, since fewer bins than codes are all told apart.
    """
    half = counts.size // 2
    first = 2 ** (bits - 1) if symmetric else 2**bits
    if first > half:
        raise ValueError(f"{counts.size} bins are too few to tell the {2**bits} codes of {bits} bits apart")
    reaches = jnp.append(jnp.arange(first, half, _STRIDE), half)  # of thresholds, in bins
    low, high = _scaled(low, -exponent), _scaled(high, -exponent)
    lows, highs = clipped(low, high, reaches.astype(jnp.float32) / half)
    scales, zero_points = affine.affine_range(lows, highs, bits, symmetric)
    candidates = (reaches, scales, zero_points)
    best = jnp.argmin(lax.map(lambda each: _divergence(counts, each[0], each[1], each[2], bits, symmetric), candidates))
    return _scaled(lows[best], exponent), _scaled(highs[best], exponent)


def _divergence(counts: Array, reach: Array, scale: Array, zero_point: Array, bits: int, symmetric: bool) -> Array:
    # KL(P, Q) for a threshold `reach` bins from zero; infinite where it clips more than half of the values.
    half = counts.size // 2
    places = jnp.arange(-half, half)
    below, above = places < -reach, places >= reach
    kept = jnp.where(below | above, jnp.uint32(0), counts)
    beyond = jnp.sum(jnp.where(below, counts, 0), dtype=jnp.uint32), jnp.sum(jnp.where(above, counts, 0))
    reference = kept + jnp.where(places == -reach, beyond[0], 0) + jnp.where(places == reach - 1, beyond[1], 0)
    centres = (places.astype(jnp.float32) + 0.5) / half
    codes = affine.quantize(centres, scale, zero_point, bits, symmetric).astype(jnp.int32) + 2 ** (bits - 1)
    totals = jax.ops.segment_sum(kept, codes, 2**bits, indices_are_sorted=True).astype(jnp.float32)
    filled = jax.ops.segment_sum((kept > 0).astype(jnp.float32), codes, 2**bits, indices_are_sorted=True)
    spread = (totals / jnp.maximum(filled, 1.0))[codes]
    p = reference.astype(jnp.float32)
    q = jnp.where(kept > 0, spread, jnp.where(reference > 0, 1.0, 0.0))
    ratio = jnp.where(p > 0, p, 1.0) / jnp.where(p > 0, q, 1.0)
    # Both are normalised at the end: P = p / sum(p), Q = q / sum(q).
    total = jnp.maximum(jnp.sum(p), 1.0)
    divergence = jnp.sum(p * jnp.log(ratio)) / total + jnp.log(jnp.maximum(jnp.sum(q), 1.0) / total)
    return jnp.where(jnp.sum(totals) >= total / 2, divergence, jnp.inf)


def _scaled(values: Array, exponent: Array) -> Array:
    return jnp.ldexp(values, exponent)  # exact, unlike a product with exp2
