"""Magnitude pruning: the smallest weights go."""

from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from jaxcompress.arrays import Masked, dense
from jaxcompress.numerics.masks import keep_largest, kept_count
from jaxcompress.paths import Params, rewrite
from jaxcompress.schedules import Schedule, as_schedule
from jaxcompress.transform import Transform, identity_update, owned, rewrite_owned
from jaxcompress.transform import every as at_every

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
    earlier entry stays.

    Raises ValueError for a sparsity outside [0, 1] (a schedule is asked at its first and last step), an unknown scope,
    and, from `init`, for a pattern without a match.
    """
    schedule = as_schedule(sparsity)
    for step in (0, 2**31 - 1):
        value = schedule(step)  # traced in a sweep, where it cannot be checked
        if not isinstance(value, Tracer) and not 0.0 <= float(value) <= 1.0:
            raise ValueError(f"sparsity {float(value):g} for pattern {pattern!r} is not a fraction in [0, 1]")
    if scope not in ("layer", "global"):
        raise ValueError(f"scope {scope!r} for pattern {pattern!r} is not 'layer' or 'global'")
    owner = name or f"magnitude[{pattern}]"

    def init(params: Params) -> Params:
        wrapped = rewrite(params, pattern, lambda path, leaf: _masked(path, leaf, owner))
        return params if len(owned(params, owner)) == len(owned(wrapped, owner)) else update(wrapped, 0)

    def update(params: Params, step: Array | int, **_: Any) -> Params:
        leaves = owned(params, owner)
        groups = [leaves] if scope == "global" else [[leaf] for leaf in leaves]
        masks = iter([mask for group in groups for mask in _ranked(group, schedule(step))])
        return rewrite_owned(params, owner, lambda leaf: replace(leaf, mask=next(masks)))

    return at_every(every, Transform((owner,), init, update))


def threshold(pattern: str, quality: float, *, name: str | None = None) -> Transform:
    """Masks the weights below ``quality * std`` of their array (Han et al. 2015, arXiv:1506.02626, section 3).

    The standard deviation is over the weights still in use, so that a chain of stages with rising `quality` prunes
    iteratively. Pruned once by `init`; the mask then stands. Raises ValueError for a negative `quality`.
    """
    if not quality >= 0:
        raise ValueError(f"quality {quality!r} for pattern {pattern!r} is negative; it multiplies a standard deviation")
    owner = name or f"threshold[{pattern}, {quality:g}]"

    def cut(path: str, leaf: Any) -> Any:
        wrapped = _masked(path, leaf, owner)
        if wrapped is leaf:
            return leaf
        weight = jax.lax.stop_gradient(dense(leaf))
        in_use = leaf.mask if isinstance(leaf, Masked) else wrapped.mask
        return replace(wrapped, mask=in_use & (jnp.abs(weight) >= quality * jnp.std(weight, where=in_use)))

    return Transform((owner,), lambda params: rewrite(params, pattern, cut), identity_update)


def _masked(path: str, leaf: Any, owner: str) -> Any:
    """Wraps a leaf in a full mask unless it carries one of this owner already."""
    if owned(leaf, owner):
        return leaf
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(f"{path} of dtype {leaf.dtype} cannot be pruned; weights are floating-point")
    return Masked(leaf, jnp.ones(leaf.shape, bool), owner)


def _ranked(leaves: list[Masked], sparsity: Array | float) -> list[Array]:
    """Masks a group of leaves to one sparsity; the masks stand as long as their count is the one asked for."""
    count = kept_count(sum(leaf.size for leaf in leaves), sparsity)
    standing = sum((jnp.sum(leaf.mask, dtype=jnp.int32) for leaf in leaves), jnp.int32(0))
    fresh = keep_largest([jnp.abs(jax.lax.stop_gradient(dense(leaf.weight))) for leaf in leaves], count)
    return [jnp.where(standing == count, leaf.mask, mask) for leaf, mask in zip(leaves, fresh, strict=True)]
