"""Integer weights: in training form rounded in the forward pass, in storage form integers with a scale."""

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
from jaxcompress.coding import (
    Coded,
    Stream,
    decode_array,
    decode_codes,
    decode_dtype,
    decode_mask,
    decode_scale,
    encode_codes,
    encode_mask,
)
from jaxcompress.numerics import affine


@compressed
class FakeQuantized(TrainingForm):
    """Means `weight` rounded to `bits`-bit integers; gradients pass straight through to `weight`.

    The scale follows the extremes of `weight` over `axes`: all axes for one scale per tensor, all but the channel's for
    one per channel. With a `group`, `axes` is one axis, and runs of `group` consecutive entries along it share a scale.
    Axes are negative, so that they hold for stacked layers too. `bits` is an int32 scalar in [2, 8] and may be traced.
    """

    weight: Array | CompressedArray
    bits: Array = fixed()
    axes: tuple[int, ...] = static()
    symmetric: bool = static(default=True)
    owner: str = static(default="")
    group: int = static(default=0)

    def dense(self) -> Array:
        return self.rounded(None)

    def rounded(self, noise: Array | None) -> Array:
        """Returns what the leaf means when `noise`, in units of the scale, is added before the rounding."""
        weight = dense(self.weight)
        reals = affine.dequantize(*_spread(*self.codes(noise)))
        return affine.straight_through(weight, reals.astype(weight.dtype))

    def stacked(self) -> "FakeQuantized | None":
        if -self.ndim in self.axes:  # layers share a scale, which no layer can tell alone
            return None
        bits = self.bits if self.bits.ndim else jnp.broadcast_to(self.bits, self.shape[:1])
        return replace(self, weight=stacked(self.weight), bits=bits)

    def pack(self) -> "Quantized":
        codes, scale, zero_point = self.codes(None)
        return Quantized(codes, scale, zero_point.astype(jnp.int8), int(self.bits), dtype_name(self.dtype))

    def integers(self) -> tuple[Array, Array, Array]:
        return _spread(*self.codes(None))

    def codes(self, noise: Array | None) -> tuple[Array, Array, Array]:
        """Returns ``(codes, scale, zero_point)``, the last two with one entry for each group."""
        weight = lax.stop_gradient(dense(self.weight)).astype(jnp.float32)
        if self.group:
            (axis,) = self.axes
            scale, zero_point = affine.group_range(weight, self.bits, axis, self.group, self.symmetric)
        else:
            scale, zero_point = affine.weight_range(weight, self.bits, self.axes, self.symmetric)
        by_entry = affine.spread(scale, self.shape), affine.spread(zero_point, self.shape)
        return affine.quantize(weight, *by_entry, self.bits, self.symmetric, noise), scale, zero_point


@compressed
class Dithered(TrainingForm):
    """Means the integers of `weight`, a FakeQuantized, with `noise` added before they are rounded.

    With `noise` uniform on [-1/2, 1/2), in units of the scale and of the shape of `weight`, the rounding is stochastic
    and right in the mean (Gupta et al. 2015, arXiv:1502.02551, section 3). Gradients pass straight through.

    `pack` rounds to nearest: like that of a Binary leaf with a drawn threshold it changes what the leaf means, since a
    packed weight has no more noise. `integers` are those of `dense`.
    """

    weight: FakeQuantized
    noise: Array = fixed()
    owner: str = static(default="")

    def dense(self) -> Array:
        return self.weight.rounded(self.noise)

    def stacked(self) -> "Dithered | None":
        weight = self.weight.stacked()
        return None if weight is None else replace(self, weight=weight)

    def pack(self) -> "Quantized":
        return self.weight.pack()

    def integers(self) -> tuple[Array, Array, Array]:
        return _spread(*self.weight.codes(self.noise))


