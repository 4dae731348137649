"""Additive combinations: a weight as the sum of what two transforms make of it."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import CompressedArray, Summed, dense, is_compressed
from jaxcompress.paths import Params, flatten, replaced, select
from jaxcompress.transform import Transform, owned
from jaxcompress.weights import checked_result, checked_weight

_DONE = "split into a sum"


def additive(
    pattern: str, first: Transform, second: Transform, *, rounds: int = 10, name: str | None = None
) -> Transform:
    """Replaces the matched weights by the sums of what two transforms compress, found by turns.

    In each of `rounds` `first` compresses what `second` leaves of the weight, and then `second` what `first` leaves,
    which never raises the squared error where both find the nearest there is (Idelbayev & Carreira-Perpiñán 2021,
    arXiv:2107.04380; their toolkit takes ten rounds). ``additive(p, magnitude(p, 0.99), codebook(p, 1))`` is a codebook
    of two values and the largest hundredth of what it misses. `update` is that of both.

    Raises ValueError for fewer than one round, and, from `init`, for a pattern without a match, weights that are
    already compressed, and weights that either transform leaves as they are.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} for pattern {pattern!r} must be at least 1")
    owner = name or f"additive[{pattern}]"

    def init(params: Params) -> Params:
        weights = select(params, pattern)
        if all(owned(leaf, owner) for leaf in weights.values()):
            return params
        for path, leaf in weights.items():
            if isinstance(leaf, CompressedArray):
                raise ValueError(f"{path} is already {type(leaf).__name__}; a sum is made of a plain weight")
        weights = {path: checked_weight(path, leaf, _DONE) for path, leaf in weights.items()}
        sums = _by_turns(params, weights, (first, second), rounds)
        leaves = {
            path: checked_result(path, weights[path], Summed(*parts, owner), _DONE) for path, parts in sums.items()
        }
        return replaced(params, leaves)

    def update(params: Params, step: Array | int, **extra: Any) -> Params:
        return second.update(first.update(params, step, **extra), step, **extra)

    return Transform((owner, *first.names, *second.names), init, update)


def _by_turns(
    params: Params, weights: Mapping[str, Array], transforms: tuple[Transform, Transform], rounds: int
) -> dict[str, tuple[Any, Any]]:
    """Returns what each of the transforms makes of every weight, the two summing up to nearly that."""
    parts: list[dict[str, Any]] = [{path: jnp.zeros_like(weight) for path, weight in weights.items()} for _ in (0, 1)]
    for turn in range(2 * rounds):
        this, other = turn % 2, 1 - turn % 2
        left = {
            path: checked_result(path, weight, weight - dense(parts[other][path]), _DONE)
            for path, weight in weights.items()
        }
        made = flatten(transforms[this].init(replaced(params, left)))
        for path in weights:
            if not is_compressed(made[path]):
                raise ValueError(f"{path} is left as it is by {', '.join(transforms[this].names)}")
        parts[this] = {path: made[path] for path in weights}
    return {path: (parts[0][path], parts[1][path]) for path in weights}
