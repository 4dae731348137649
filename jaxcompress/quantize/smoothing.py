"""Scales of a layer's inputs chosen by what the inputs are, folded into the layer before: SmoothQuant and AWQ.

Both rest on ``x @ w == (x / s) @ (s * w)``, and on the division being one of the layer that made x.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxcompress.arrays import dense
from jaxcompress.interpreters.graph import Graph, Node, operate
from jaxcompress.numerics import affine
from jaxcompress.paths import Params
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
from jaxcompress.quantize.weights import Granularity


def smoothquant(graph: Graph, weights: Params, batches: Sequence[Array], *, alpha: float = 0.5) -> Prepared:
    """Moves the ranges of activations into the weights that they meet, by a strength `alpha` from 0 to 1.

    Input j of a layer is divided by ``s[j] = max|x[j]| ** alpha / max|w[j]| ** (1 - alpha)`` and its weights are
    multiplied by it (Xiao et al. 2023, arXiv:2211.10438, eq. 4), with the largest magnitudes over `batches` of inputs:
    at 0.5 both get one range, at 1 the activations one of 1. The float outputs stay what they are.

    Departures: the division goes into the layer before, not into a normalization; inputs that carry one channel of it,
    as after a flattening, share a scale by the largest of them; layers without such a layer before them keep their
    inputs (`Prepared.blocked`). A channel that is zero on either side keeps scale 1, and no scale leaves 2**-20 to
    2**20.

    Raises ValueError for an `alpha` outside [0, 1], weights or inputs that are not finite, and no batches.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha!r} is not in [0, 1]")
    check_finite(weights)
    found, blocked = pairs(graph)
    observe = _observe(graph, weights, found, lambda pair, x: to_channels(graph, pair, _over_places(jnp.max, x)))
    observed = [observe(x) for x in _some(batches)]
    largest = [_finite(pair, np.max(each, axis=0)) for pair, *each in zip(found, *observed, strict=True)]

    def prepare(weights: Params) -> Params:
        scales = {}
        for pair, met in zip(found, largest, strict=True):
            kernel = dense(weights[pair.second]["kernel"]).astype(jnp.float32)
            meets = to_channels(graph, pair, largest_by_input(graph.node(pair.second), kernel))
            live = is_live(met) & is_live(meets)
            one = jnp.ones(())
            scale = jnp.where(live, met, one) ** alpha / jnp.where(live, meets, one) ** (1 - alpha)
            scales[pair] = bounded(scale, live)
        return rescale(graph, weights, scales)

    return Prepared(jax.jit(prepare)(weights), found, blocked)


def awq(
    graph: Graph,
    weights: Params,
    batches: Sequence[Array],
    *,
    bits: int = 4,
    granularity: Granularity = "channel",
    points: int = 20,
) -> Prepared:
    """Protects the weights that meet large activations, by the scales that keep each layer's output best.

    Input j of a layer is divided by ``s[j] = mean|x[j]| ** alpha`` and its weights are multiplied by it, with the alpha
    of ``0, 1/points, … 1`` that gives the smallest squared error of the layer's sums on `batches` when its kernel is
    rounded to symmetric `bits`-bit integers (Lin et al. 2023, arXiv:2306.00978, eqs. 4 and 5), a scale per array
    (``tensor``) or per output (``channel``) from the extremes. Alpha 0 changes nothing, so no layer gets worse. Each
    layer is judged on its float inputs. The float outputs stay what they are.

    Departures as in `smoothquant`; inputs that carry one channel share the mean of theirs. As in the authors' release
    scales are divided by ``sqrt(max(s) * min(s))``, so that activations stay in the middle of the floats.

    Raises ValueError for bits outside 2..8, an unknown granularity, fewer than one point, weights or inputs that are
    not finite, and no batches.
    """
    if not (isinstance(bits, int) and 2 <= bits <= 8) or not (isinstance(points, int) and points >= 1):
        raise ValueError(f"bits {bits!r} and points {points!r} are not integers from 2 to 8 and at least 1")
    if granularity not in get_args(Granularity):
        raise ValueError(f"granularity {granularity!r} is not one of {', '.join(get_args(Granularity))}")
    check_finite(weights)
    found, blocked = pairs(graph)
    observe = _observe(
        graph, weights, found, lambda pair, x: to_channels(graph, pair, _over_places(jnp.mean, x), largest=False)
    )
    observed = [observe(x) for x in _some(batches)]
    sizes = [len(x) for x in batches]
    means = [_finite(pair, np.average(each, 0, sizes)) for pair, *each in zip(found, *observed, strict=True)]
    errors = np.zeros((len(found), points + 1))
    alphas = jnp.linspace(0, 1, points + 1)
    judges = [jax.jit(_judge(graph.node(pair.second), pair, weights, bits, granularity)) for pair in found]
    inputs = _observe(graph, weights, found, lambda pair, x: x)
    for batch in batches:
        for i, x in enumerate(inputs(batch)):
            errors[i] += [float(judges[i](x, means[i], alpha)) for alpha in alphas]
    best = alphas[np.argmin(errors, axis=1)]

    def prepare(weights: Params) -> Params:
        return rescale(graph, weights, {pair: _protecting(means[i], best[i]) for i, pair in enumerate(found)})

    return Prepared(jax.jit(prepare)(weights), found, blocked)