@compressed
class Quantized(CompressedArray):
    """Means ``scale * (codes - zero_point)``, with int8 `codes` of which `bits` bits are used.

    `scale` (float32) and `zero_point` (int8) are of one shape. Along each axis of `codes` they have one entry for the
    whole axis, for each index, or for each run of consecutive ones. Nothing in it is trained.
    """

    codes: Array = fixed()
    scale: Array = fixed()
    zero_point: Array = fixed()
    bits: int = static()
    dense_dtype: str = static(default="float32")
    owner: str = static(default="")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def dtype(self) -> Any:
        return jnp.dtype(self.dense_dtype)

    def dense(self) -> Array:
        return affine.dequantize(*self.integers()).astype(self.dense_dtype)

    def stacked(self) -> "Quantized":
        def every_layer(x: Array) -> Array:
            layers = affine.spread(x, (self.shape[0], *x.shape[1:]))
            return jnp.broadcast_to(layers, (self.shape[0], *x.shape[1:]))

        return replace(self, scale=every_layer(self.scale), zero_point=every_layer(self.zero_point))

    def pack(self) -> "Quantized":
        return replace(self, owner="")

    def integers(self) -> tuple[Array, Array, Array]:
        return _spread(self.codes, self.scale, self.zero_point.astype(jnp.float32))

    def encode(self, kept: np.ndarray | None = None) -> Coded:
        """Stores all codes, or the positions and codes of those that do not mean zero, whichever is smaller."""
        codes, zero = np.asarray(self.codes), np.asarray(affine.spread(self.zero_point, self.shape))
        offset = 2 ** (self.bits - 1)
        whole: tuple[Stream, ...] = (encode_codes(codes.astype(np.int32) + offset, 2**self.bits),)
        mask = codes != zero
        sparse = (encode_mask(mask), encode_codes(codes[mask].astype(np.int32) + offset, 2**self.bits))
        streams = min(whole, sparse, key=lambda streams: sum(len(s.data) for s in streams))
        attributes = {"shape": list(self.shape), "bits": self.bits, "dtype": self.dense_dtype}
        parts = {"scale": encode(self.scale)}
        if zero.any():  # symmetric codes have none to store
            parts["zero_point"] = encode(self.zero_point)
        return Coded("Quantized", attributes, streams, parts)

    @classmethod
    def decode(cls, coded: Coded, kept: np.ndarray | None = None) -> "Quantized":
        bits, shape, dtype = coded.attribute("bits", int), coded.shape(), decode_dtype(coded)
        if not 2 <= bits <= 8:
            raise ValueError(f"Quantized of {bits} bits is not one this version reads")
        scale = decode_scale(coded)
        given = "zero_point" in coded.parts
        zero = decode_array(coded.part("zero_point")) if given else jnp.asarray(np.zeros(scale.shape, np.int8))
        if zero.dtype != jnp.int8 or not _spreads(scale.shape, zero.shape, shape):
            raise ValueError(f"scale {scale.shape} and zero point {zero.shape} {zero.dtype} do not fit {shape}")
        offset = 2 ** (bits - 1)
        if np.any(np.asarray(zero, np.int32) < -offset) or np.any(np.asarray(zero, np.int32) >= offset):
            raise ValueError(f"a zero point of Quantized is no code of {bits} bits")
        codes = _spread_codes(np.asarray(zero), shape)
        sparse = any(stream.role == "mask" for stream in coded.streams)
        places = decode_mask(coded) if sparse else np.ones(coded.size(), bool)
        codes[places] = decode_codes(coded, 2**bits, int(np.count_nonzero(places))).astype(np.int32) - offset
        return cls(jnp.asarray(codes.reshape(shape)), scale, zero, bits, dtype)


def _spread_codes(zero: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the zero point of every entry, flat; in numpy, which compiles nothing for the shapes of a file."""
    for axis, (runs, size) in enumerate(zip(zero.shape, shape, strict=True)):
        if runs not in (1, size):
            zero = np.repeat(zero, size // runs, axis=axis)
    return np.broadcast_to(zero, shape).reshape(-1).copy()


def _spread(codes: Array, scale: Array, zero_point: Array) -> tuple[Array, Array, Array]:
    return codes, affine.spread(scale, codes.shape), affine.spread(zero_point, codes.shape)


def _spreads(scale: tuple[int, ...], zero: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    same_rank = len(scale) == len(zero) == len(shape)
    return (
        scale == zero
        and same_rank
        and all(a in (1, n) or (0 < a < n and n % a == 0) for a, n in zip(scale, shape, strict=True))
    )
