"""Weight sharing: a k-means codebook per array, then trained (Han, Mao & Dally 2016, arXiv:1510.00149, section 3)."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import Clustered, CompressedArray, Masked
from jaxcompress.numerics import codebooks
from jaxcompress.paths import Params, named_key, rewrite, select
from jaxcompress.transform import Transform, identity_update, owned
from jaxcompress.weights import checked_weight

Scope = Literal["layer", "global"]


def codebook(
    pattern: str,
    bits: int,
    *,
    scope: Scope = "layer",
    initial: codebooks.Initial = "linear",
    key: Array | None = None,
    name: str | None = None,
) -> Transform:
    """Replaces the matched weights by ``2**bits`` shared values each, found by k-means and trained from there.

    The assignment is fixed by `init`; a centroid's gradient is the sum over its group (eq. 3). Of a pruned weight only
    the entries kept are clustered, and the mask stays outermost, since its zeros are no centroid. No array gets more
    centroids than it has kept entries. `initial` places the centroids (``linear``, ``density`` or ``random``; the last
    needs a `key`, which is folded with each path). With ``scope="global"`` all matched arrays get the same centroids,
    found on all their weights together; training then moves those of each array by themselves.

    Raises ValueError for `bits` outside 1..8, an unknown scope, a missing key, a leaf that is already shared or
    factorized, and, from `init`, for a pattern without a match.
    """
    if not (isinstance(bits, int) and 1 <= bits <= 8):
        raise ValueError(f"bits {bits!r} for pattern {pattern!r} is not an integer from 1 to 8")
    if initial not in ("linear", "density", "random"):
        raise ValueError(f"initial {initial!r} for pattern {pattern!r} is not 'linear', 'density' or 'random'")
    if initial == "random" and key is None:
        raise ValueError(f"random initial centroids for pattern {pattern!r} need a key")
    if scope not in ("layer", "global"):
        raise ValueError(f"scope {scope!r} for pattern {pattern!r} is not 'layer' or 'global'")
    owner = name or f"codebook[{pattern}]"

    def init(params: Params) -> Params:
        found = {path: leaf for path, leaf in select(params, pattern).items() if not owned(leaf, owner)}
        weights = {path: _plain(path, checked_weight(path, leaf, "shared")) for path, leaf in found.items()}
        together = [list(weights)] if scope == "global" and weights else [[path] for path in weights]
        leaves: dict[str, Clustered] = {}
        for paths in together:
            leaf_key = None if key is None else named_key(key, " ".join(paths))
            leaves |= _shared({path: weights[path] for path in paths}, bits, initial, leaf_key, owner)

        def wrap(path: str, leaf: Any) -> Any:
            if path not in leaves:
                return leaf
            return replace(leaf, weight=leaves[path]) if isinstance(leaf, Masked) else leaves[path]

        return rewrite(params, pattern, wrap)

    return Transform((owner,), init, identity_update)


def _plain(path: str, leaf: Any) -> tuple[Array, Array]:
    """Returns the weights of a plain or masked leaf and which of them are kept."""
    if isinstance(leaf, Masked) and not isinstance(leaf.weight, CompressedArray):
        return leaf.weight, leaf.mask
    if isinstance(leaf, CompressedArray):
        raise ValueError(f"{path} is {type(leaf).__name__}; only plain or masked weights can share a codebook")
    return leaf, jnp.ones(leaf.shape, bool)


def _shared(
    weights: Mapping[str, tuple[Array, Array]], bits: int, initial: codebooks.Initial, key: Array | None, owner: str
) -> dict[str, Clustered]:
    """Returns weights, each with those kept of it, as codes of one codebook."""
    values = jnp.concatenate([weight.reshape(-1) for weight, _ in weights.values()])
    kept = jnp.concatenate([mask.reshape(-1) for _, mask in weights.values()])
    clusters = max(1, min(2**bits, int(jnp.sum(kept))))
    codes, centroids = _cluster(values, kept, clusters, initial, key)
    leaves, first = {}, 0
    for path, (weight, _) in weights.items():
        leaves[path] = Clustered(codes[first : first + weight.size].reshape(weight.shape), centroids, owner)
        first += weight.size
    return leaves


@partial(jax.jit, static_argnames=("clusters", "initial"))
def _cluster(
    values: Array, kept: Array, clusters: int, initial: codebooks.Initial, key: Array | None
) -> tuple[Array, Array]:
    # In float32, since sums and differences of half precision overflow, and in a unit in which those of float32 do not.
    wide = jnp.where(kept, values, jnp.zeros_like(values)).astype(jnp.float32)
    unit = jnp.where(jnp.max(jnp.abs(wide)) > 2.0**96, jnp.float32(2.0**40), jnp.float32(1))
    wide = wide / unit
    start = codebooks.initial_centroids(wide, kept, clusters, initial, key)
    low, high = jnp.min(wide, where=kept, initial=jnp.inf), jnp.max(wide, where=kept, initial=-jnp.inf)
    found = jnp.clip(codebooks.kmeans(wide, kept, start), low, high)  # a mean may be rounded beyond what it is of
    found = jnp.where(jnp.any(kept), found, 0.0)  # a wholly pruned array has nothing to share
    centroids = (found * unit).astype(values.dtype)
    # A removed entry means zero by its mask whatever its code; code 0 keeps equal leaves equal in every bit.
    return jnp.where(kept, codebooks.assign(wide, centroids.astype(jnp.float32) / unit), 0), centroids