def _protecting(met: Array, alpha: Array) -> Array:
    """Returns ``met ** alpha``, its largest and smallest entry on either side of 1."""
    live = is_live(met)
    logs = alpha * jnp.log(jnp.where(live, met, 1.0))
    ends = jnp.max(logs, where=live, initial=-jnp.inf), jnp.min(logs, where=live, initial=jnp.inf)
    return bounded(jnp.exp(logs - (ends[0] + ends[1]) / 2), live)


def _judge(
    node: Node, pair: Pair, weights: Params, bits: int, granularity: Granularity
) -> Callable[[Array, Array, Array], Array]:
    """Returns the squared error of a layer's sums on its inputs, its kernel rounded under the scale of an alpha."""
    kernel = dense(weights[node.name]["kernel"]).astype(jnp.float32)
    axes = tuple(range(kernel.ndim if granularity == "tensor" else kernel.ndim - 1))
    unbiased = jnp.zeros(kernel.shape[-1])

    def error(x: Array, met: Array, alpha: Array) -> Array:
        factors = by_input(node, kernel.shape, to_inputs(pair, _protecting(met, alpha)))
        step, zero = affine.weight_range(kernel * factors, bits, axes, symmetric=True)
        rounded = affine.dequantize(affine.quantize(kernel * factors, step, zero, bits, symmetric=True), step, zero)
        wrong = {"kernel": rounded / factors - kernel, "bias": unbiased}
        return jnp.sum(operate(replace(node, activation=None), wrong, [x.astype(jnp.float32)]) ** 2)

    return error


def _observe(
    graph: Graph, weights: Params, found: Sequence[Pair], measure: Callable[[Pair, Array], Array]
) -> Callable[[Array], list[Array]]:
    """Returns a function from a batch to what is measured of the inputs of each pair's second layer."""

    @jax.jit
    def run(x: Array) -> list[Array]:
        values = graph.values(lambda node, inputs: operate(node, weights.get(node.name, {}), inputs), x)
        return [measure(pair, values[graph.node(pair.second).inputs[0]]) for pair in found]

    return lambda x: run(jnp.asarray(x))


def _over_places(reduce: Callable[..., Array], x: Float[Array, "..."]) -> Float[Array, "inputs"]:
    return reduce(jnp.abs(x.astype(jnp.float32)), tuple(range(x.ndim - 1)))


def _some(batches: Sequence[Array]) -> Sequence[Array]:
    if not len(batches):
        raise ValueError("there are no batches of inputs; at least one is needed")
    return batches


def _finite(pair: Pair, measured: np.ndarray) -> Array:
    if not np.all(np.isfinite(measured)):
        raise ValueError(f"the inputs of {pair.second} are not finite on the batches given")
    return jnp.asarray(measured, jnp.float32)
