"""Weights of two or three values: signs, signs with a scale, and ternary values.

Forwards every quantizer returns its grid point exactly; backwards it has the gradient that its paper gives. Where a
weight is pruned (`kept` is false) it means zero and counts in no mean.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int8

from jaxcompress.numerics import affine

Axes = tuple[int, ...]
Kept = Bool[Array, "..."] | None

_FAN_IN = 16  # additions compiled as one loop; a smaller one compiles longer, a larger one runs longer


@partial(jax.jit, static_argnames="axes")
def mean_magnitude(weight: Float[Array, "..."], axes: Axes, kept: Kept = None) -> Float[Array, "..."]:
    """Returns the mean of ``|weight|`` over `axes`, which stay with size 1; float32, and 0 where nothing is `kept`.

    The sum has an order of its own, element by element in a tree, which no compiler may change: a scale has the same
    bits in the program that trains, in a vmapped sweep, and when packed. Powers of two are taken out before the sum, so
    that it neither overflows nor underflows.
    """
    magnitude = jnp.abs(weight.astype(jnp.float32))
    kept = jnp.ones(weight.shape, bool) if kept is None else kept
    magnitude = jnp.where(kept, magnitude, 0.0)
    unit = power_of_two(jnp.max(magnitude, axis=axes, keepdims=True, initial=0.0))
    return _tree_sum(magnitude / unit, axes) * _share(kept, axes) * unit


def binary_connect(
    weight: Float[Array, "..."], threshold: Float[Array, "..."], kept: Kept = None
) -> Float[Array, "..."]:
    """Returns +1 where ``weight >= threshold`` and -1 elsewhere (Courbariaux et al. 2015, arXiv:1511.00363, sec. 2.2).

    A `threshold` of 0 gives the deterministic sign (eq. 1), one drawn by `random_threshold` the stochastic one (eq. 2).
    The gradient passes straight through; the paper keeps the weights in [-1, 1] by clipping them after each update.
    """
    ones = jnp.ones((1,) * weight.ndim, jnp.float32)
    return _through(weight, weight, signs(weight, threshold, kept), ones)


def random_threshold(key: Array, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Draws thresholds uniform on (-1, 1], which a weight w reaches with its hard sigmoid's probability (eq. 3).

    That is ``clip((w + 1) / 2, 0, 1)``; at -1 and 1 the sign is certain.
    """
    return 1 - 2 * jax.random.uniform(key, shape, jnp.float32)


def signs(weight: Float[Array, "..."], threshold: Array | float = 0.0, kept: Kept = None) -> Int8[Array, "..."]:
    """Returns the codes +1 where ``weight >= threshold``, -1 elsewhere, and 0 for what is not `kept`."""
    codes = jnp.where(weight.astype(jnp.float32) >= threshold, jnp.int8(1), jnp.int8(-1))
    return codes if kept is None else jnp.where(kept, codes, jnp.int8(0))


def scaled_signs(weight: Float[Array, "..."], axes: Axes, kept: Kept = None) -> tuple[Int8[Array, "..."], Array]:
    """Returns ``(codes, scale)``: signs, and the mean magnitude over `axes` that fits them best.

    The scale of least squares is the mean of |W| over a filter (Rastegari et al. 2016, arXiv:1603.05279, eq. 6). Where
    all weights are zero the codes are too.
    """
    scale = mean_magnitude(weight, axes, kept)
    return jnp.where(scale > 0, signs(weight, kept=kept), jnp.int8(0)), scale


def xnor(weight: Float[Array, "..."], axes: Axes, kept: Kept = None) -> Float[Array, "..."]:
    """Returns ``mean|W| * sign(W)``, one mean for the weights that `axes` span (Rastegari et al. 2016, section 3.1).

    The gradient is that of the paper, ``dC/dW = dC/dB (1/n + alpha 1{|W| <= 1})`` with n the weights of a filter: it
    leaves out how the other weights of the filter share alpha.
    """
    codes, scale = scaled_signs(lax.stop_gradient(weight), axes, kept)
    wide = weight.astype(jnp.float32)
    share = _share(jnp.ones(weight.shape, bool) if kept is None else kept, axes)
    slope = share + jnp.where(jnp.abs(wide) <= 1, scale, 0.0)
    return _through(weight, wide * lax.stop_gradient(slope), codes, scale)


def twn_codes(
    weight: Float[Array, "..."], threshold: Array | float, axes: Axes, kept: Kept = None
) -> tuple[Int8[Array, "..."], Array]:
    """Returns ``(codes, scale)`` of a ternary weight (Li & Liu 2016, arXiv:1605.04711, section 2).

    Codes are the signs of what exceeds ``delta = threshold * mean|W|``, with 0.7 in the paper, and zero otherwise. The
    scale is the mean magnitude of those beyond delta.
    """
    magnitude = jnp.abs(weight.astype(jnp.float32))
    beyond = magnitude > threshold * mean_magnitude(weight, axes, kept)
    beyond = beyond if kept is None else beyond & kept
    return jnp.where(beyond, jnp.sign(weight), 0).astype(jnp.int8), mean_magnitude(weight, axes, beyond)


