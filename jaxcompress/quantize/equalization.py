"""Cross-layer equalization: channels of equal ranges, so that one scale per tensor fits them all.

Nagel et al. 2019 (arXiv:1906.04721), section 4.1. What a layer's channel loses in scale the next layer's weights gain,
and the network computes the same.
"""

from collections.abc import Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxcompress.arrays import dense
from jaxcompress.interpreters.graph import Graph
from jaxcompress.paths import Params
from jaxcompress.quantize.moments import Moments
from jaxcompress.quantize.pairs import (
    Pair,
    Prepared,
    bounded,
    by_input,
    check_finite,
    is_live,
    largest_by_input,
    pairs,
    rescale,
    to_channels,
    to_inputs,
)


def equalize(graph: Graph, weights: Params, *, iterations: int = 100, tolerance: float = 1e-3) -> Prepared:
    """Makes the ranges of the weights on either side of every channel equal, wherever a scale may move between layers.

    Output i of a pair's first layer is divided by ``s[i] = sqrt(range1[i] / range2[i])`` and the weights that the
    second multiplies it with are multiplied by it (eqs. 9 to 11); a range is the largest magnitude, as of symmetric
    integers. Since layers belong to two pairs, all pairs are gone through in order until no scale of a round is further
    than `tolerance` from 1, at most `iterations` times. The float outputs stay what they are; the activations do not,
    so calibrate afterwards. Traces in the weights.

    `Prepared.blocked` names the layers whose outputs kept their scales and why: those used twice or added to others,
    and those that end in ReLU6, which the paper replaces by ReLU first (`without_relu6`). A channel without weights on
    either side keeps scale 1, and no scale leaves 2**-20 to 2**20.

    Raises ValueError for weights that are not finite, fewer than one iteration and a tolerance that is not positive.
    """
    if not (isinstance(iterations, int) and iterations >= 1) or not tolerance > 0:
        raise ValueError(f"iterations {iterations!r} and tolerance {tolerance!r} are not at least 1 and above 0")
    check_finite(weights)
    found, blocked = pairs(graph)
    if not found:
        return Prepared(weights, found, blocked)
    run = jax.jit(lambda w: rescale(graph, w, _scales(graph, w, found, iterations, tolerance)))
    return Prepared(run(weights), found, blocked)


def absorb_bias(graph: Graph, weights: Params, moments: Mapping[str, Moments]) -> Prepared:
    """Moves the constant part of channels that are hardly ever zero into the biases of the layers behind them.

    Of a channel with mean `beta` and deviation `gamma` before its activation, ``c = max(0, beta - 3 * gamma)`` is taken
    off its bias, and its contribution added to the next layer's (eqs. 12 to 15): activations get smaller ranges, which
    equalization had widened. `moments` are those of `quantize.moments`, measured on the same weights; the paper takes
    them from batch normalization, which a graph has folded. What exceeds c is unchanged, and that is all of a normal
    channel but 0.135 %.

    A departure: where zeros of a padding stand among the inputs, they would have to be -c, so these pairs are left as
    they are and stand in `Prepared.blocked`; the paper does not treat them apart.

    Raises ValueError for weights that are not finite and for layers without moments.
    """
    check_finite(weights)
    found, blocked = pairs(graph)
    blocked |= {
        pair.first: f"zeros of a padding stand among the inputs of {pair.second}" for pair in found if pair.padded
    }
    found = tuple(pair for pair in found if not pair.padded)
    missing = [pair.first for pair in found if pair.first not in moments]
    if missing:
        raise ValueError(f"moments of {', '.join(missing)} are missing; measure them by quantize.moments")
    changed = dict(weights)
    for pair in found:
        mean, deviation = moments[pair.first]
        constant = jnp.maximum(0.0, mean - 3 * deviation)
        kernel = dense(changed[pair.second]["kernel"])
        factors = by_input(graph.node(pair.second), kernel.shape, to_inputs(pair, constant).astype(kernel.dtype))
        first, second = (dense(changed[name]["bias"]) for name in (pair.first, pair.second))
        changed[pair.first] = changed[pair.first] | {"bias": first - constant.astype(first.dtype)}
        gained = jnp.sum(kernel * factors, axis=tuple(range(kernel.ndim - 1)))
        changed[pair.second] = changed[pair.second] | {"bias": second + gained}
    return Prepared(changed, found, blocked)


def without_relu6(graph: Graph) -> Graph:
    """Replaces every ReLU6 by a ReLU, through which scales move (Nagel et al. 2019, arXiv:1906.04721, section 5.1).

    The outputs change wherever a value exceeded 6: measure what that costs.
    """

    def unclipped(word: str | None) -> str | None:
        return "relu" if word == "relu6" else word

    nodes = (replace(n, kind=unclipped(n.kind), activation=unclipped(n.activation)) for n in graph.nodes)
    return replace(graph, nodes=tuple(nodes))


_State = tuple[Array, dict[str, Array], list[Array], Array]  # rounds done, magnitudes, scales, largest change


def _scales(
    graph: Graph, weights: Params, found: tuple[Pair, ...], iterations: int, tolerance: float
) -> dict[Pair, Array]:
    """Iterates on the largest magnitude by input and output of each kernel, which is all that ranges depend on."""
    layers = {name for pair in found for name in (pair.first, pair.second)}
    kernels = {name: jnp.abs(dense(weights[name]["kernel"])).astype(jnp.float32) for name in layers}
    magnitudes = {name: jnp.max(k, axis=tuple(range(k.ndim - 2))) for name, k in kernels.items()}
    ones = [jnp.ones(magnitudes[pair.first].shape[-1]) for pair in found]

    def unfinished(state: _State) -> Array:
        return (state[0] < iterations) & (state[3] > tolerance)

    def go_through(state: _State) -> _State:
        count, sizes, scales, _ = state
        sizes, totals, changes = dict(sizes), [], []
        for pair, scale in zip(found, scales, strict=True):
            node = graph.node(pair.second)
            first, second = sizes[pair.first], sizes[pair.second]
            before, after = jnp.max(first, axis=0), to_channels(graph, pair, largest_by_input(node, second))
            live = is_live(before) & is_live(after)
            # Two roots, since a product or a quotient of ranges may leave the floats.
            wanted = jnp.sqrt(before) / jnp.sqrt(jnp.where(live, after, 1.0))
            total = bounded(scale * wanted, live)
            step = total / scale
            sizes[pair.first] = first / step[None, :]
            sizes[pair.second] = second * by_input(node, second.shape, to_inputs(pair, step))
            totals.append(total)
            changes.append(jnp.max(jnp.abs(step - 1)))
        return count + 1, sizes, totals, jnp.max(jnp.stack(changes))

    start = (jnp.int32(0), magnitudes, ones, jnp.float32(jnp.inf))
    return dict(zip(found, lax.while_loop(unfinished, go_through, start)[2], strict=True))
