"""Which channels stay: from scores to a choice for every group."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.interpreters.channels import Channels, Group
from jaxcompress.interpreters.cost import macs
from jaxcompress.interpreters.lift import lift
from jaxcompress.numerics.masks import keep_largest, kept_count
from jaxcompress.paths import Params, did_you_mean
from jaxcompress.prune.groups import keyed, matching
from jaxcompress.prune.removal import remove

Kept = dict[str | int, np.ndarray]  # by group, as scores are, whether each channel stays: bool
Normalize = Literal["mean", "l2", "none"]

_GONE = -1.0  # the score of a channel that was removed before, below all others


def select(
    scores: Mapping[Any, Any],
    channels: Channels,
    sparsity: float | Mapping[str, float],
    *,
    scope: Literal["layer", "global"] = "layer",
    normalize: Normalize = "mean",
    round_to: int = 1,
    at_least: int = 1,
) -> Kept:
    """Chooses the channels of the largest scores in every group that has scores; the others stay whole.

    `sparsity`, in [0, 1), is the fraction of the channels that go: of each group (``layer``), or of all groups with
    scores taken together (``global``), where a channel counts once, however many layers it is a slice of. In the scope
    ``layer`` it may map patterns to fractions: a pattern is held against the members of a group, as ``path:axis``, the
    first that matches one counts, and a group without a match stays whole. Counts are exact, ``n - round(sparsity *
    n)``; among equal scores the earlier group, and within a group the earlier channel, stays.

    The number kept of each group is then raised to `at_least`, and up to a multiple of `round_to`, by the channels next
    in its own rank; never above what there is, so a group of another number may stay whole. Scores are compared between
    groups after `normalize`: by the ``mean`` of a group, the root of its summed squares (``l2``; Molchanov et al. 2017,
    arXiv:1611.06440), or as they are (``none``).

    Raises ValueError for scores of groups that there are not, of another number of channels, negative or not finite; a
    sparsity outside [0, 1), which at 1 would leave a group empty; a pattern that matches nothing or a group without
    scores; and other options.
    """
    ranked = _checked(scores, channels, scope, normalize, round_to, at_least)
    if scope == "global":
        if isinstance(sparsity, Mapping):
            raise ValueError("a global sparsity is one number; fractions by pattern are for scope='layer'")
        total = sum(len(score) for score in ranked.values())
        count = int(kept_count(total, _fraction(sparsity, "all groups")))
        return _globally(ranked, channels, count, normalize, round_to, at_least)
    counts = {
        name: int(kept_count(len(ranked[name]), fraction))
        for name, fraction in _by_group(channels, ranked, sparsity).items()
    }
    return _widened(ranked, channels, counts, round_to, at_least)


def select_within(
    scores: Mapping[Any, Any],
    channels: Channels,
    cost: Callable[[Kept], float],
    budget: float,
    *,
    normalize: Normalize = "mean",
    round_to: int = 1,
    at_least: int = 1,
) -> Kept:
    """Chooses as many channels as `budget` allows, of the largest scores in all groups taken together.

    ``cost(kept)`` is what the model costs with a choice, as multiply-adds, bytes or seconds; it must not fall where
    more channels stay. Choices are those of `select` with ``scope="global"`` for every count, each of which holds the
    smaller ones, so the largest whose cost is at most `budget` is found by bisection. Raises ValueError as `select`
    does, and where the fewest channels that may stay cost more than the budget, whose cost the message names.
    """
    ranked = _checked(scores, channels, "global", normalize, round_to, at_least)

    def choice(count: int) -> Kept:
        return _globally(ranked, channels, count, normalize, round_to, at_least)

    fewest, most = 0, sum(_number_left(score) for score in ranked.values())
    least = cost(choice(fewest))
    if not least <= budget:
        raise ValueError(f"a budget of {budget:g} does not suffice; the fewest channels cost {least:g}")
    while fewest < most:
        middle = (fewest + most + 1) // 2
        if cost(choice(middle)) <= budget:
            fewest = middle
        else:
            most = middle - 1
    return choice(fewest)


def macs_left(apply: Callable[..., Any], params: Params, channels: Channels, *example: Any) -> Callable[[Kept], int]:
    """Returns ``cost(kept)`` for `select_within`: the multiply-adds of the model without the channels that go.

    They are those that `jaxcompress.macs` counts of ``lift(apply)(remove(params, channels, kept), *example)``. Nothing
    is computed, so `params` and `example` may be `jax.ShapeDtypeStruct`s; every choice is traced once.
    """
    lifted = lift(apply)

    def cost(kept: Kept) -> int:
        left = jax.eval_shape(lambda params: remove(params, channels, kept), params)
        return macs(lifted, left, *example)

    return cost


def _globally(
    ranked: Mapping[str | int, Array], channels: Channels, count: int, normalize: str, round_to: int, at_least: int
) -> Kept:
    count = min(count, sum(_number_left(score) for score in ranked.values()))
    masks = keep_largest([_normalized(score, normalize) for score in ranked.values()], count)
    counts = {name: int(mask.sum()) for name, mask in zip(ranked, masks, strict=True)}
    return _widened(ranked, channels, counts, round_to, at_least)


def _widened(
    ranked: Mapping[str | int, Array], channels: Channels, counts: Mapping[str | int, int], round_to: int, at_least: int
) -> Kept:
    """Keeps the largest of each group, as many as `counts` says or the bounds ask for."""
    kept: Kept = {key: _left(group) for key, group in keyed(channels).items()}
    for name, count in counts.items():
        rounded = -(-max(count, at_least) // round_to) * round_to
        (mask,) = keep_largest([ranked[name]], min(rounded, _number_left(ranked[name])))
        kept[name] = np.asarray(mask)
    return kept


def _left(group: Group) -> np.ndarray:
    return np.ones(group.channels, bool) if group.left is None else group.left.copy()


def _number_left(score: Array) -> int:
    return int(jnp.sum(score > _GONE))


def _normalized(score: Array, normalize: str) -> Array:
    left = score > _GONE
    of = score[left]
    match normalize:
        case "none":
            return score
        case "mean":
            by = jnp.mean(of)
        case _:
            by = jnp.linalg.norm(of)
    return jnp.where(left, score / jnp.where(by > 0, by, 1.0), _GONE)


def _by_group(
    channels: Channels, names: Iterable[str | int], sparsity: float | Mapping[str, float]
) -> dict[str | int, float]:
    """Returns the fraction to remove of every group that loses any."""
    if not isinstance(sparsity, Mapping):
        return dict.fromkeys(names, _fraction(sparsity, "every group"))
    found: dict[str | int, float] = {}
    for pattern, fraction in sparsity.items():
        matches = list(matching(channels, pattern))
        unknown = [name for name in matches if name not in names]
        if unknown:
            raise ValueError(f"pattern {pattern!r} matches {unknown[0]}, which has no scores")
        found = dict.fromkeys(matches, _fraction(fraction, repr(pattern))) | found
    return found


def _fraction(sparsity: float, of: str) -> float:
    if not 0.0 <= float(sparsity) < 1.0:
        raise ValueError(f"sparsity {sparsity!r} of {of} is not a fraction in [0, 1); at 1 no channel is left")
    return float(sparsity)


def _checked(
    scores: Mapping[Any, Any], channels: Channels, scope: str, normalize: str, round_to: int, at_least: int
) -> dict[str | int, Array]:
    """Returns the scores in the order of the groups, below zero for channels that were removed before."""
    for word, value, allowed in (("scope", scope, ("layer", "global")), ("normalize", normalize, get_args(Normalize))):
        if value not in allowed:
            raise ValueError(f"{word} {value!r} is not one of {', '.join(allowed)}")
    for word, number in (("round_to", round_to), ("at_least", at_least)):
        if number < 1:
            raise ValueError(f"{word}={number} must be at least 1")
    groups = keyed(channels)
    names = list(map(str, groups))
    if not scores:
        raise ValueError("there are no scores of any group")
    for name in scores:
        if name not in groups:
            raise ValueError(
                f"there is no group {name!r}{did_you_mean(str(name), names)}; there are {', '.join(names)}"
            )
    return {key: _score(scores[key], key, group) for key, group in groups.items() if key in scores}


def _score(score: Any, name: str | int, group: Group) -> Array:
    score = jnp.asarray(score, jnp.float32)
    if score.shape != (group.channels,):
        raise ValueError(f"the scores of {name} have the shape {score.shape}; it has {group.channels} channels")
    if not bool(jnp.all(jnp.isfinite(score) & (score >= 0))):
        raise ValueError(f"the scores of {name} are not all finite and at least zero")
    return jnp.where(_left(group), score, _GONE)
