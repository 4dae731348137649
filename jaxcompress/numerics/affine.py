"""Affine integers: scale, zero point, rounding, and the straight-through estimator.

A real number r is stored as an integer q with ``r = scale * (q - zero_point)`` (Jacob et al. 2018, arXiv:1712.05877,
eq. 1). `bits` may be a traced array, so that a sweep over bit widths is one program.
"""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int8

Axes = tuple[int, ...]


def code_range(bits: Array | int, symmetric: bool) -> tuple[Array, Array]:
    """Returns the smallest and largest integer code.

    Symmetric codes leave out the most negative value (-127..127 for 8 bits), as integer kernels want of weights;
    asymmetric ones use all 2**bits values (-128..127).
    """
    # Behind the barrier bits are never a constant of the program: XLA would turn the division by a constant range into
    # a product with its inverse, and the packed weights would differ from the trained ones in the last bit.
    # And ldexp, since exp2 of 15 is not 2**15 in float32.
    half = jnp.ldexp(jnp.float32(0.5), lax.optimization_barrier(jnp.asarray(bits, jnp.int32)))
    return (1 - half if symmetric else -half), half - 1


def affine_range(
    low: Float[Array, "..."], high: Float[Array, "..."], bits: Array | int, symmetric: bool
) -> tuple[Array, Array]:
    """Returns `(scale, zero_point)`, float32 and broadcastable, that cover the reals from `low` to `high`.

    The range is widened to hold 0, which is always stored exactly: a pruned weight stays zero. An all-zero range gets
    scale 1.
    """
    smallest, largest = code_range(bits, symmetric)
    low, high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)
    if symmetric:
        scale = jnp.maximum(-low, high) / largest
        scale = jnp.where(scale > 0, scale, 1.0)
        return scale, jnp.zeros_like(scale)
    scale = (high - low) / (largest - smallest)
    scale = jnp.where(scale > 0, scale, 1.0)
    return scale, jnp.clip(jnp.round(smallest - low / scale), smallest, largest)


def weight_range(
    weight: Float[Array, "..."], bits: Array | int, axes: Axes | None, symmetric: bool
) -> tuple[Array, Array]:
    """Returns `(scale, zero_point)` from the extremes of `weight` over `axes` (all of them for None)."""
    low = jnp.min(weight, axis=axes, keepdims=True)
    high = jnp.max(weight, axis=axes, keepdims=True)
    return affine_range(low, high, bits, symmetric)


def group_range(
    weight: Float[Array, "..."], bits: Array | int, axis: int, group: int, symmetric: bool
) -> tuple[Array, Array]:
    """Returns `(scale, zero_point)` of each run of `group` entries along `axis`, which shrinks to the number of runs.

    The axis must hold a whole number of runs. `spread` repeats the parameters to the shape of `weight`.
    """
    at = axis % weight.ndim
    runs = weight.reshape(*weight.shape[:at], -1, group, *weight.shape[at + 1 :])
    return affine_range(jnp.min(runs, axis=at + 1), jnp.max(runs, axis=at + 1), bits, symmetric)


def spread(parameter: Array, shape: tuple[int, ...]) -> Array:
    """Repeats a scale or zero point over the run of entries that it stands for, so that it broadcasts to `shape`.

    Every axis must have the size 1, which broadcasts and is left alone, or one that divides that of `shape`; a scalar
    broadcasts too.
    """
    if not parameter.ndim:
        return parameter
    for axis, (runs, size) in enumerate(zip(parameter.shape, shape, strict=True)):
        if runs not in (1, size):
            parameter = jnp.repeat(parameter, size // runs, axis=axis)
    return parameter


def quantize(
    values: Float[Array, "..."],
    scale: Array,
    zero_point: Array,
    bits: Array | int,
    symmetric: bool,
    noise: Array | None = None,
) -> Int8[Array, "..."]:
    """Rounds `values` half to even and returns their integer codes as int8, which knows no negative zero.

    With `noise` in [-1/2, 1/2), in units of `scale`, it is added before the rounding. Uniform noise makes the rounding
    stochastic: up with the probability of the fraction, so that the mean is the value itself (Gupta et al. 2015,
    arXiv:1502.02551, section 3), within the range of the codes. What lies on an integer stays there.
    """
    smallest, largest = code_range(bits, symmetric)
    steps = values / scale
    codes = jnp.round(steps)
    if noise is not None:  # added to the small remainder, since beside a large code it would lose digits
        codes = codes + jnp.round((steps - codes) + noise)
    return jnp.clip(codes + zero_point, smallest, largest).astype(jnp.int8)


def dequantize(codes: Array, scale: Array, zero_point: Array) -> Float[Array, "..."]:
    """Returns the reals that `codes` stand for."""
    return (codes.astype(scale.dtype) - zero_point) * scale


def straight_through(values: Float[Array, "..."], quantized: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns exactly `quantized` forwards and passes gradients to `values` (Bengio et al. 2013, arXiv:1308.3432).

    Written ``q + (w - stop_gradient(w))`` since the usual ``w + stop_gradient(q - w)`` rounds: its value is not q.
    """
    return lax.stop_gradient(quantized) + (values - lax.stop_gradient(values))
