"""Weights as a sum of two compressed ones."""

from dataclasses import replace
from typing import Any

import numpy as np
from jax import Array

from jaxcompress.arrays.base import CompressedArray, compressed, decode, dense, encode, pack, stacked, static
from jaxcompress.coding import Coded


@compressed
class Summed(CompressedArray):
    """Means ``first + second``, such as a codebook and a few corrections to it; both have the same shape and dtype."""

    first: Array | CompressedArray
    second: Array | CompressedArray
    owner: str = static(default="")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.first.shape

    @property
    def dtype(self) -> Any:
        return self.first.dtype

    def dense(self) -> Array:
        return dense(self.first) + dense(self.second)

    def stacked(self) -> "Summed":
        return replace(self, first=stacked(self.first), second=stacked(self.second))

    def pack(self) -> "Summed":
        return Summed(pack(self.first), pack(self.second))

    def encode(self, kept: np.ndarray | None = None) -> Coded:
        return Coded("Summed", {}, (), {"first": encode(self.first), "second": encode(self.second)})

    @classmethod
    def decode(cls, coded: Coded, kept: np.ndarray | None = None) -> "Summed":
        first, second = decode(coded.part("first")), decode(coded.part("second"))
        if first.shape != second.shape or first.dtype != second.dtype:
            raise ValueError(
                f"a {first.dtype} of shape {first.shape} and a {second.dtype} of shape {second.shape} do not add up"
            )
        return cls(first, second)
