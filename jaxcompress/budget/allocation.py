"""The best choice within a budget: one level for each item, so that the damage is least and the cost bearable."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp


def allocate(costs: Sequence[Sequence[int]], damages: Sequence[Sequence[float]], budget: int) -> list[int]:
    """Chooses one level of each item, so that the damages sum to the least that costs of at most `budget` allow.

    ``costs[i][j]`` and ``damages[i][j]`` are those of level j of item i, whatever a level is: a number of bits, a
    sparsity, a rank. Items may have different numbers of levels. Costs are integers of at least zero, bytes for
    instance; damages are finite and may be negative. Of two choices of equal damage the cheaper one is taken. Returns
    the index of the level of every item.

    This is the multiple-choice knapsack problem, solved exactly by dynamic programming over the costs (Kellerer,
    Pferschy and Pisinger 2004, chapter 11) on the choices that no other one undercuts in both cost and damage. They are
    at most as many as there are costs up to the budget, far fewer where costs have a common divisor.

    Raises ValueError for tables that do not fit each other, an item without levels, costs that are negative or not
    integers, damages that are not finite, and a budget below the sum of the cheapest levels, which the message names.
    """
    items = _items(costs, damages)
    cheapest = [int(cost.min()) for cost, _ in items]
    if not isinstance(budget, int | np.integer) or budget < sum(cheapest):
        raise ValueError(f"a budget of {budget!r} does not suffice; the cheapest levels cost {sum(cheapest)}")
    left = min(int(budget), sum(int(cost.max()) for cost, _ in items)) - sum(cheapest)
    cost, damage = np.zeros(1, np.int64), np.zeros(1)  # of the choices so far, rising and falling
    origins: list[np.ndarray] = []  # of each of them, before every item: the choice that it goes on from, and the level
    for (costs_of, damages_of), least in zip(items, cheapest, strict=True):
        costs_of = costs_of - least  # what it costs above the cheapest
        all_costs = np.add.outer(cost, costs_of).reshape(-1)
        all_damages = np.add.outer(damage, damages_of).reshape(-1)
        order = np.lexsort((all_damages, all_costs))
        order = order[all_costs[order] <= left]
        best = np.minimum.accumulate(all_damages[order])
        kept = order[np.concatenate([[True], best[1:] < best[:-1]])]
        cost, damage = all_costs[kept], all_damages[kept]
        origins.append(kept)
    chosen, choice = [], len(cost) - 1  # the dearest has the least damage
    for (costs_of, _), kept in zip(reversed(items), reversed(origins), strict=True):
        choice, level = divmod(int(kept[choice]), len(costs_of))
        chosen.append(level)
    return chosen[::-1]


def allocate_within(
    costs: Sequence[Sequence[Sequence[int]]], damages: Sequence[Sequence[float]], budgets: Sequence[int]
) -> list[int]:
    """Chooses as `allocate` does, where a level has several costs, bytes and multiply-adds, each with its budget.

    ``costs[k][i][j]`` is cost k of level j of item i. With several costs the frontier of `allocate` may grow without
    bound, so this is solved as an integer program by branch and bound (HiGHS; Huangfu and Hall 2018), to optimality.

    Raises ValueError as `allocate` does, and if no choice is within all budgets at once.
    """
    if not costs or len(costs) != len(budgets):
        raise ValueError(f"there are {len(costs)} tables of costs and {len(budgets)} budgets")
    for table, budget in zip(costs, budgets, strict=True):
        items = _items(table, damages)
        if not isinstance(budget, int | np.integer):
            raise ValueError(f"a budget of {budget!r} is not an integer")
    counts = [len(damage) for _, damage in items]
    if not counts:
        return []
    one_of_each = np.repeat(np.eye(len(counts)), counts, axis=1)
    # In units of the budgets and of the largest damage: the tolerances of the solver are absolute.
    units = [float(max(abs(budget), 1)) for budget in budgets]
    limits = [
        LinearConstraint(np.concatenate(table) / unit, -np.inf, budget / unit)
        for table, unit, budget in zip(costs, units, budgets, strict=True)
    ]
    harm = np.concatenate([damage for _, damage in items])
    found = milp(
        harm / max(float(np.max(np.abs(harm))), np.finfo(np.float64).tiny),
        integrality=np.ones(len(harm)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_of_each, 1, 1), *limits],
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        raise ValueError(f"no choice is within budgets of {list(budgets)}: {found.message}")
    chosen = [int(np.argmax(part)) for part in np.split(found.x, np.cumsum(counts)[:-1])]
    spent = [sum(int(of[j]) for of, j in zip(table, chosen, strict=True)) for table in costs]
    if any(total > budget for total, budget in zip(spent, budgets, strict=True)):
        raise ValueError(f"the solver chose costs of {spent}, which are not within {list(budgets)}")
    return chosen


def _items(costs: Sequence[Sequence[int]], damages: Sequence[Sequence[float]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the costs and damages of every item as arrays of int64 and float64."""
    if len(costs) != len(damages):
        raise ValueError(f"there are costs of {len(costs)} items and damages of {len(damages)}")
    items = []
    for i, (cost, damage) in enumerate(zip(map(np.asarray, costs), map(np.asarray, damages), strict=True)):
        if cost.ndim != 1 or cost.shape != damage.shape or not cost.size:
            raise ValueError(f"item {i} has costs of shape {cost.shape} and damages of shape {damage.shape}")
        if not np.issubdtype(cost.dtype, np.integer) or cost.min() < 0:
            raise ValueError(f"costs {cost.tolist()} of item {i} are not integers of at least 0")
        if not np.all(np.isfinite(damage)):
            raise ValueError(f"damages {damage.tolist()} of item {i} are not finite")
        items.append((cost.astype(np.int64), damage.astype(np.float64)))
    return items
