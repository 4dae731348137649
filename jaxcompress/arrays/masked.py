"""Pruned weights."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.arrays.base import CompressedArray, compressed, decode, dense, encode, fixed, pack, stacked, static
from jaxcompress.arrays.clustered import Clustered
from jaxcompress.arrays.quantized import Quantized
from jaxcompress.coding import Coded, decode_mask, encode_mask


@compressed
class Masked(CompressedArray):
    """Keeps the entries of `weight` where `mask` is true; the others mean zero and receive no gradient.

    `mask` is bool and has the shape of `weight`. Removed entries of `weight` keep their last value while training, so
    that a schedule that loosens can bring them back; `pack` sets them to zero.
    """

    weight: Array | CompressedArray
    mask: Array = fixed()
    owner: str = static(default="")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def dtype(self) -> Any:
        return self.weight.dtype

    def dense(self) -> Array:
        return jnp.where(self.mask, dense(self.weight), jnp.zeros((), self.dtype))

    def stacked(self) -> "Masked":
        return replace(self, weight=stacked(self.weight))

    def pack(self) -> CompressedArray:
        """Merges nested masks into one; on integers the mask becomes the code of zero and is not needed."""
        inner = pack(self.weight)
        match inner:
            case Masked():
                return _zeroed(replace(inner, mask=inner.mask & self.mask))
            case Quantized():
                _, _, zero_point = inner.integers()
                return replace(inner, codes=jnp.where(self.mask, inner.codes, zero_point.astype(jnp.int8)))
            case _:
                return _zeroed(Masked(inner, self.mask))

    def integers(self) -> tuple[Array, Array, Array] | None:
        found = self.weight.integers() if isinstance(self.weight, CompressedArray) else None
        if found is None:
            return None
        codes, scale, zero_point = found
        return jnp.where(self.mask, codes, zero_point.astype(codes.dtype)), scale, zero_point

    def encode(self, kept: np.ndarray | None = None) -> Coded:
        mask = np.asarray(self.mask)
        positions = mask.reshape(-1)
        inner = encode(self.weight, positions) if _stores_kept(self.weight) else encode(self.weight)
        return Coded("Masked", {"shape": list(mask.shape)}, (encode_mask(mask),), {"weight": inner})

    @classmethod
    def decode(cls, coded: Coded, kept: np.ndarray | None = None) -> "Masked":
        positions, inner = decode_mask(coded), coded.part("weight")
        sparse = inner.kind in ("array", "Clustered")
        weight = decode(inner, positions if sparse else None)
        if weight.shape != coded.shape():
            raise ValueError(f"a mask of shape {coded.shape()} does not fit a weight of shape {weight.shape}")
        return cls(weight, jnp.asarray(positions.reshape(coded.shape())))


def _stores_kept(weight: Any) -> bool:
    """Tells whether a weight can be stored by its kept entries alone."""
    return isinstance(weight, Clustered) or not isinstance(weight, CompressedArray)


def _zeroed(leaf: Masked) -> Masked:
    """Sets removed entries to zero, so that equal leaves are equal in every bit."""
    match leaf.weight:
        case Clustered():
            return replace(leaf, weight=replace(leaf.weight, codes=jnp.where(leaf.mask, leaf.weight.codes, 0)))
        case CompressedArray():
            return leaf
        case _:
            return replace(leaf, weight=jnp.where(leaf.mask, leaf.weight, jnp.zeros((), leaf.dtype)))
