"""Affine fake quantization of weights."""

import itertools
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from jaxcompress.arrays import Dithered, FakeQuantized
from jaxcompress.paths import Params, named_key, rewrite
from jaxcompress.schedules import Schedule
from jaxcompress.transform import Transform, identity_update, owned, rewrite_owned
from jaxcompress.weights import checked_result, checked_weight

Granularity = Literal["tensor", "channel"]  # as devices know it
Bits = int | Array | Schedule


def weights(
    pattern: str,
    bits: Bits,
    *,
    granularity: Granularity | Literal["group"] = "channel",
    group: int = 32,
    symmetric: bool = True,
    stochastic: bool = False,
    channel_axis: int = -1,
    name: str | None = None,
) -> Transform:
    """Rounds the matched weights to `bits`-bit integers in the forward pass and trains through the rounding.

    One scale per array (``tensor``), one per index of `channel_axis` (``channel``; the last axis holds the outputs of
    Flax's kernels), or one per output and run of `group` consecutive entries along the axis before it (``group``; the
    inputs of a dense kernel, and the input channels of a convolution's, at each place of its window). The scale follows
    the largest magnitude (Jacob et al. 2018, arXiv:1712.05877, section 3), and gradients pass straight through (Bengio
    et al. 2013, arXiv:1308.3432); unlike the paper's the gradient is not cut at the ends of the range, which no weight
    exceeds.

    `bits`, from 2 to 8, may be an int32 scalar, traced too, so that a sweep over bits is one program. It may be a
    schedule: `init` takes its value at step 0, and `update` those of later steps, rounded and kept within 2 and 8.

    If `stochastic`, `update` draws noise with which weights are rounded up with the probability of their fraction
    (Gupta et al. 2015, arXiv:1502.02551, section 3): the mean of the rounded weight is the weight. It then needs a
    `key`, which is folded with the step. Until the first update, and once packed, weights are rounded to nearest, so
    pack before exporting integers.

    Raises ValueError for `bits` outside 2..8, an unknown granularity, a `group` that is not positive or comes with
    another `channel_axis`, an `update` that lacks its key, and, from `init`, for a pattern without a match and a group
    that does not divide its axis.
    """
    first = initial_bits(pattern, bits)
    if granularity not in ("tensor", "channel", "group"):
        raise ValueError(f"granularity {granularity!r} for pattern {pattern!r} is not 'tensor', 'channel' or 'group'")
    runs = group if granularity == "group" else 0
    if granularity == "group" and not (isinstance(group, int) and group > 0 and channel_axis == -1):
        raise ValueError(
            f"group {group!r} with channel_axis {channel_axis} for pattern {pattern!r}; a group is a positive "
            "number of inputs, and the outputs are the last axis, -1"
        )
    owner = name or f"weights[{pattern}]"

    def wrap(path: str, leaf: Any) -> Any:
        if owned(leaf, owner):
            return leaf
        leaf = checked_weight(path, leaf, "quantized")
        axes = _shared_axes(path, leaf, granularity, channel_axis, runs)
        rounded = checked_result(path, leaf, FakeQuantized(leaf, first, axes, symmetric, owner, runs), "quantized")
        return Dithered(rounded, jnp.zeros(leaf.shape, jnp.float32), owner) if stochastic else rounded

    def update(params: Params, step: Array | int, *, key: Array | None = None, **_: Any) -> Params:
        if callable(bits):
            number = bits_at(bits, step)
            params = rewrite_owned(params, owner, lambda leaf: _with_bits(leaf, number))
        if not stochastic:
            return params
        if key is None:
            raise ValueError(f"stochastic rounding for pattern {pattern!r} is drawn by each update, which needs a key")
        of_step = named_key(jax.random.fold_in(key, step), owner)
        places = itertools.count()
        return rewrite_owned(params, owner, lambda leaf: _drawn(leaf, jax.random.fold_in(of_step, next(places))))

    changes = stochastic or callable(bits)
    return Transform((owner,), lambda params: rewrite(params, pattern, wrap), update if changes else identity_update)


def bits_at(schedule: Schedule, step: Array | int) -> Array:
    """Returns the bits of a schedule at a step, rounded and kept within 2 and 8; an int32 scalar."""
    return jnp.clip(jnp.round(jnp.asarray(schedule(step), jnp.float32)), 2, 8).astype(jnp.int32)


def initial_bits(pattern: str, bits: Bits) -> Array:
    """Returns the bits at step 0 as int32; raises ValueError for what is no integer from 2 to 8."""
    if callable(bits):
        first = jnp.asarray(bits(0), jnp.float32)
        if not isinstance(first, Tracer) and not 2 <= float(jnp.round(first)) <= 8:
            raise ValueError(f"bits {float(first):g} at step 0 for pattern {pattern!r} are not from 2 to 8")
        return bits_at(bits, 0)
    if isinstance(bits, Array) and bits.ndim == 0 and jnp.issubdtype(bits.dtype, jnp.integer):
        if isinstance(bits, Tracer) or 2 <= int(bits) <= 8:
            return bits.astype(jnp.int32)
    elif isinstance(bits, int) and 2 <= bits <= 8:
        return jnp.int32(bits)
    raise ValueError(f"bits {bits!r} for pattern {pattern!r} is not an integer from 2 to 8")


def _shared_axes(path: str, leaf: Any, granularity: str, channel_axis: int, group: int) -> tuple[int, ...]:
    """Returns the axes along which weights share a scale, counted from the end."""
    axes = tuple(range(-leaf.ndim, 0))
    if granularity == "tensor":
        return axes
    if granularity == "group":
        if leaf.ndim < 2 or leaf.shape[-2] % group:
            raise ValueError(
                f"group {group} does not divide the inputs of {path}, whose shape is {leaf.shape}; they are the axis "
                "before the last"
            )
        return (-2,)
    if channel_axis not in axes:
        raise ValueError(f"channel_axis {channel_axis} is not in [-{leaf.ndim}, -1], the axes of {path}")
    return tuple(axis for axis in axes if axis != channel_axis)


def _with_bits(leaf: FakeQuantized | Dithered, bits: Array) -> FakeQuantized | Dithered:
    if isinstance(leaf, Dithered):
        return replace(leaf, weight=_with_bits(leaf.weight, bits))
    return replace(leaf, bits=jnp.broadcast_to(bits, leaf.bits.shape))


def _drawn(leaf: Dithered, key: Array) -> Dithered:
    return replace(leaf, noise=jax.random.uniform(key, leaf.noise.shape, jnp.float32, -0.5, 0.5))
