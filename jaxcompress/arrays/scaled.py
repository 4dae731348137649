"""Weights times a fixed factor: how batch normalization is multiplied into a kernel that stays what it is."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from jaxcompress.arrays.base import CompressedArray, compressed, decode, dense, encode, fixed, pack, stacked, static
from jaxcompress.arrays.masked import Masked
from jaxcompress.coding import Coded, decode_array
from jaxcompress.numerics import affine

_SAME = 1e-6  # a factor that is one up to a few roundings of float32


@compressed
class Scaled(CompressedArray):
    """Means ``weight * factor``, with a `factor` that is not trained: float32, each of its axes of size 1 or whole.

    Integers stay integers: those of `weight`, with the factor in their scale. So a kernel keeps the codes that it was
    trained with when the batch normalization behind it is folded in.
    """

    weight: Array | CompressedArray
    factor: Array = fixed()
    owner: str = static(default="")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def dtype(self) -> Any:
        return self.weight.dtype

    def dense(self) -> Array:
        # Behind the barrier, since XLA joins two products with constants into one, which rounds otherwise.
        factor = lax.optimization_barrier(self.factor)
        return (dense(self.weight).astype(jnp.float32) * factor).astype(self.dtype)

    def stacked(self) -> "Scaled":
        factor = jnp.broadcast_to(self.factor, (self.shape[0], *self.factor.shape[1:]))
        return replace(self, weight=stacked(self.weight), factor=factor)

    def pack(self) -> "Scaled":
        return replace(self, weight=pack(self.weight), owner="")

    def integers(self) -> tuple[Array, Array, Array] | None:
        """Returns the integers of `weight` with ``scale * |factor|``, negated where the factor is negative.

        Symmetric codes stay symmetric. Where the scale vanishes, of a factor of zero, all codes are those of zero and
        the scale is that of `weight`, so that it stays one to divide by.
        """
        found = self.weight.integers() if isinstance(self.weight, CompressedArray) else None
        if found is None:
            return None
        codes, scale, zero_point = found
        scaled = scale * jnp.abs(self.factor)
        live, negative = scaled >= jnp.finfo(jnp.float32).tiny, self.factor < 0
        # int8 has no 128: codes that are not symmetric turn by -1 - code, and their zero points with them.
        shifted = jnp.any(codes == -128) | jnp.any(zero_point != 0)
        codes = jnp.where(negative, jnp.where(shifted, -1 - codes, -codes), codes)
        zero_point = jnp.where(negative, jnp.where(shifted, -1 - zero_point, zero_point), zero_point)
        return jnp.where(live, codes, zero_point.astype(jnp.int8)), jnp.where(live, scaled, scale), zero_point

    def encode(self, kept: np.ndarray | None = None) -> Coded:
        return Coded("Scaled", {}, (), {"weight": encode(self.weight), "factor": encode(self.factor)})

    @classmethod
    def decode(cls, coded: Coded, kept: np.ndarray | None = None) -> "Scaled":
        weight, factor = decode(coded.part("weight")), decode_array(coded.part("factor"))
        fits = len(factor.shape) == len(weight.shape) and factor.dtype == jnp.float32
        if not fits or not all(a in (1, n) for a, n in zip(factor.shape, weight.shape, strict=True)):
            raise ValueError(f"a factor of shape {factor.shape} and dtype {factor.dtype} does not fit {weight.shape}")
        if not np.all(np.isfinite(factor)):
            raise ValueError("a factor is not finite")
        if not jnp.issubdtype(weight.dtype, jnp.floating) or weight.dtype == jnp.float64:
            raise ValueError(f"a weight of dtype {weight.dtype} has no factor in float32")
        return cls(weight, factor)


def scale_by(weight: Any, factor: Array) -> Any:
    """Returns ``weight * factor`` as a leaf in which `weight` keeps what it is.

    Factors of one weight are multiplied, masks stay outermost, and a factor within 1e-6 of one is one: where the value
    is known and all of it is one, what remains is the weight alone.
    """
    match weight:
        case Scaled():
            return scale_by(weight.weight, weight.factor * factor)
        case Masked():
            return replace(weight, weight=scale_by(weight.weight, factor))
        case _:
            one = jnp.abs(factor - 1) <= _SAME
            if not isinstance(one, Tracer) and bool(jnp.all(one)):
                return weight
            return Scaled(weight, affine.straight_through(factor, jnp.where(one, 1.0, factor)))
