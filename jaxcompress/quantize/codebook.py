"""Weight sharing: a k-means codebook per array, then trained (Han, Mao & Dally 2016, arXiv:1510.00149, section 3)."""

import zlib
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import Clustered, CompressedArray, Masked
from jaxcompress.numerics import codebooks
from jaxcompress.paths import rewrite
from jaxcompress.transform import Transform, identity_update, owned


def codebook(
    pattern: str,
    bits: int,
    *,
    initial: codebooks.Initial = "linear",
    key: Array | None = None,
    name: str | None = None,
) -> Transform:
    """Replaces the matched weights by ``2**bits`` shared values each, found by k-means and trained from there.

    The assignment is fixed by `init`; a centroid's gradient is the sum over its group (eq. 3). Of a pruned weight only
    the entries kept are clustered, and the mask stays outermost, since its zeros are no centroid. No array gets more
    centroids than it has kept entries. `initial` places the centroids (``linear``, ``density`` or ``random``; the last
    needs a `key`, which is folded with each path).

    Raises ValueError for `bits` outside 1..8, a missing key, a leaf that is already shared or factorized, and, from
    `init`, for a pattern without a match.
    """
    if not (isinstance(bits, int) and 1 <= bits <= 8):
        raise ValueError(f"bits {bits!r} for pattern {pattern!r} is not an integer from 1 to 8")
    if initial not in ("linear", "density", "random"):
        raise ValueError(f"initial {initial!r} for pattern {pattern!r} is not 'linear', 'density' or 'random'")
    if initial == "random" and key is None:
        raise ValueError(f"random initial centroids for pattern {pattern!r} need a key")
    owner = name or f"codebook[{pattern}]"

    def wrap(path: str, leaf: Any) -> Any:
        if owned(leaf, owner):
            return leaf
        leaf_key = None if key is None else jax.random.fold_in(key, zlib.crc32(path.encode()))
        if isinstance(leaf, Masked) and not isinstance(leaf.weight, CompressedArray):
            return replace(leaf, weight=_shared(leaf.weight, leaf.mask, bits, initial, leaf_key, owner))
        if isinstance(leaf, CompressedArray):
            raise ValueError(f"{path} is {type(leaf).__name__}; only plain or masked weights can share a codebook")
        return _shared(leaf, jnp.ones(leaf.shape, bool), bits, initial, leaf_key, owner)

    return Transform((owner,), lambda params: rewrite(params, pattern, wrap), identity_update)


def _shared(
    weight: Array, mask: Array, bits: int, initial: codebooks.Initial, key: Array | None, owner: str
) -> Clustered:
    clusters = max(1, min(2**bits, int(jnp.sum(mask))))
    codes, centroids = _cluster(weight.reshape(-1), mask.reshape(-1), clusters, initial, key)
    return Clustered(codes.reshape(weight.shape), centroids, owner)


@partial(jax.jit, static_argnames=("clusters", "initial"))
def _cluster(
    values: Array, kept: Array, clusters: int, initial: codebooks.Initial, key: Array | None
) -> tuple[Array, Array]:
    start = codebooks.initial_centroids(values, kept, clusters, initial, key)
    start = jnp.where(jnp.any(kept), start, jnp.zeros((), start.dtype))  # a wholly pruned array has nothing to share
    centroids = codebooks.kmeans(values, kept, start)
    # A removed entry means zero by its mask whatever its code; code 0 keeps equal leaves equal in every bit.
    return jnp.where(kept, codebooks.assign(values, centroids), 0), centroids
