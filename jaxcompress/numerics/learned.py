"""Quantizers that are trained with the network: learned steps and clips (LSQ, LSQ+, PACT), and DoReFa's bounded range.

Forwards every quantizer returns its grid point exactly; backwards it has the gradient that its paper gives. `bits` may
be a traced array. Steps, clips and offsets are float32 and broadcast against the values; the result has the values'
dtype. One that training drove to zero or below counts as the smallest normal number: its gradient still passes, so it
can come back, of which the papers do not speak.
"""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int8

from jaxcompress.numerics import affine
from jaxcompress.numerics.binary import Axes, Kept, mean_magnitude, reciprocal, scaled_signs


def lsq(
    values: Float[Array, "..."],
    step: Array | float,
    bits: Array | int,
    signed: Array | bool = True,
    *,
    symmetric: bool = False,
    count: int | None = None,
) -> Float[Array, "..."]:
    """Rounds `values` to integers times the learned `step` (Esser et al. 2020, arXiv:1902.08153, eqs. 1 and 2).

    Codes are -2**(bits-1)..2**(bits-1)-1, or 0..2**bits-1 for activations that are not `signed`; `symmetric` leaves out
    the smallest signed one, unlike the paper. The gradient of the step (eq. 3) is multiplied by ``1 / sqrt(N Q_P)``
    (section 2.2), where N is the `count` of weights that share a step, or of an activation's features without the
    batch: by default as many as share a step here. Values beyond the codes get no gradient (eq. 5).
    """
    wide, usable = values.astype(jnp.float32), usable_step(step)
    low, high = _code_range(bits, signed, symmetric)
    scaled = lax.stop_gradient(wide) * reciprocal(usable)
    codes, inside = jnp.clip(jnp.round(scaled), low, high), (low < scaled) & (scaled < high)
    slope = jnp.where(inside, codes - scaled, codes) * _gradient_scale(wide, usable, count, high)
    surrogate = jnp.where(inside, wide, 0.0) + slope * step
    return affine.straight_through(surrogate, codes * usable).astype(values.dtype)


def lsq_codes(
    values: Float[Array, "..."], step: Array | float, bits: Array | int, *, symmetric: bool = False
) -> Int8[Array, "..."]:
    """Returns the signed codes of `lsq`, which means them times ``usable_step(step)``."""
    low, high = _code_range(bits, True, symmetric)
    scaled = values.astype(jnp.float32) * reciprocal(usable_step(step))
    return jnp.clip(jnp.round(scaled), low, high).astype(jnp.int8)


def lsq_step(
    values: Float[Array, "..."],
    bits: Array | int,
    signed: Array | bool = True,
    *,
    symmetric: bool = False,
    axes: Axes | None = None,
    kept: Kept = None,
) -> Float[Array, "..."]:
    """Returns the initial step ``2 mean|values| / sqrt(Q_P)`` over `axes` (Esser et al. 2020, section 2.1).

    None for `axes` takes all of them; they stay with size 1. The step is 1 where all values are zero.
    """
    _, high = _code_range(bits, signed, symmetric)
    mean = mean_magnitude(values, tuple(range(values.ndim)) if axes is None else axes, kept)
    return jnp.where(mean > 0, usable_step(2 * mean / jnp.sqrt(high)), 1.0)


def lsq_plus(
    values: Float[Array, "..."],
    step: Array | float,
    offset: Array | float,
    bits: Array | int,
    *,
    count: int | None = None,
) -> Float[Array, "..."]:
    """Rounds `values` to ``offset + step * (0..2**bits-1)``, both learned (Bhalgat et al. 2020, arXiv:2004.09576).

    For activations with a negative side (section 3.1). Values within the range pass their gradient on, those at or
    beyond its ends pass it to the offset; the step has the gradient of LSQ. Both sums are multiplied by LSQ's
    ``1 / sqrt(N Q_P)``, see `lsq`.
    """
    wide, usable = values.astype(jnp.float32), usable_step(step)
    low, high = _code_range(bits, signed=False)
    scaled = (lax.stop_gradient(wide) - lax.stop_gradient(offset)) * reciprocal(usable)
    codes, inside = jnp.clip(jnp.round(scaled), low, high), (low < scaled) & (scaled < high)
    scale = _gradient_scale(wide, usable, count, high)
    slope = jnp.where(inside, codes - scaled, codes) * scale
    surrogate = jnp.where(inside, wide, scale * offset) + slope * step
    return affine.straight_through(surrogate, codes * usable + offset).astype(values.dtype)


