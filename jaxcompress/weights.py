"""What a transform takes for weights, and what it may make of them: one check for all of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcompress.arrays import dense, is_compressed
from jaxcompress.coding import FLOATS

_ALLOWED = "weights are floating-point: float16, bfloat16 or float32, and float64 with jax_enable_x64"


def checked_weight(path: str, leaf: Any, done: str) -> Any:
    """Returns a leaf that is one of weights, a numpy array as the array that JAX computes with.

    Without ``jax_enable_x64`` a float64 array is float32 from here on. `done` says in the message what the leaf cannot
    be (``pruned``). Raises ValueError, with the path and the dtype, for a leaf that is no array, such as a number of
    Python; for another dtype than float16, bfloat16, float32 and float64 (integers, bools, complex numbers, 8 bits);
    for one of no entries; and, unless it is traced, for entries that are not finite as the leaf means them.
    """
    if not is_compressed(leaf) and not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        raise ValueError(f"{path} is a {type(leaf).__name__}, no array, and cannot be {done}; {_ALLOWED}")
    if str(leaf.dtype) not in FLOATS:
        raise ValueError(f"{path} of dtype {leaf.dtype} cannot be {done}; {_ALLOWED}")
    if leaf.size == 0:
        raise ValueError(f"{path} of shape {leaf.shape} is empty and cannot be {done}")
    if not is_compressed(leaf):
        with np.errstate(over="ignore"):  # an infinity is found below
            leaf = jnp.asarray(leaf)
    weight = dense(leaf)
    if not isinstance(weight, Tracer):  # in a traced init there is nothing to look at
        bad = int(np.count_nonzero(~np.isfinite(np.asarray(weight))))
        if bad:
            raise ValueError(f"{path} holds {bad} entries that are not finite and cannot be {done}; weights are finite")
    return leaf


def checked_result(path: str, leaf: Any, result: Any, done: str) -> Any:
    """Returns the leaf or array that was made of a checked weight, after looking whether it overflowed.

    Rounding may double a weight at most, so only those near the largest of their dtype are looked at. Raises
    ValueError, with the path and the largest weight, if the result means entries that are not finite.
    """
    weight = dense(leaf)
    if isinstance(weight, Tracer):
        return result
    peak, largest = float(np.max(np.abs(np.asarray(weight)))), float(jnp.finfo(weight.dtype).max)
    if peak > largest / 4 and not np.all(np.isfinite(np.asarray(dense(result)))):
        raise ValueError(f"{path} of dtype {weight.dtype} holds weights up to {peak:g}, too large to be {done}")
    return result
