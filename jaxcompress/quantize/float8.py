"""Weights in 8-bit floating point."""

from typing import Any, get_args

from jaxcompress.arrays import Float8
from jaxcompress.numerics.float8 import Format
from jaxcompress.paths import rewrite
from jaxcompress.quantize.learned import reduced_axes
from jaxcompress.quantize.weights import Granularity
from jaxcompress.transform import Transform, identity_update, owned
from jaxcompress.weights import checked_result, checked_weight


def float8(
    pattern: str,
    format: Format = "e4m3",
    scaled: bool = True,
    *,
    granularity: Granularity = "tensor",
    channel_axis: int = -1,
    name: str | None = None,
) -> Transform:
    """Rounds the matched weights to 8-bit floating point in the forward pass and trains through the rounding.

    `format` is ``e4m3``, of 4 bits of exponent and magnitudes up to 448, or ``e5m2``, of 5 and up to 57344
    (Micikevicius et al. 2022, arXiv:2209.05433, table 1). If `scaled`, a scale per array (``tensor``) or per index of
    `channel_axis` (``channel``) maps the largest magnitude to the format's largest, as the paper's per-tensor scaling
    factors do (section 3); otherwise larger magnitudes saturate. Rounding is half to even, and gradients pass straight
    through. Packed a weight is its bit pattern, 8 bits or fewer by entropy coding, and the scales.

    Raises ValueError for an unknown format or granularity, and, from `init`, for a pattern without a match and for
    weights that are not finite.
    """
    if format not in get_args(Format):
        raise ValueError(f"format {format!r} for pattern {pattern!r} is not 'e4m3' or 'e5m2'")
    if granularity not in get_args(Granularity):
        raise ValueError(f"granularity {granularity!r} for pattern {pattern!r} is not 'tensor' or 'channel'")
    owner = name or f"float8[{pattern}]"

    def wrap(path: str, leaf: Any) -> Any:
        if owned(leaf, owner):
            return leaf
        leaf = checked_weight(path, leaf, "quantized")
        axes = reduced_axes(path, leaf, channel_axis if granularity == "channel" else None)
        return checked_result(path, leaf, Float8(leaf, axes, format, scaled, owner), "quantized")

    return Transform((owner,), lambda params: rewrite(params, pattern, wrap), identity_update)
