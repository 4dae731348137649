"""The best choice within a budget: one level for each item, so that the damage is least and the cost bearable."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from jaxcompress.arrays import dense
from jaxcompress.interpreters.graph import Graph, Node
from jaxcompress.paths import Params, flatten, replaced
from jaxcompress.quantize.kernels import bits_by_layer, check_granularity, check_layers, layers
from jaxcompress.quantize.weights import Granularity

Stored = Literal["exact", "litert"]


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


def mixed_precision(
    graph: Graph,
    weights: Params,
    sensitivities: Mapping[str, Mapping[int, float]],
    budget_bytes: int,
    bits: Iterable[int] = (4, 8),
    *,
    granularity: Granularity = "channel",
    stored: Stored = "exact",
) -> dict[str, int]:
    """Chooses the bits of every layer, for `post_training`, so that the damage is least within a budget of bytes.

    `sensitivities` maps each layer and each of `bits` to the damage, as `quantize.sensitivity` measures and
    `quantize.hessian_sensitivity` estimates it; damages of layers are taken to add up, and `allocate` finds the least
    sum there is. `layer_bytes` says what a layer costs.

    A LiteRT file knows kernels of 4 and of 8 bits alone, and of 8 if they are grouped: others are stored in the next of
    these, for which the default levels are 4 and 8. With ``stored="litert"`` they are counted so.

    Raises ValueError for bits outside 2..8, an unknown granularity or form, a layer or bits without a sensitivity, and
    a budget below the smallest model, whose bytes the message names.
    """
    names, levels = layers(graph, weights), sorted(set(bits))
    check_layers("sensitivity", sensitivities, names)
    for number in levels:
        bits_by_layer(names, number)
        missing = [name for name in names if number not in sensitivities[name]]
        if missing:
            raise ValueError(f"no sensitivity for {number} bits of {', '.join(missing)}")
    costs = [
        [layer_bytes(graph.node(name), weights[name], number, granularity, stored) for number in levels]
        for name in names
    ]
    damages = [[sensitivities[name][number] for number in levels] for name in names]
    return dict(zip(names, (levels[j] for j in allocate(costs, damages, budget_bytes)), strict=True))


Leaves = Mapping[str, Mapping[int, Any]]  # a compressed leaf for every path and level, such as every rank
Damages = Mapping[str, Mapping[int, float]]


def leaf_errors(params: Params, leaves: Leaves) -> dict[str, dict[int, float]]:
    """Returns the squared error of every leaf over the squares of the weight it stands for: error curves by layer."""
    plain = flatten(params)

    def error(path: str, leaf: Any) -> float:
        weight = np.asarray(dense(plain[path]), np.float64)
        return float(np.sum((np.asarray(dense(leaf), np.float64) - weight) ** 2) / np.sum(weight**2))

    return {path: {level: error(path, leaf) for level, leaf in of.items()} for path, of in leaves.items()}


def leaf_losses(params: Params, leaves: Leaves, loss: Callable[[Params], Any]) -> dict[str, dict[int, float]]:
    """Returns by how much ``loss(params)`` rises when that one leaf alone stands in the place of its weight."""
    before = float(loss(params))
    return {
        path: {level: float(loss(replaced(params, {path: leaf}))) - before for level, leaf in of.items()}
        for path, of in leaves.items()
    }


def levels_within(
    params: Params,
    leaves: Leaves,
    damages: Damages,
    cost: Callable[[Params], int],
    budget: int,
    *,
    search: Literal["exact", "greedy"] = "exact",
) -> dict[str, int | None]:
    """Chooses one level of each leaf, or None for the weight as it is, so that the damage is least within a budget.

    ``cost(params)`` counts what all of a model costs, such as `factorize.multiply_adds`; the costs and the `damages`
    (`leaf_errors`, `leaf_losses`) of leaves are taken to add up. ``exact`` finds the least sum there is by `allocate`;
    ``greedy`` begins with the weights as they are and takes, again and again, the step that saves most for its damage.

    Raises ValueError for damages that are missing or not finite, and a budget below the cheapest choice.
    """
    whole, names = cost(params), list(leaves)
    levels: list[list[int | None]] = [[None, *leaves[path]] for path in names]
    for path, of in zip(names, levels, strict=True):
        missing = [level for level in of[1:] if level not in damages.get(path, {})]
        if missing:
            raise ValueError(f"there is no damage for {missing} of {path}")
    harm = [[0.0, *(damages[path][level] for level in leaves[path])] for path in names]
    extra = [[0, *(cost(replaced(params, {path: leaf})) - whole for leaf in leaves[path].values())] for path in names]
    least = whole + sum(map(min, extra))
    if budget < least:
        raise ValueError(f"a budget of {budget} does not suffice; the cheapest levels cost {least}")
    if search == "greedy":
        chosen = _greedy(extra, harm, budget - whole)
    else:
        shifted = [[c - min(of) for c in of] for of in extra]
        chosen = allocate(shifted, harm, budget - least)
    return {path: of[j] for path, of, j in zip(names, levels, chosen, strict=True)}


def _greedy(costs: Sequence[Sequence[int]], damages: Sequence[Sequence[float]], budget: int) -> list[int]:
    """Takes the step of least damage for what it saves until the costs are within the budget."""
    chosen = [0] * len(costs)
    while sum(of[j] for of, j in zip(costs, chosen, strict=True)) > budget:
        steps = [
            ((damages[i][j] - damages[i][chosen[i]]) / (of[chosen[i]] - of[j]), i, j)
            for i, of in enumerate(costs)
            for j in range(len(of))
            if of[j] < of[chosen[i]]
        ]
        _, i, j = min(steps)
        chosen[i] = j
    return chosen


def layer_bytes(
    node: Node, layer: Mapping[str, Any], bits: int, granularity: Granularity = "channel", stored: Stored = "exact"
) -> int:
    """Counts the bytes of a layer: `bits` for each weight, up to a whole byte, and 4 bytes for each scale and bias."""
    check_granularity(granularity)
    if stored not in get_args(Stored):
        raise ValueError(f"stored {stored!r} is not one of {', '.join(get_args(Stored))}")
    kernel, outputs = layer["kernel"], layer["bias"].size
    if stored == "litert":
        grouped = node.window is not None and node.window.groups > 1
        bits = 8 if grouped or bits > 4 else 4
    scales = outputs if granularity == "channel" else 1
    return -(-bits * kernel.size // 8) + 4 * (scales + outputs)


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
