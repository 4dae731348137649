"""Exact masks: which entries survive, by rank, without sorting."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, UInt32


@jax.jit
def keep_largest(scores: list[Float[Array, "..."]], count: Int[Array, ""] | int) -> list[Bool[Array, "..."]]:
    """Marks the `count` largest of all `scores` taken together; exactly that many, whatever the ties.

    `scores` are arrays of any shapes whose entries are of either sign and not NaN, ranked together (global pruning) or
    one array at a time (layer-wise). Among equal scores the earlier array wins, and within an array the earlier entry
    in C order. `count` may be traced and is clipped to [0, total size].

    The threshold is found by bisection on the bit pattern, since floats order like integers once the bits of the
    negative ones are turned over: 32 passes of compare and count. That needs no sort, traces with a traced `count`,
    vmaps, and on a sharded weight costs one small all-reduce a pass.
    """
    keys = [_ordered_bits(s) for s in scores]
    total = sum(k.size for k in keys)
    count = jnp.clip(jnp.asarray(count, jnp.int32), 0, total)

    def at_least(threshold: Array) -> Array:
        return sum((jnp.sum(k >= threshold, dtype=jnp.int32) for k in keys), jnp.int32(0))

    def grow(i: Array, threshold: Array) -> Array:
        # Sets the bit if enough entries still lie at or above the higher threshold.
        candidate = threshold | (jnp.uint32(1) << (jnp.uint32(31) - i.astype(jnp.uint32)))
        return jnp.where(at_least(candidate) >= count, candidate, threshold)

    threshold = lax.fori_loop(0, 32, grow, jnp.uint32(0))
    above = sum((jnp.sum(k > threshold, dtype=jnp.int32) for k in keys), jnp.int32(0))
    masks, left = [], count - above  # how many of those equal to the threshold may still stay
    for key in keys:
        tied = key == threshold
        order = jnp.cumsum(tied.reshape(-1), dtype=jnp.int32).reshape(key.shape)
        masks.append((key > threshold) | (tied & (order <= left)))
        left = left - jnp.sum(tied, dtype=jnp.int32)
    return masks


@partial(jax.jit, static_argnames=("size", "axis"))
def keep_largest_of_each(
    scores: Float[Array, "..."], count: Int[Array, ""] | int, size: int, axis: int
) -> Bool[Array, "..."]:
    """Marks the `count` largest of every run of `size` entries along `axis`, which `size` must divide.

    N:M sparsity, with N the count and M the size. Entries are not NaN, and the earlier of equals wins; `count` may be
    traced. Every entry is compared with its run, so that the work grows with `size`.
    """
    keys = jnp.moveaxis(_ordered_bits(scores), axis, -1)
    runs = keys.reshape(*keys.shape[:-1], -1, size)
    mine, other = runs[..., :, None], runs[..., None, :]
    earlier = jnp.arange(size)[None, :] < jnp.arange(size)[:, None]
    earlier = earlier.reshape((1,) * (runs.ndim - 1) + earlier.shape)
    rank = jnp.sum((other > mine) | ((other == mine) & earlier), axis=-1, dtype=jnp.int32)
    return jnp.moveaxis((rank < count).reshape(keys.shape), -1, axis)


def kept_count(size: int, sparsity: Float[Array, ""] | float) -> Int[Array, ""]:
    """Returns how many of `size` entries stay when the fraction `sparsity` in [0, 1] goes, rounded to nearest.

    A traced sparsity is a float32, so above 2**24 entries the count is that of the nearest float32 product.
    """
    if isinstance(sparsity, int | float):
        return jnp.int32(size - round(sparsity * size))
    removed = jnp.round(sparsity.astype(jnp.float32) * size).astype(jnp.int32)
    return jnp.where(sparsity >= 1, 0, jnp.clip(size - removed, 0, size))


def _ordered_bits(scores: Float[Array, "..."]) -> UInt32[Array, "..."]:
    """Returns integers that order as the scores do: float16 and bfloat16 embed in float32 without changing any order.

    Both zeros get the same integer. That is settled on the bits, since a processor may take a denormal for zero.
    """
    bits = lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.uint32)
    sign = jnp.uint32(1) << jnp.uint32(31)
    bits = jnp.where(bits == sign, jnp.uint32(0), bits)
    return jnp.where(bits >= sign, ~bits, bits | sign)
