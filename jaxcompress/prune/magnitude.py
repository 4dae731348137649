"""Magnitude pruning: the smallest weights go."""

from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcompress.arrays import Masked, dense
from jaxcompress.numerics.binary import power_of_two
from jaxcompress.paths import rewrite
from jaxcompress.prune.masking import by_score
from jaxcompress.prune.wrapping import masked
from jaxcompress.schedules import Schedule
from jaxcompress.transform import Transform, identity_update

Scope = Literal["layer", "global"]


def magnitude(
    pattern: str,
    sparsity: Schedule | float,
    *,
    scope: Scope = "layer",
    every: int = 1,
    name: str | None = None,
) -> Transform:
    """Masks the smallest weights of those whose path matches `pattern`.

    `sparsity` is the fraction removed, in [0, 1], a number or a schedule: a number prunes at once and then retrains
    under a standing mask; a rising schedule prunes gradually (Zhu & Gupta 2017, arXiv:1710.01878). `scope` ranks
    weights within each array (``layer``) or over all matched arrays together (``global``). The schedule is asked at
    steps that are a multiple of `every`. Weights are ranked anew only when another count is asked for, by the magnitude
    that they had when last in use, so weights come back where a schedule loosens. Counts are exact; among equals the
    earlier entry stays. `by_score` has other scores, allocations and structures.

    Raises ValueError for a sparsity outside [0, 1] (a schedule is asked at its first and last step), an unknown scope,
    and, from `init`, for a pattern without a match.
    """
    if scope not in ("layer", "global"):
        raise ValueError(f"scope {scope!r} for pattern {pattern!r} is not 'layer' or 'global'")
    allocation = "uniform" if scope == "layer" else "global"
    return by_score(pattern, sparsity, allocation=allocation, every=every, name=name or f"magnitude[{pattern}]")


def threshold(pattern: str, quality: float, *, name: str | None = None) -> Transform:
    """Masks the weights below ``quality * std`` of their array (Han et al. 2015, arXiv:1506.02626, section 3).

    The standard deviation is over the weights still in use, so that a chain of stages with rising `quality` prunes
    iteratively. Pruned once by `init`; the mask then stands. Raises ValueError for a negative `quality`.
    """
    if not quality >= 0:
        raise ValueError(f"quality {quality!r} for pattern {pattern!r} is negative; it multiplies a standard deviation")
    owner = name or f"threshold[{pattern}, {quality:g}]"

    def cut(path: str, leaf: Any) -> Any:
        wrapped = masked(path, leaf, owner)
        if wrapped is leaf:
            return leaf
        weight = jax.lax.stop_gradient(dense(wrapped.weight)).astype(jnp.float32)  # squares of half precision overflow
        in_use = leaf.mask if isinstance(leaf, Masked) else wrapped.mask
        unit = power_of_two(jnp.max(jnp.abs(weight)))  # and so do those of large weights
        return replace(
            wrapped, mask=in_use & (jnp.abs(weight / unit) >= quality * jnp.std(weight / unit, where=in_use))
        )

    return Transform((owner,), lambda params: rewrite(params, pattern, cut), identity_update)
