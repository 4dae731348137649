"""Weights of few bits whose step is learned (LSQ), or whose range a tanh bounds (DoReFa-Net)."""

from typing import Any

import jax.numpy as jnp

from jaxcompress.arrays import DoReFa, LearnedStep, dense
from jaxcompress.arrays.binary import kept
from jaxcompress.numerics import learned
from jaxcompress.paths import rewrite
from jaxcompress.quantize.weights import Granularity
from jaxcompress.transform import Transform, identity_update, owned
from jaxcompress.weights import checked_result, checked_weight


def lsq(
    pattern: str,
    bits: int,
    *,
    granularity: Granularity = "tensor",
    symmetric: bool = False,
    channel_axis: int = -1,
    name: str | None = None,
) -> Transform:
    """Rounds the matched weights to `bits`-bit integers times a step that is trained with them.

    Esser et al. 2020, arXiv:1902.08153, with one step per array as there (``tensor``), or one per index of
    `channel_axis` (``channel``). Its gradient is scaled by the number of weights that share it and by the bits, and it
    starts from their mean magnitude, pruned ones left out; it stands beside the weight as ``.../step``, where the
    optimiser moves it. `symmetric` leaves out the most negative code, which integer kernels do not want.

    Raises ValueError for `bits` outside 2..8, an unknown granularity, and, from `init`, for a pattern without a match
    and for weights that are not finite.
    """
    if not (isinstance(bits, int) and 2 <= bits <= 8):
        raise ValueError(f"bits {bits!r} for pattern {pattern!r} is not an integer from 2 to 8")
    if granularity not in ("tensor", "channel"):
        raise ValueError(f"granularity {granularity!r} for pattern {pattern!r} is not 'tensor' or 'channel'")
    owner = name or f"lsq[{pattern}]"

    def wrap(path: str, leaf: Any) -> Any:
        if owned(leaf, owner):
            return leaf
        leaf = checked_weight(path, leaf, "quantized")
        axes = reduced_axes(path, leaf, channel_axis if granularity == "channel" else None)
        step = learned.lsq_step(dense(leaf), bits, symmetric=symmetric, axes=axes, kept=kept(leaf))
        rounded = LearnedStep(leaf, step, jnp.int32(bits), leaf.size // max(1, step.size), symmetric, owner)
        return checked_result(path, leaf, rounded, "quantized")

    return Transform((owner,), lambda params: rewrite(params, pattern, wrap), identity_update)


def dorefa(pattern: str, bits: int, *, name: str | None = None) -> Transform:
    """Rounds the ``tanh`` of the matched weights, divided by its largest, to ``2**bits`` values in [-1, 1].

    Zhou et al. 2016, arXiv:1606.06160, section 2.3; with one bit the signs times the mean magnitude. Weights keep no
    scale of their own, so that normalization should follow. None of the values is zero but those that an earlier
    transform pruned.

    Raises ValueError for `bits` outside 1..8, and, from `init`, for a pattern without a match and for weights that are
    not finite.
    """
    if not (isinstance(bits, int) and 1 <= bits <= 8):
        raise ValueError(f"bits {bits!r} for pattern {pattern!r} is not an integer from 1 to 8")
    owner = name or f"dorefa[{pattern}]"

    def wrap(path: str, leaf: Any) -> Any:
        if owned(leaf, owner):
            return leaf
        leaf = checked_weight(path, leaf, "quantized")
        return DoReFa(leaf, jnp.int32(bits), reduced_axes(path, leaf, None), owner)

    return Transform((owner,), lambda params: rewrite(params, pattern, wrap), identity_update)


def reduced_axes(path: str, leaf: Any, channel_axis: int | None) -> tuple[int, ...]:
    """Returns the axes of a leaf that share a scale: all of them, or all but `channel_axis`, counted from the end."""
    axes = tuple(range(-leaf.ndim, 0))
    if channel_axis is None:
        return axes
    if channel_axis not in axes:
        raise ValueError(f"channel_axis {channel_axis} is not in [-{leaf.ndim}, -1], the axes of {path}")
    return tuple(axis for axis in axes if axis != channel_axis)
