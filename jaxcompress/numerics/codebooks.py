"""Scalar k-means: a codebook of shared weights (Han, Mao & Dally 2016, arXiv:1510.00149, section 3)."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

Initial = Literal["linear", "density", "random"]


def initial_centroids(
    values: Float[Array, "n"],
    kept: Bool[Array, "n"],
    clusters: int,
    initial: Initial = "linear",
    key: Array | None = None,
) -> Float[Array, "clusters"]:
    """Places `clusters` centroids over the `kept` entries of `values`, in ascending order (section 3.2).

    ``linear`` spaces them evenly from the minimum to the maximum, which keeps centroids for the few large weights;
    ``density`` spaces them evenly in the cumulative distribution; ``random`` draws kept values without replacement and
    needs a `key`.
    """
    if initial == "linear":
        low = jnp.min(jnp.where(kept, values, jnp.inf))
        high = jnp.max(jnp.where(kept, values, -jnp.inf))
        return jnp.linspace(low, high, clusters, dtype=values.dtype)
    if initial == "density":
        # Removed entries sort to the end, so that the first `sum(kept)` places are the empirical distribution.
        ordered = jnp.sort(jnp.where(kept, values, jnp.inf))
        places = (jnp.arange(clusters, dtype=jnp.float32) + 0.5) / clusters * jnp.sum(kept, dtype=jnp.float32)
        return ordered[places.astype(jnp.int32)]
    if initial == "random":
        if key is None:
            raise ValueError("random initial centroids need a key")
        ranks = jnp.where(kept, jax.random.uniform(key, values.shape), jnp.inf)
        return jnp.sort(values[jnp.argsort(ranks)[:clusters]])
    raise ValueError(f"initial {initial!r} is not one of 'linear', 'density', 'random'")


def assign(values: Float[Array, "n"], centroids: Float[Array, "clusters"]) -> Int[Array, "n"]:
    """Returns the index of the nearest of the ascending `centroids`; half way between two the lower one."""
    middles = (centroids[1:] + centroids[:-1]) / 2
    return jnp.searchsorted(middles, values, side="left").astype(jnp.int32)


def kmeans(
    values: Float[Array, "n"],
    kept: Bool[Array, "n"],
    centroids: Float[Array, "clusters"],
    iterations: int = 100,
) -> Float[Array, "clusters"]:
    """Runs Lloyd's iterations on the `kept` entries of `values` until nothing moves, at most `iterations`.

    A cluster that lost its last member keeps its centroid. In one dimension clusters are intervals, so the centroids
    stay ascending and the assignment is a binary search. Sums are in float32, since half precision stops counting.
    """
    dtype, values, centroids = centroids.dtype, values.astype(jnp.float32), centroids.astype(jnp.float32)
    weights = kept.astype(jnp.float32)

    def mean(codes: Array, old: Array) -> Array:
        clusters = old.shape[0]
        total = jax.ops.segment_sum(values * weights, codes, clusters)
        members = jax.ops.segment_sum(weights, codes, clusters)
        return jnp.where(members > 0, total / jnp.maximum(members, 1), old)

    def moved(state: tuple[Array, Array, Array]) -> Array:
        i, new, old = state
        return (i < iterations) & jnp.any(new != old)

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        i, new, _ = state
        # Rounding in the sums can swap two centroids that all but coincide; the search needs them in order.
        return i + 1, jnp.sort(mean(assign(values, new), new)), new

    state = (jnp.int32(0), centroids, jnp.full_like(centroids, jnp.nan))
    return lax.while_loop(moved, step, state)[1].astype(dtype)
