"""Masks by score: which weights stay, and the transform that keeps them up to date."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer

from jaxcompress.arrays import Masked, dense
from jaxcompress.arrays.binary import kept
from jaxcompress.numerics.masks import keep_largest, keep_largest_of_each, kept_count
from jaxcompress.paths import Params, rewrite
from jaxcompress.prune.allocation import Allocation, erk, lamp
from jaxcompress.prune.patterns import PerOutput, Runs, Single, Structure
from jaxcompress.prune.weights import Weights
from jaxcompress.prune.wrapping import masked
from jaxcompress.schedules import Schedule, as_schedule, one_shot
from jaxcompress.transform import Transform, owned, owned_by_path, rewrite_owned
from jaxcompress.transform import every as at_every

Score = Mapping[str, Array] | Callable[[Weights], Mapping[str, Array]]


def by_score(
    pattern: str,
    sparsity: Schedule | float,
    score: Score | None = None,
    *,
    allocation: Allocation = "uniform",
    structure: Structure = Single(),  # noqa: B008 (frozen)
    every: int = 1,
    name: str | None = None,
) -> Transform:
    """Masks the weights of the lowest score among those whose path matches `pattern`.

    `sparsity` is the fraction removed, in [0, 1], a number or a schedule: a number prunes at once and then retrains
    under a standing mask; a rising schedule prunes gradually (Zhu & Gupta 2017, arXiv:1710.01878). It is asked at steps
    that are a multiple of `every`.

    `score` is what `prune.scores` returned for a tree, by path, once and for all; or a function of the weights, by
    path, that is called anew when weights are ranked. It sees them as they were when last in use, so that weights may
    come back where a schedule loosens. Without one the score is the magnitude.

    `allocation` gives every layer the same sparsity (``uniform``), ranks all weights together (``global``), also after
    rescaling (``lamp``; scores must not be negative), or gives thin layers less (``erk``, whose counts are rounded
    layer by layer). `structure` is what goes together: `prune.Single` weights or `prune.Blocks`; or the same number out
    of each of `prune.Runs` or `prune.PerOutput`, which are ``uniform``. Counts are exact, of tiles in blocks; among
    equals the earlier entry stays.

    Weights are ranked only when another count is asked for. Raises ValueError for a sparsity outside [0, 1] (a schedule
    is asked at its first and last step), an allocation that is unknown or not for the structure, scores that are NaN,
    and, from `init`, for a pattern without a match, leaves that are not floating-point, that the structure does not
    fit, or that have no score of their shape.
    """
    schedule = checked_sparsity(pattern, sparsity)
    check_allocation(pattern, allocation, structure)
    if isinstance(score, Mapping):
        _check_numbers(score, allocation)
    owner = name or f"by_score[{pattern}]"

    def wrap(path: str, leaf: Any) -> Any:
        if owned(leaf, owner):
            return leaf
        wrapped = masked(path, leaf, owner)
        structure.check(path, wrapped.shape)
        if isinstance(score, Mapping):
            _score_of(score, path, wrapped.shape)
        return wrapped

    def init(params: Params) -> Params:
        wrapped = rewrite(params, pattern, wrap)
        return params if len(owned(params, owner)) == len(owned(wrapped, owner)) else update(wrapped, 0)

    def update(params: Params, step: Array | int, **_: Any) -> Params:
        leaves = owned_by_path(params, owner)
        scores = _scores(score, leaves)
        if isinstance(structure, Single):
            scores = [
                _removed_last(s, leaf.weight, allocation) for s, leaf in zip(scores, leaves.values(), strict=True)
            ]
        masks = iter(ranked(list(leaves.values()), scores, schedule(step), allocation, structure))
        return rewrite_owned(params, owner, lambda leaf: replace(leaf, mask=next(masks)))

    return at_every(every, Transform((owner,), init, update))


def n_m(
    pattern: str,
    n: int,
    m: int,
    score: Score | None = None,
    *,
    axis: int = -2,
    at: int = 0,
    name: str | None = None,
) -> Transform:
    """Keeps exactly the `n` of the highest score of every `m` weights in a row along `axis`, from step `at` on.

    ``n_m(pattern, 2, 4)`` is 2:4 sparsity; `axis` is the one that a product sums over, -2 for (…, inputs, outputs).
    `score` is that of `by_score`. Raises ValueError for an `n` outside [1, m) and as `by_score` does.
    """
    runs = runs_of(pattern, n, m, axis)
    kept = one_shot(1 - n / m, at=at) if at else 1 - n / m
    return by_score(pattern, kept, score, structure=runs, name=name or f"n_m[{pattern}, {n}:{m}]")


def runs_of(pattern: str, n: int, m: int, axis: int) -> Runs:
    """Returns the runs of N:M sparsity; raises ValueError for an `n` outside [1, m)."""
    if not 1 <= n < m:
        raise ValueError(f"{n}:{m} for pattern {pattern!r} keeps all or nothing; n must be in [1, m)")
    return Runs(m, axis)


def checked_sparsity(pattern: str, sparsity: Schedule | float) -> Schedule:
    """Returns a sparsity as a schedule; raises ValueError if it starts or ends outside [0, 1]."""
    schedule = as_schedule(sparsity)
    for step in (0, 2**31 - 1):
        value = schedule(step)  # traced in a sweep, where it cannot be checked
        if not isinstance(value, Tracer) and not 0.0 <= float(value) <= 1.0:
            raise ValueError(f"sparsity {float(value):g} for pattern {pattern!r} is not a fraction in [0, 1]")
    return schedule


def check_allocation(pattern: str, allocation: str, structure: Structure) -> None:
    """Raises ValueError for an unknown allocation and for one that does not go with the structure."""
    if allocation not in get_args(Allocation):
        known = ", ".join(get_args(Allocation))
        raise ValueError(f"allocation {allocation!r} for pattern {pattern!r} is not one of {known}")
    if isinstance(structure, Runs | PerOutput) and allocation != "uniform":
        kind = type(structure).__name__
        raise ValueError(f"allocation {allocation!r} for pattern {pattern!r} is not for {kind}, which is pruned evenly")


def ranked(
    leaves: list[Masked], scores: list[Array], sparsity: Array | float, allocation: Allocation, structure: Structure
) -> list[Array]:
    """Returns the masks of leaves for a sparsity; those of a group that has the count asked for already stand."""
    fresh = top(scores, sparsity, allocation, structure)
    together = allocation in ("global", "lamp")
    groups = [range(len(leaves))] if together else [[i] for i in range(len(leaves))]
    masks: list[Array] = []
    for group in groups:
        stands = _count([leaves[i].mask for i in group]) == _count([fresh[i] for i in group])
        masks += [jnp.where(stands, leaves[i].mask, fresh[i]) for i in group]
    return masks


def top(scores: list[Array], sparsity: Array | float, allocation: Allocation, structure: Structure) -> list[Array]:
    """Masks all but the highest scores of arrays: exact counts by layer, or of all arrays together."""
    if isinstance(structure, Runs):
        size, axis = structure.size, structure.axis
        return [keep_largest_of_each(s, kept_count(size, sparsity), size, axis) for s in scores]
    if isinstance(structure, PerOutput):
        return [_per_output(s, sparsity) for s in scores]
    units = [structure.units(s) for s in scores]
    sizes = [u.size for u in units]
    if allocation in ("global", "lamp"):
        rescaled = [lamp(u) for u in units] if allocation == "lamp" else units
        kept = keep_largest(rescaled, kept_count(sum(sizes), sparsity))
    else:
        each = erk([s.shape for s in scores], sparsity) if allocation == "erk" else [sparsity] * len(scores)
        counts = [kept_count(size, part) for size, part in zip(sizes, each, strict=True)]
        kept = [keep_largest([u], count)[0] for u, count in zip(units, counts, strict=True)]
    return [structure.mask(k, s.shape) for k, s in zip(kept, scores, strict=True)]


def _per_output(scores: Array, sparsity: Array | float) -> Array:
    """Masks all but the highest scores of each index of the last axis."""
    columns = scores.reshape(-1, scores.shape[-1])
    count = kept_count(len(columns), sparsity)
    kept = jax.vmap(lambda column: keep_largest([column], count)[0], in_axes=1, out_axes=1)(columns)
    return kept.reshape(scores.shape)


def _scores(score: Score | None, leaves: dict[str, Masked]) -> list[Array]:
    """Returns the score of each leaf, given or computed of its weight."""
    weights = {path: lax.stop_gradient(dense(leaf.weight)) for path, leaf in leaves.items()}
    if score is None:
        return [jnp.abs(weight) for weight in weights.values()]
    found = score if isinstance(score, Mapping) else score(weights)
    return [_score_of(found, path, leaf.shape) for path, leaf in leaves.items()]


def _removed_last(score: Array, weight: Any, allocation: Allocation) -> Array:
    """Ranks what an earlier mask removed below all that it keeps."""
    stays = kept(weight)
    if stays is None:
        return score
    lowest = 0.0 if allocation == "lamp" else jnp.finfo(jnp.float32).min
    return jnp.where(stays, score.astype(jnp.float32), lowest)


def _score_of(score: Mapping[str, Array], path: str, shape: tuple[int, ...]) -> Array:
    """Returns the score of a leaf; what a later transform wrapped is found under the path that it had before."""
    found = path
    while found not in score and "/" in found:
        found = found.rpartition("/")[0]
    if found not in score:
        raise ValueError(f"there is no score for {path}; there are those of {', '.join(score) or 'none'}")
    if score[found].shape != shape:
        raise ValueError(f"the score of {found} has shape {score[found].shape}; its weight has {shape}")
    return score[found]


def _check_numbers(score: Mapping[str, Array], allocation: Allocation) -> None:
    for path, values in score.items():
        if allocation == "lamp" and not isinstance(values, Tracer) and bool(jnp.any(values < 0)):
            raise ValueError(f"the score of {path} is negative in places; allocation 'lamp' ranks by its square")
        if not isinstance(values, Tracer) and bool(jnp.any(jnp.isnan(values))):
            raise ValueError(f"the score of {path} holds NaN, which has no rank")


def _count(masks: list[Array]) -> Array:
    return sum((jnp.sum(mask, dtype=jnp.int32) for mask in masks), jnp.int32(0))
