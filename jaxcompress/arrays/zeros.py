"""Weights of which nothing is left."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.arrays.base import CompressedArray, compressed, decode, encode, fixed, static
from jaxcompress.coding import Coded


@compressed
class Zeros(CompressedArray):
    """Means zeros of `full_shape`, in the place of a weight that is gone.

    Under `jaxcompress.lift` nothing is multiplied with it. `zero` is the one number that is stored, a zero of the
    weight's dtype; axes that it has are a stack of such leaves.
    """

    zero: Array = fixed()
    full_shape: tuple[int, ...] = static()
    owner: str = static(default="")

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.zero.shape, *self.full_shape)

    @property
    def dtype(self) -> Any:
        return self.zero.dtype

    def dense(self) -> Array:
        return jnp.zeros(self.shape, self.dtype)

    def pack(self) -> "Zeros":
        return Zeros(jnp.zeros_like(self.zero), self.full_shape)

    def encode(self, kept: np.ndarray | None = None) -> Coded:
        return Coded("Zeros", {"shape": list(self.full_shape)}, (), {"zero": encode(self.zero)})

    @classmethod
    def decode(cls, coded: Coded, kept: np.ndarray | None = None) -> "Zeros":
        zero = decode(coded.part("zero"))
        if isinstance(zero, CompressedArray) or any(np.asarray(zero).tobytes()):  # of a negative zero too
            raise ValueError(f"weights that are gone are zero, not {zero}")
        return cls(zero, coded.shape())
