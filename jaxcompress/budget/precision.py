"""Bits of every layer within a budget of bytes."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from jaxcompress.budget.allocation import allocate
from jaxcompress.interpreters.graph import Graph, Node
from jaxcompress.paths import Params
from jaxcompress.quantize.kernels import bits_by_layer, check_granularity, check_layers, layers
from jaxcompress.quantize.weights import Granularity

Stored = Literal["exact", "litert"]


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
