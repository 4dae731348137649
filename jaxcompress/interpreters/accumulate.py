"""Sums of products of whole numbers, exact, in the floats that CPUs and accelerators are fast at."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from jaxcompress.interpreters.graph import Node, convolve, window_of


def accumulate(node: Node, values: Array, kernel: Any, largest: int) -> Array:
    """Sums a layer's products of `values`, int32 of magnitudes up to `largest`, with its kernel's int8 codes; int32.

    That is in float32 wherever the sums stay below 2**24 for every possible input, since floats are exact there; if
    need be of the kernel's codes in two halves, and in int32 where these are too large as well.
    """

    def sums(kernel: Any, dtype: Any = jnp.float32) -> Array:
        x, kernel, precise = values.astype(dtype), jnp.asarray(kernel).astype(dtype), lax.Precision.HIGHEST
        if node.kind == "dense":
            return jnp.matmul(x, kernel, precision=precise).astype(jnp.int32)
        return convolve(x, kernel, window_of(node), precision=precise).astype(jnp.int32)

    if _largest_sum(kernel, 128) * largest < 2**24:
        return sums(kernel)
    # ``16 * high + low``: on CPU integer convolutions cost several times as much as two in floats.
    wide = kernel.astype(np.int32)
    high = (wide + 8) >> 4
    low = wide - (high << 4)
    if max(_largest_sum(high, 8), _largest_sum(low, 8)) * largest < 2**24:
        return 16 * sums(high) + sums(low)
    return sums(kernel, jnp.int32)


def accumulate_wide(node: Node, codes: Array, kernel: Any) -> Array:
    """Sums a layer's products of int16 codes with its kernel's int8 codes; int64, exact below 2**17 products a sum.

    The codes go in two halves, ``256 * high + low``. Called where JAX has 64 bits.
    """
    wide = codes.astype(jnp.int32)
    high = (wide + 128) >> 8
    low = wide - (high << 8)
    sums = (accumulate(node, half, kernel, 128).astype(jnp.int64) for half in (high, low))
    return next(sums) * 256 + next(sums)


def _largest_sum(kernel: Any, largest: int) -> int:
    """Returns the largest sum of magnitudes of an output's codes; of traced ones, as if all were `largest`."""
    if isinstance(kernel, Tracer):
        return largest * int(np.prod(kernel.shape[:-1]))
    return int(np.abs(np.asarray(kernel).astype(np.int64)).sum(tuple(range(kernel.ndim - 1))).max())
