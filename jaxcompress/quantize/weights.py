"""Affine fake quantization of weights."""

from typing import Any, Literal

import jax.numpy as jnp

from jaxcompress.arrays import FakeQuantized
from jaxcompress.paths import rewrite
from jaxcompress.transform import Transform, identity_update, owned

Granularity = Literal["tensor", "channel"]


def weights(
    pattern: str,
    bits: int,
    *,
    granularity: Granularity = "channel",
    symmetric: bool = True,
    channel_axis: int = -1,
    name: str | None = None,
) -> Transform:
    """Rounds the matched weights to `bits`-bit integers in the forward pass and trains through the rounding.

    One scale per array (``tensor``) or one per index of `channel_axis` (``channel``; the last axis holds the outputs of
    Flax's kernels). The scale follows the largest magnitude (Jacob et al. 2018, arXiv:1712.05877, section 3), and
    gradients pass straight through (Bengio et al. 2013, arXiv:1308.3432); unlike the paper's the gradient is not cut at
    the ends of the range, which no weight exceeds.

    Raises ValueError for `bits` outside 2..8, an unknown granularity, and, from `init`, for a pattern without a match.
    """
    if not (isinstance(bits, int) and 2 <= bits <= 8):
        raise ValueError(f"bits {bits!r} for pattern {pattern!r} is not an integer from 2 to 8")
    if granularity not in ("tensor", "channel"):
        raise ValueError(f"granularity {granularity!r} for pattern {pattern!r} is not 'tensor' or 'channel'")
    owner = name or f"weights[{pattern}]"

    def wrap(path: str, leaf: Any) -> Any:
        if owned(leaf, owner):
            return leaf
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"{path} of dtype {leaf.dtype} cannot be quantized; weights are floating-point")
        axes = tuple(range(-leaf.ndim, 0))
        if granularity == "channel":
            if not -leaf.ndim <= channel_axis < 0:
                raise ValueError(f"channel_axis {channel_axis} is not in [-{leaf.ndim}, -1], the axes of {path}")
            axes = tuple(axis for axis in axes if axis != channel_axis)
        return FakeQuantized(leaf, jnp.int32(bits), axes, symmetric, owner)

    return Transform((owner,), lambda params: rewrite(params, pattern, wrap), identity_update)