def lsq_plus_range(
    values: Float[Array, "..."], bits: Array | int, iterations: int = 20
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the initial ``(step, offset)`` of LSQ+: from the extremes of `values`, then fitted to them.

    Starts at ``offset = min, step = (max - min) / (2**bits - 1)`` and lessens the mean squared error of rounding
    (Bhalgat et al. 2020, section 3.2). The paper descends along the gradient; here codes and the line through them are
    fitted in turn, each exactly, so that the error never grows. Constant values get step 1.
    """
    wide = values.astype(jnp.float32).reshape(-1)
    low, high = _code_range(bits, signed=False)
    offset = jnp.min(wide)
    step = (jnp.max(wide) - offset) / high

    def fit(_: Array, line: tuple[Array, Array]) -> tuple[Array, Array]:
        step, offset = line
        codes = jnp.clip(jnp.round((wide - offset) * reciprocal(usable_step(step))), low, high)
        centre, middle = jnp.mean(codes), jnp.mean(wide)
        spread = jnp.mean(jnp.square(codes - centre))
        slope = jnp.mean((codes - centre) * (wide - middle)) / jnp.where(spread > 0, spread, 1.0)
        fitted = (slope > 0) & jnp.isfinite(slope)
        return jnp.where(fitted, slope, step), jnp.where(fitted, middle - slope * centre, offset)

    step, offset = lax.fori_loop(0, iterations, fit, (step, offset))
    return jnp.where(step > 0, usable_step(step), 1.0), offset


def pact(values: Float[Array, "..."], alpha: Array | float, bits: Array | int) -> Float[Array, "..."]:
    """Clips activations to [0, alpha] and rounds to ``2**bits`` levels (Choi et al. 2018, arXiv:1805.06085, eqs. 1, 2).

    Values from `alpha` up pass their gradient to it (eq. 3), those in [0, alpha) on to themselves. The paper adds an L2
    penalty on `alpha` to the loss.
    """
    wide = values.astype(jnp.float32)
    _, high = _code_range(bits, signed=False)
    step = usable_step(alpha * reciprocal(high))
    codes = jnp.clip(jnp.round(lax.stop_gradient(wide) * reciprocal(step)), 0.0, high)
    above = wide >= usable_step(alpha)
    surrogate = jnp.where(above, alpha, jnp.where(wide >= 0, wide, 0.0))
    return affine.straight_through(surrogate, codes * step).astype(values.dtype)


def dorefa_activations(values: Float[Array, "..."], bits: Array | int) -> Float[Array, "..."]:
    """Clips to [0, 1] and rounds to multiples of ``1 / (2**bits - 1)`` (Zhou et al. 2016, arXiv:1606.06160).

    ``quantize_k`` after a bounded activation (section 2.4); gradients pass straight through where the
    values are in [0, 1].
    """
    wide = values.astype(jnp.float32)
    _, high = _code_range(bits, signed=False)
    codes = jnp.round(jnp.clip(wide, 0.0, 1.0) * high)
    surrogate = jnp.where((wide >= 0) & (wide <= 1), wide, 0.0)
    return affine.straight_through(surrogate, codes * reciprocal(high)).astype(values.dtype)


def dorefa_codes(
    weight: Float[Array, "..."], bits: Array | int, axes: Axes, kept: Kept = None
) -> tuple[Float[Array, "..."], Array]:
    """Returns DoReFa's weights as ``(codes, scale)`` with odd codes in -(2**bits - 1)..2**bits - 1.

    With k bits ``2 quantize_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1`` (Zhou et al. 2016, eq. 9), whose grid has no
    zero: its 2**k values are the odd multiples of ``1 / (2**k - 1)``. With one bit the signs times the mean magnitude
    (eqs. 7 and 8). Only weights that are not `kept` have the code 0, and those of an all-zero weight of one bit.
    """
    _, high = _code_range(bits, signed=False)
    codes = 2 * jnp.round(high * (_squashed(weight, axes) / 2 + 0.5)) - high
    codes = codes if kept is None else jnp.where(kept, codes, 0.0)
    one_bit, mean = scaled_signs(weight, axes, kept)
    scale = jnp.where(high == 1, mean, reciprocal(high))
    return jnp.where(high == 1, one_bit.astype(jnp.float32), codes), scale


def dorefa_weights(
    weight: Float[Array, "..."], bits: Array | int, axes: Axes, kept: Kept = None
) -> Float[Array, "..."]:
    """Returns the k-bit weights of `dorefa_codes`, in [-1, 1] for two bits and more.

    The rounding passes gradients straight through; from there they go on through the tanh and the largest of them over
    `axes` (all of a layer's in the paper). Those of one bit pass straight through.
    """
    codes, scale = dorefa_codes(lax.stop_gradient(weight), bits, axes, kept)
    _, high = _code_range(bits, signed=False)
    surrogate = jnp.where(high == 1, weight.astype(jnp.float32), _squashed(weight, axes))
    return affine.straight_through(surrogate, codes * scale).astype(weight.dtype)


def usable_step(step: Array | float) -> Float[Array, "..."]:
    """Returns a step as values are divided by it: float32, positive, without a gradient."""
    step = lax.stop_gradient(jnp.asarray(step, jnp.float32))
    return jnp.maximum(step, jnp.finfo(jnp.float32).tiny)


def _code_range(bits: Array | int, signed: Array | bool, symmetric: bool = False) -> tuple[Array, Array]:
    low, high = affine.code_range(bits, symmetric)
    return jnp.where(signed, low, 0.0), jnp.where(signed, high, high - low)


def _gradient_scale(values: Array, step: Array, count: int | None, high: Array) -> Array:
    count = max(1, values.size // step.size) if count is None else count
    return 1 / jnp.sqrt(count * high)


def _squashed(weight: Array, axes: Axes) -> Array:
    """Returns ``tanh(w) / max|tanh(w)|`` in float32, and zeros for an all-zero weight."""
    bounded = jnp.tanh(weight.astype(jnp.float32))
    peak = jnp.max(jnp.abs(bounded), axis=axes, keepdims=True, initial=0.0)
    inverse = reciprocal(lax.stop_gradient(jnp.where(peak > 0, peak, 1.0)))
    ratio = bounded * inverse
    # The derivative of a quotient squares its divisor, which for small weights is no float32; this one does not.
    return affine.straight_through(ratio - lax.stop_gradient(ratio) * (peak * inverse), lax.stop_gradient(ratio))
