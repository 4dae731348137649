"""Binary and ternary weights: BinaryConnect, XNOR-Net, TWN and TTQ."""

import math
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import Binary, CompressedArray, Masked, ScaledBinary, Ternary, TrainedTernary, dense
from jaxcompress.numerics import binary as numerics
from jaxcompress.paths import Params, rewrite
from jaxcompress.quantize.learned import reduced_axes
from jaxcompress.transform import Transform, identity_update, owned, owned_by_path, rewrite_owned
from jaxcompress.weights import checked_result, checked_weight

BinaryMethod = Literal["binaryconnect", "xnor"]
TernaryMethod = Literal["twn", "ttq"]


def binary(
    pattern: str,
    method: BinaryMethod = "binaryconnect",
    *,
    stochastic: bool = False,
    channel_axis: int = -1,
    name: str | None = None,
) -> Transform:
    """Means the signs of the matched weights; the optimiser moves the real weights behind them.

    ``binaryconnect`` has the values -1 and +1 (Courbariaux et al. 2015, arXiv:1511.00363), and `update` clips the real
    weights to [-1, 1]. If `stochastic`, `update` draws the signs anew, +1 with the hard sigmoid's probability; it then
    needs a `key`, which is folded with the step, and until the first update the signs are the deterministic ones.
    Packing keeps the deterministic signs, where the paper tests stochastic training on the real weights.

    ``xnor`` multiplies the signs by the mean magnitude of each index of `channel_axis` (Rastegari et al. 2016,
    arXiv:1603.05279), the weights alone, not the activations.

    What an earlier transform pruned stays zero. Raises ValueError for an unknown method, a stochastic ``xnor``, an
    `update` that lacks its key, and, from `init`, for a pattern without a match, weights that are not finite, and
    leaves that ``binaryconnect`` cannot clip.
    """
    if method not in ("binaryconnect", "xnor"):
        raise ValueError(f"method {method!r} for pattern {pattern!r} is not 'binaryconnect' or 'xnor'")
    if stochastic and method == "xnor":
        raise ValueError(f"stochastic signs for pattern {pattern!r} need the method 'binaryconnect', not 'xnor'")
    owner = name or f"binary[{pattern}]"

    def wrap(path: str, leaf: Any) -> Any:
        if owned(leaf, owner):
            return leaf
        leaf = checked_weight(path, leaf, "quantized")
        if method == "xnor":
            signs = ScaledBinary(leaf, reduced_axes(path, leaf, channel_axis), owner)
            return checked_result(path, leaf, signs, "quantized")
        if not _clippable(leaf):
            raise ValueError(f"{path} is {type(leaf).__name__}; BinaryConnect clips plain or masked weights only")
        shape = leaf.shape if stochastic else (1,) * leaf.ndim
        return Binary(leaf, jnp.zeros(shape, jnp.float32), owner)

    def update(params: Params, step: Array | int, *, key: Array | None = None, **_: Any) -> Params:
        for path, leaf in owned_by_path(params, owner).items():
            if not _clippable(leaf.weight):  # a later transform reached into it
                kind = type(leaf.weight).__name__
                raise ValueError(f"{path}/weight is {kind}; BinaryConnect clips plain or masked weights only")
        clipped = rewrite_owned(params, owner, lambda leaf: replace(leaf, weight=_clipped(leaf.weight)))
        if not stochastic:
            return clipped
        if key is None:
            raise ValueError(f"stochastic signs for pattern {pattern!r} are drawn by each update, which needs a key")
        keys = iter(jax.random.split(jax.random.fold_in(key, step), max(1, len(owned(clipped, owner)))))
        return rewrite_owned(clipped, owner, lambda leaf: _drawn(leaf, next(keys)))

    init = lambda params: rewrite(params, pattern, wrap)
    return Transform((owner,), init, update if method == "binaryconnect" else identity_update)


def ternary(
    pattern: str, method: TernaryMethod = "twn", *, threshold: float | None = None, name: str | None = None
) -> Transform:
    """Means three values of the matched weights: zero, and one for those far enough from it on either side.

    ``twn`` compares with `threshold` times the mean magnitude of an array, 0.7 unless given, and takes the mean
    magnitude of the rest for the other two values (Li & Liu 2016, arXiv:1605.04711). ``ttq`` compares with `threshold`
    times the largest magnitude, 0.05 unless given, and trains the two values, ``.../positive`` and ``.../negative``,
    from those means (Zhu et al. 2017, arXiv:1612.01064). What an earlier transform pruned stays zero.

    Raises ValueError for an unknown method, a `threshold` that is negative, not finite, or for ``ttq`` not below 1,
    and, from `init`, for a pattern without a match and for weights that are not finite.
    """
    if method not in ("twn", "ttq"):
        raise ValueError(f"method {method!r} for pattern {pattern!r} is not 'twn' or 'ttq'")
    times, limit = (0.7, math.inf) if method == "twn" else (0.05, 1.0)
    times = times if threshold is None else threshold
    if not 0 <= times < limit:
        raise ValueError(f"threshold {times!r} of {method!r} for pattern {pattern!r} is not in [0, {limit:g})")
    owner = name or f"ternary[{pattern}]"

    def wrap(path: str, leaf: Any) -> Any:
        if owned(leaf, owner):
            return leaf
        leaf = checked_weight(path, leaf, "quantized")
        axes, cut = reduced_axes(path, leaf, None), jnp.float32(times)
        if method == "twn":
            return checked_result(path, leaf, Ternary(leaf, cut, axes, owner), "quantized")
        levels = numerics.ttq_levels(dense(leaf), cut, axes)
        return checked_result(path, leaf, TrainedTernary(leaf, *levels, cut, axes, owner), "quantized")

    return Transform((owner,), lambda params: rewrite(params, pattern, wrap), identity_update)


def _clippable(leaf: Any) -> bool:
    return _clippable(leaf.weight) if isinstance(leaf, Masked) else not isinstance(leaf, CompressedArray)


def _clipped(weight: Any) -> Any:
    if isinstance(weight, Masked):
        return replace(weight, weight=_clipped(weight.weight))
    return jnp.clip(weight, -1.0, 1.0)


def _drawn(leaf: Binary, key: Array) -> Binary:
    return replace(leaf, threshold=numerics.random_threshold(key, leaf.threshold.shape))