def twn(weight: Float[Array, "..."], threshold: Array | float, axes: Axes, kept: Kept = None) -> Float[Array, "..."]:
    """Returns the ternary weight of `twn_codes`; the gradient passes straight through, as in the paper."""
    codes, scale = twn_codes(lax.stop_gradient(weight), threshold, axes, kept)
    return _through(weight, weight, codes, scale)


def ttq_codes(weight: Float[Array, "..."], threshold: Array | float, axes: Axes) -> Int8[Array, "..."]:
    """Returns the signs of what exceeds ``threshold * max|W|`` in magnitude, and 0 otherwise.

    The thresholds of TTQ (Zhu et al. 2017, arXiv:1612.01064, section 3), with 0.05 in the paper.
    """
    magnitude = jnp.abs(weight.astype(jnp.float32))
    beyond = magnitude > threshold * jnp.max(magnitude, axis=axes, keepdims=True, initial=0.0)
    return jnp.where(beyond, jnp.sign(weight), 0).astype(jnp.int8)


def ttq(
    weight: Float[Array, "..."], positive: Array, negative: Array, threshold: Array | float, axes: Axes
) -> Float[Array, "..."]:
    """Returns `positive` where the code of `ttq_codes` is 1, ``-negative`` where it is -1, and 0 elsewhere.

    `positive` and `negative` are float32 and broadcast against `weight`. Each gets the gradients of its group (Zhu et
    al. 2017, eq. 7), `negative` with the minus sign of ``-negative``. The gradient of `weight` is multiplied by
    `positive`, 1 or `negative` by its group (eq. 8).
    """
    codes = ttq_codes(lax.stop_gradient(weight), threshold, axes)
    value = jnp.where(codes > 0, positive, jnp.where(codes < 0, -negative, 0.0))
    factor = lax.stop_gradient(jnp.where(codes > 0, positive, jnp.where(codes < 0, negative, 1.0)))
    # Zero forwards: the product of a weight and its factor could overflow, and the difference of infinities is none.
    towards_weight = factor * (weight - lax.stop_gradient(weight)).astype(jnp.float32)
    return affine.straight_through(value + towards_weight, value).astype(weight.dtype)


def ttq_levels(weight: Float[Array, "..."], threshold: Array | float, axes: Axes) -> tuple[Array, Array]:
    """Returns the mean magnitudes of both groups, from which ``(positive, negative)`` are trained.

    The least squares fit, as of TWN; the paper names no initial values. An empty group starts from the other's, and
    from 1 where all weights are zero.
    """
    codes = ttq_codes(weight, threshold, axes)
    both = mean_magnitude(weight, axes, codes != 0)
    both = jnp.where(both > 0, both, 1.0)
    means = (mean_magnitude(weight, axes, codes == sign) for sign in (1, -1))
    positive, negative = (jnp.where(mean > 0, mean, both) for mean in means)
    return positive, negative


def reciprocal(divisor: Array) -> Array:
    """Returns ``1 / divisor`` to multiply by, so that every program rounds alike."""
    # XLA makes a division by a broadcast a product with its inverse in some programs and not in others, by what else
    # they hold: halves would round to other codes. Behind the barrier there is one product in all of them.
    return lax.optimization_barrier(1 / divisor)


def _through(weight: Array, surrogate: Array, codes: Array, scale: Array) -> Array:
    """Returns ``codes * scale`` in the dtype of `weight` with the gradient of `surrogate`."""
    quantized = affine.dequantize(codes, scale, jnp.zeros_like(scale))
    return affine.straight_through(surrogate.astype(jnp.float32), quantized).astype(weight.dtype)


def _share(kept: Array, axes: Axes) -> Array:
    """Returns one over the number of entries kept, and 1 for none."""
    count = jnp.sum(kept, axis=axes, keepdims=True, dtype=jnp.int32).astype(jnp.float32)
    return reciprocal(jnp.maximum(count, 1.0))


def power_of_two(peak: Array) -> Array:
    """Returns the power of two at or below each normal `peak`, its bits without the mantissa; 1 for zero."""
    exponent = lax.bitcast_convert_type(peak, jnp.uint32) & jnp.uint32(0x7F800000)
    power = jnp.where(exponent > 0, lax.bitcast_convert_type(exponent, jnp.float32), 1.0)
    return jnp.minimum(power, 2.0**126)  # the inverse of the next one is subnormal, that is zero to XLA


def _tree_sum(values: Array, axes: Axes) -> Array:
    axes = tuple(axis % values.ndim for axis in axes)
    rest = [axis for axis in range(values.ndim) if axis not in axes]
    shape = [1 if axis in axes else n for axis, n in enumerate(values.shape)]
    rows = jnp.transpose(values, (*axes, *rest)).reshape(-1, *(values.shape[axis] for axis in rest))
    while rows.shape[0] > 1:
        height = -(-rows.shape[0] // _FAN_IN)
        rows = jnp.pad(rows, ((0, _FAN_IN * height - rows.shape[0]), *((0, 0),) * len(rest)))
        parts = [rows[i * height : (i + 1) * height] for i in range(_FAN_IN)]
        while len(parts) > 1:
            parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
        rows = parts[0]
    return rows.reshape(shape)
