"""Masks that follow training closely: straight-through estimators, movement pruning, alternating phases."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxcompress.arrays import Movement, StraightThrough, dense
from jaxcompress.paths import Params, rewrite
from jaxcompress.prune.allocation import Allocation
from jaxcompress.prune.masking import by_score, check_allocation, checked_sparsity, runs_of, top
from jaxcompress.prune.patterns import Single, Structure
from jaxcompress.prune.wrapping import plainly_masked, zeroed
from jaxcompress.schedules import Schedule, alternating
from jaxcompress.transform import Transform, owned, owned_by_path, rewrite_owned
from jaxcompress.transform import every as at_every
from jaxcompress.weights import checked_weight


def straight_through(
    pattern: str,
    sparsity: Schedule | float,
    *,
    decay: float = 0.0,
    allocation: Allocation = "uniform",
    structure: Structure = Single(),  # noqa: B008 (frozen)
    every: int = 1,
    name: str | None = None,
) -> Transform:
    """Masks the smallest weights anew at every update, while gradients reach the removed ones too.

    The straight-through estimator (Bengio et al. 2013, arXiv:1308.3432) of a mask. `decay` times a removed weight is
    added to its gradient, which keeps masks from changing to and fro (Zhou et al. 2021, arXiv:2102.04010). Sparsity,
    allocation and structure are those of `by_score`; `every` puts the ranking off to its multiples. Raises ValueError
    for a negative `decay`, and as `by_score` does.
    """
    schedule = checked_sparsity(pattern, sparsity)
    check_allocation(pattern, allocation, structure)
    if not 0 <= decay < float("inf"):
        raise ValueError(f"decay {decay!r} for pattern {pattern!r} must not be negative")
    owner = name or f"straight_through[{pattern}]"

    def wrap(path: str, leaf: Any) -> Any:
        if owned(leaf, owner):
            return leaf
        leaf = checked_weight(path, leaf, "pruned")
        structure.check(path, leaf.shape)
        return StraightThrough(leaf, jnp.ones(leaf.shape, bool), jnp.float32(decay), owner)

    def score(leaf: StraightThrough) -> Array:
        return jnp.abs(dense(leaf.weight))

    return _ranking(pattern, owner, wrap, score, schedule, allocation, structure, every)


def sr_ste(
    pattern: str, n: int, m: int, *, decay: float = 2e-4, axis: int = -2, every: int = 1, name: str | None = None
) -> Transform:
    """Trains N:M sparse weights from scratch by the sparse-refined straight-through estimator (Zhou et al. 2021).

    The `n` largest of every `m` weights along `axis` are used, chosen anew at each update (arXiv:2102.04010); the
    others learn by the gradient of the array in use and decay by `decay` times themselves. Raises ValueError as `n_m`
    and `straight_through` do.
    """
    runs = runs_of(pattern, n, m, axis)
    owner = name or f"sr_ste[{pattern}, {n}:{m}]"
    return straight_through(pattern, 1 - n / m, decay=decay, structure=runs, every=every, name=owner)


def movement(
    pattern: str,
    sparsity: Schedule | float,
    *,
    allocation: Allocation = "uniform",
    structure: Structure = Single(),  # noqa: B008 (frozen)
    every: int = 1,
    name: str | None = None,
) -> Transform:
    """Masks the weights of the lowest trained score: those that move towards zero (Sanh et al. 2020).

    Scores start at zero and stand beside the weight as ``.../scores``, where the optimiser moves them by the gradient
    times the weight, straight through the mask (arXiv:2005.07683, hard movement pruning); they may be given a learning
    rate of their own, and no decay. Use a `sparsity` that rises from 0, for equal scores are kept by place. Sparsity,
    allocation and structure are those of `by_score`, without ``lamp``, since scores are of either sign. Raises
    ValueError as `by_score` does.
    """
    schedule = checked_sparsity(pattern, sparsity)
    check_allocation(pattern, allocation, structure)
    if allocation == "lamp":
        raise ValueError(f"allocation 'lamp' for pattern {pattern!r} takes no scores of either sign")
    owner = name or f"movement[{pattern}]"

    def wrap(path: str, leaf: Any) -> Any:
        if owned(leaf, owner):
            return leaf
        leaf = checked_weight(path, leaf, "pruned")
        structure.check(path, leaf.shape)
        return Movement(leaf, jnp.zeros(leaf.shape), jnp.ones(leaf.shape, bool), owner)

    return _ranking(pattern, owner, wrap, lambda leaf: leaf.scores, schedule, allocation, structure, every)


def ac_dc(
    pattern: str,
    sparsity: float,
    *,
    begin: int,
    end: int,
    compressed_steps: int,
    dense_steps: int,
    allocation: Allocation = "global",
    structure: Structure = Single(),  # noqa: B008 (frozen)
    name: str | None = None,
) -> Transform:
    """Takes turns between compressed and dense training (AC/DC; Peste et al. 2021, arXiv:2106.12379).

    Dense up to step `begin`; then `compressed_steps` under a mask of the largest weights, drawn up at their start, and
    `dense_steps` without one, in turn; compressed from step `end` on. Removed weights are set to zero and start from
    there in the next dense phase; `mask_moments` resets the optimiser for them. Raises ValueError for phases that are
    none, for leaves that are not plain arrays, and as `by_score` does.
    """
    owner = name or f"ac_dc[{pattern}]"
    phases = alternating(sparsity, begin=begin, end=end, high_steps=compressed_steps, low_steps=dense_steps)
    inner = by_score(pattern, phases, allocation=allocation, structure=structure, name=owner)

    def init(params: Params) -> Params:
        rewrite(params, pattern, lambda path, leaf: plainly_masked(path, leaf, owner))
        wrapped = inner.init(params)
        if len(owned(params, owner)) == len(owned(wrapped, owner)):
            return params
        return rewrite_owned(wrapped, owner, zeroed)

    def update(params: Params, step: Array | int, **extra: Any) -> Params:
        return rewrite_owned(inner.update(params, step, **extra), owner, zeroed)

    return Transform((owner,), init, update)


def _ranking(
    pattern: str,
    owner: str,
    wrap: Any,
    score: Any,
    schedule: Schedule,
    allocation: Allocation,
    structure: Structure,
    every: int,
) -> Transform:
    """Makes the transform that masks its leaves by their `score` at every update."""

    def init(params: Params) -> Params:
        wrapped = rewrite(params, pattern, wrap)
        return params if len(owned(params, owner)) == len(owned(wrapped, owner)) else update(wrapped, 0)

    def update(params: Params, step: Array | int, **_: Any) -> Params:
        scores = [lax.stop_gradient(score(leaf)) for leaf in owned_by_path(params, owner).values()]
        masks = iter(top(scores, schedule(step), allocation, structure))
        return rewrite_owned(params, owner, lambda leaf: replace(leaf, mask=next(masks)))

    return at_every(every, Transform((owner,), init, update))
