"""One compressed form of every kernel, out of several, within a budget of what the model costs."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from jaxcompress.arrays import dense
from jaxcompress.budget.allocation import allocate, allocate_within
from jaxcompress.paths import Params, flatten, replaced

Key = TypeVar("Key", bound=Hashable)

Leaves = Mapping[str, Mapping[Key, Any]]  # a compressed leaf for every path and level, such as every rank
Damages = Mapping[str, Mapping[Key, float]]
Cost = Callable[[Params], int]


def leaf_errors(params: Params, leaves: Leaves[Key]) -> dict[str, dict[Key, float]]:
    """Returns the squared error of every leaf over the squares of the weight it stands for: error curves by layer."""
    plain = flatten(params)

    def error(path: str, leaf: Any) -> float:
        weight = np.asarray(dense(plain[path]), np.float64)
        return float(np.sum((np.asarray(dense(leaf), np.float64) - weight) ** 2) / np.sum(weight**2))

    return {path: {level: error(path, leaf) for level, leaf in of.items()} for path, of in leaves.items()}


def leaf_losses(params: Params, leaves: Leaves[Key], loss: Callable[[Params], Any]) -> dict[str, dict[Key, float]]:
    """Returns by how much ``loss(params)`` rises when the values of one leaf alone stand in the place of its weight.

    They stand there as a plain array, so that a `loss` that is compiled is compiled once for all leaves.
    """
    before = float(loss(params))
    return {
        path: {level: float(loss(replaced(params, {path: dense(leaf)}))) - before for level, leaf in of.items()}
        for path, of in leaves.items()
    }


def levels_within(
    params: Params,
    leaves: Leaves[Key],
    damages: Damages[Key],
    cost: Cost,
    budget: int,
    *,
    also: Sequence[tuple[Cost, int]] = (),
    search: Literal["exact", "greedy"] = "exact",
) -> dict[str, Key | None]:
    """Chooses one level of each leaf, or None for the weight as it is, so that the damage is least within a budget.

    ``cost(params)`` counts what all of a model costs, such as `packed_bytes` or `factorize.multiply_adds`; the costs
    and the `damages` (`leaf_errors`, `leaf_losses`) of leaves are taken to add up. ``exact`` finds the least sum there
    is by `allocate`, or, with `also` more costs and their budgets, by `allocate_within`; ``greedy`` begins with the
    weights as they are and takes, again and again, the step that saves most for its damage.

    Raises ValueError for damages that are missing or not finite, a budget below the cheapest choice, and a greedy
    search within several budgets.
    """
    names = list(leaves)
    levels: list[list[Key | None]] = [[None, *leaves[path]] for path in names]
    for path, of in zip(names, levels, strict=True):
        missing = [level for level in of[1:] if level not in damages.get(path, {})]
        if missing:
            raise ValueError(f"there is no damage for {missing} of {path}")
    harm = [[0.0, *(damages[path][level] for level in leaves[path])] for path in names]
    extra, allowed = _above_cheapest(params, leaves, cost, budget)
    if search == "greedy":
        if also:
            raise ValueError("a greedy search is within one budget; several need search='exact'")
        picked = _greedy(extra, harm, allowed)
    elif also:
        tables = [(extra, allowed), *(_above_cheapest(params, leaves, *limit) for limit in also)]
        picked = allocate_within([table for table, _ in tables], harm, [within for _, within in tables])
    else:
        picked = allocate(extra, harm, allowed)
    return {path: of[j] for path, of, j in zip(names, levels, picked, strict=True)}


def chosen(params: Params, leaves: Leaves[Key], levels: Mapping[str, Key | None]) -> Params:
    """Puts the leaf of its level in the place of every weight that has one; KeyError for a level without leaf."""
    return replaced(params, {path: leaves[path][level] for path, level in levels.items() if level is not None})


def _above_cheapest(params: Params, leaves: Leaves[Key], cost: Cost, budget: int) -> tuple[list[list[int]], int]:
    """Returns what each level costs above the cheapest of its leaf, the weight as it is first, and what is left."""
    whole = cost(params)
    of_each = [
        [0, *(cost(replaced(params, {path: leaf})) - whole for leaf in of.values())] for path, of in leaves.items()
    ]
    least = whole + sum(map(min, of_each))
    if budget < least:
        raise ValueError(f"a budget of {budget} does not suffice; the cheapest levels cost {least}")
    return [[one - min(of) for one in of] for of in of_each], budget - least


def _greedy(costs: Sequence[Sequence[int]], damages: Sequence[Sequence[float]], budget: int) -> list[int]:
    """Takes the step of least damage for what it saves until the costs are within the budget."""
    picked = [0] * len(costs)
    while sum(of[j] for of, j in zip(costs, picked, strict=True)) > budget:
        steps = [
            ((damages[i][j] - damages[i][picked[i]]) / (of[picked[i]] - of[j]), i, j)
            for i, of in enumerate(costs)
            for j in range(len(of))
            if of[j] < of[picked[i]]
        ]
        _, i, j = min(steps)
        picked[i] = j
    return picked
