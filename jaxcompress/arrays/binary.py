"""Weights of two or three values in training form; packed they are 2-bit integers, or three shared values."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxcompress.arrays.base import (
    CompressedArray,
    TrainingForm,
    by_layer,
    compressed,
    dense,
    dtype_name,
    fixed,
    stacked,
    static,
)
from jaxcompress.arrays.clustered import Clustered
from jaxcompress.arrays.masked import Masked
from jaxcompress.arrays.quantized import Quantized
from jaxcompress.arrays.straight_through import Movement, StraightThrough
from jaxcompress.numerics import binary


@compressed
class Binary(TrainingForm):
    """Means +1 where `weight` is at least `threshold` and -1 elsewhere (Courbariaux et al. 2015, arXiv:1511.00363).

    Gradients pass straight through. `threshold` is float32 and broadcasts against `weight`: zeros for the deterministic
    sign, thresholds drawn anew at each update for the stochastic one. What a mask in `weight` removes means zero.

    `pack` stores the deterministic sign. That is the one leaf whose `dense` changes by packing, and only while the
    threshold is a drawn one: a packed weight has no more noise.
    """

    weight: Array | CompressedArray
    threshold: Array = fixed()
    owner: str = static(default="")

    def dense(self) -> Array:
        return binary.binary_connect(dense(self.weight), self.threshold, kept(self.weight))

    def stacked(self) -> "Binary":
        threshold = jnp.broadcast_to(self.threshold, (self.shape[0], *self.threshold.shape[1:]))
        return replace(self, weight=stacked(self.weight), threshold=threshold)

    def pack(self) -> Quantized:
        return packed(replace(self, threshold=jnp.zeros_like(self.threshold)).integers(), 2, self.dtype)

    def integers(self) -> tuple[Array, Array, Array]:
        one = jnp.ones((1,) * self.ndim, jnp.float32)
        return binary.signs(dense(self.weight), self.threshold, kept(self.weight)), one, jnp.zeros_like(one)


@compressed
class ScaledBinary(TrainingForm):
    """Means the signs of `weight` times its mean magnitude over `axes` (Rastegari et al. 2016, arXiv:1603.05279).

    `axes` are negative, so that they hold for stacked layers too: all but the channel's. What a mask in `weight`
    removes means zero and does not count in the mean.
    """

    weight: Array | CompressedArray
    axes: tuple[int, ...] = static()
    owner: str = static(default="")

    def dense(self) -> Array:
        return binary.xnor(dense(self.weight), self.axes, kept(self.weight))

    def stacked(self) -> "ScaledBinary | None":
        return None if -self.ndim in self.axes else replace(self, weight=stacked(self.weight))

    def pack(self) -> Quantized:
        return packed(self.integers(), 2, self.dtype)

    def integers(self) -> tuple[Array, Array, Array]:
        codes, scale = binary.scaled_signs(lax.stop_gradient(dense(self.weight)), self.axes, kept(self.weight))
        return codes, scale, jnp.zeros_like(scale)


@compressed
class Ternary(TrainingForm):
    """Means -scale, 0 or scale by how `weight` compares with its mean magnitude (Li & Liu 2016, arXiv:1605.04711).

    Zero is what does not exceed `threshold` (float32 scalar) times the mean magnitude over `axes`, which are negative
    as in `ScaledBinary`; the scale is the mean magnitude of the rest. What a mask in `weight` removes counts in none.
    """

    weight: Array | CompressedArray
    threshold: Array = fixed()
    axes: tuple[int, ...] = static()
    owner: str = static(default="")

    def dense(self) -> Array:
        return binary.twn(dense(self.weight), self.threshold, self.axes, kept(self.weight))

    def stacked(self) -> "Ternary | None":
        if -self.ndim in self.axes:  # layers share a scale, which no layer can tell alone
            return None
        return replace(self, weight=stacked(self.weight), threshold=by_layer(self.threshold, self.shape))

    def pack(self) -> Quantized:
        return packed(self.integers(), 2, self.dtype)

    def integers(self) -> tuple[Array, Array, Array]:
        weight = lax.stop_gradient(dense(self.weight))
        codes, scale = binary.twn_codes(weight, self.threshold, self.axes, kept(self.weight))
        return codes, scale, jnp.zeros_like(scale)


@compressed
class TrainedTernary(TrainingForm):
    """Means ``-negative``, 0 or ``positive``, both trained (Zhu et al. 2017, arXiv:1612.01064).

    Zero is what does not exceed `threshold` (float32 scalar) times the largest magnitude of `weight` over `axes`, all
    axes of a layer. `positive` and `negative` are float32 of size 1 and the rank of `weight`.
    """

    weight: Array | CompressedArray
    positive: Array
    negative: Array
    threshold: Array = fixed()
    axes: tuple[int, ...] = static()
    owner: str = static(default="")

    def dense(self) -> Array:
        return binary.ttq(dense(self.weight), self.positive, self.negative, self.threshold, self.axes)

    def stacked(self) -> "TrainedTernary | None":
        if -self.ndim in self.axes:  # layers share a threshold, which no layer can tell alone
            return None
        return replace(self, weight=stacked(self.weight), threshold=by_layer(self.threshold, self.shape))

    def pack(self) -> Clustered:
        if self.positive.size != 1:
            raise ValueError(f"{self.positive.size} layers of TrainedTernary share no three values; pack each alone")
        codes = binary.ttq_codes(dense(self.weight), self.threshold, self.axes) + 1
        levels = jnp.stack([-self.negative.reshape(()), jnp.float32(0), self.positive.reshape(())])
        levels = jnp.where(levels == 0, 0.0, levels).astype(self.dtype)  # no negative zero, as `dense` has none
        return Clustered(codes.astype(jnp.int32), levels).pack()


def kept(weight: Any) -> Array | None:
    """Returns which entries the masks around a weight leave, or None where there is no mask."""
    if not isinstance(weight, Masked | StraightThrough | Movement):
        return None
    inner = kept(weight.weight)
    return weight.mask if inner is None else weight.mask & inner


def packed(integers: tuple[Array, Array, Array], bits: int, dtype: Any) -> Quantized:
    """Returns the integers of a leaf of `dtype` in storage form; a scale of zero, whose codes are all zero, is one."""
    codes, scale, zero_point = integers
    scale = jnp.where(scale == 0, jnp.ones_like(scale), scale)
    return Quantized(codes, scale, zero_point.astype(jnp.int8), bits, dtype_name(dtype))
