"""Weights of 8-bit floating point: in training form rounded in the forward pass, in storage form bit patterns."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxcompress.arrays.base import (
    CompressedArray,
    TrainingForm,
    compressed,
    dense,
    dtype_name,
    encode,
    fixed,
    stacked,
    static,
)
from jaxcompress.coding import Coded, decode_codes, decode_dtype, decode_scale, encode_codes
from jaxcompress.numerics import float8
from jaxcompress.numerics.affine import straight_through


@compressed
class Float8(TrainingForm):
    """Means `weight` rounded to 8-bit floating point (Micikevicius et al. 2022, arXiv:2209.05433).

    The weight is divided by a scale that maps its largest magnitude over `axes` to the largest of `format`, and
    multiplied with it again: all axes for one scale per tensor, all but the channel's for one per channel, counted from
    the end so that they hold for stacked layers too. Unless it is `scaled` the scale is 1, and what is larger than the
    format's largest saturates. Gradients pass straight through.
    """

    weight: Array | CompressedArray
    axes: tuple[int, ...] = static()
    format: float8.Format = static(default="e4m3")
    scaled: bool = static(default=True)
    owner: str = static(default="")

    def dense(self) -> Array:
        weight = dense(self.weight)
        return straight_through(weight, float8.dequantize(*self._codes(weight), self.format).astype(weight.dtype))

    def stacked(self) -> "Float8 | None":
        if self.scaled and -self.ndim in self.axes:  # layers share a scale, which no layer can tell alone
            return None
        return replace(self, weight=stacked(self.weight))

    def pack(self) -> "PackedFloat8":
        codes, scale = self._codes(dense(self.weight))
        return PackedFloat8(codes, scale, self.format, dtype_name(self.dtype))

    def _codes(self, weight: Array) -> tuple[Array, Array]:
        weight = lax.stop_gradient(weight)
        one = jnp.ones((1,) * weight.ndim, jnp.float32)
        scale = float8.largest_scale(weight, self.axes, self.format) if self.scaled else one
        return float8.quantize(weight, scale, self.format), scale


@compressed
class PackedFloat8(CompressedArray):
    """Means the 8-bit floating-point numbers of the bit patterns `codes` (uint8) times `scale`.

    `scale` (float32) broadcasts against `codes`. Nothing in it is trained.
    """

    codes: Array = fixed()
    scale: Array = fixed()
    format: float8.Format = static()
    dense_dtype: str = static(default="float32")
    owner: str = static(default="")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def dtype(self) -> Any:
        return jnp.dtype(self.dense_dtype)

    def dense(self) -> Array:
        return float8.dequantize(self.codes, self.scale, self.format).astype(self.dense_dtype)

    def stacked(self) -> "PackedFloat8":
        return replace(self, scale=jnp.broadcast_to(self.scale, (self.shape[0], *self.scale.shape[1:])))

    def pack(self) -> "PackedFloat8":
        return replace(self, owner="")

    def encode(self, kept: np.ndarray | None = None) -> Coded:
        attributes = {"shape": list(self.shape), "format": self.format, "dtype": self.dense_dtype}
        stream = encode_codes(np.asarray(self.codes), 256)
        return Coded("PackedFloat8", attributes, (stream,), {"scale": encode(self.scale)})

    @classmethod
    def decode(cls, coded: Coded, kept: np.ndarray | None = None) -> "PackedFloat8":
        shape, scale = coded.shape(), decode_scale(coded)
        format, dtype = coded.attribute("format", str), decode_dtype(coded)
        if format not in float8.LAYOUTS:
            raise ValueError(f"PackedFloat8 of format {format!r} is not one this version reads")
        if scale.ndim != len(shape) or not all(a in (1, n) for a, n in zip(scale.shape, shape, strict=True)):
            raise ValueError(f"a scale of shape {scale.shape} does not fit {shape}")
        codes = decode_codes(coded, 256, coded.size())
        if np.any((codes & 0x7F) > float8.LAYOUTS[format].largest_code):
            raise ValueError(f"a pattern of {format} stands for no finite number")
        return cls(jnp.asarray(codes.astype(np.uint8).reshape(shape)), scale, format, dtype)
