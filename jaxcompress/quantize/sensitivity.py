"""How much it hurts to quantize a layer: measured, or estimated from the curvature of the loss."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.arrays import densify
from jaxcompress.interpreters.graph import Graph
from jaxcompress.numerics.hessian import quadratic_forms
from jaxcompress.paths import Params
from jaxcompress.quantize.kernels import bits_by_layer, check_granularity, check_layers, finite_kernel, rounded_kernel
from jaxcompress.quantize.kernels import layers as layers_of
from jaxcompress.quantize.objectives import Loss, check_loss, squared_error
from jaxcompress.quantize.weights import Granularity

Damages = dict[str, dict[int, float]]  # layer -> bits -> damage


class Trace(NamedTuple):
    """Holds the estimate of a trace and the standard error of it, NaN for a single sample."""

    mean: float
    standard_error: float


def sensitivity(
    graph: Graph,
    weights: Params,
    batches: Sequence[Array],
    *,
    bits: Iterable[int] = range(2, 9),
    granularity: Granularity = "channel",
    loss: Loss | None = None,
    labels: Sequence[Array] | None = None,
) -> Damages:
    """Measures, for every layer and number of bits, the damage when only that layer's kernel is rounded to nearest.

    The damage is how much the mean ``loss(outputs, labels)`` over the examples of `batches` rises, which may be less
    than nothing; without a loss it is the mean squared error of the outputs. Scales are those of `post_training`;
    activations stay floats. One program runs the graph for all layers and bits, and one rounds all kernels of a shape.

    Raises ValueError for bits outside 2..8, an unknown granularity, kernels that are not finite, no batches, and a loss
    and labels that do not go with them.
    """
    names, levels = _checked(graph, weights, bits, granularity)
    loss, labels = _held_to(graph, weights, batches, loss, labels)
    examples = jax.jit(lambda weights, x, y: loss(graph(weights, x), y))
    plain = densify(weights)

    def losses(weights: Params) -> np.ndarray:
        found = [examples(weights, jnp.asarray(x), y) for x, y in zip(batches, labels, strict=True)]
        return np.concatenate([np.asarray(values, np.float64) for values in found])

    before = losses(plain)

    def damage(name: str, number: int) -> float:
        kernel = _rounded(finite_kernel(plain, name), jnp.int32(number), granularity)
        return float(np.mean(losses(plain | {name: plain[name] | {"kernel": kernel}}) - before))

    return {name: {number: damage(name, number) for number in levels} for name in names}


def hessian_traces(
    graph: Graph,
    weights: Params,
    batches: Sequence[Array],
    *,
    key: Array,
    samples: int = 32,
    loss: Loss | None = None,
    labels: Sequence[Array] | None = None,
) -> dict[str, Trace]:
    """Estimates the trace of the Hessian of the mean loss with respect to every kernel, by Hutchinson's estimator.

    `numerics.hessian` has the estimator; each of the `samples` draws one vector with `key` for all kernels and batches.
    Without a loss it is that of the mean squared error of the outputs, whose Hessian is that of Gauss and Newton.

    Raises ValueError for fewer samples than one, kernels that are not finite, no batches, and a loss and labels that do
    not go with them.
    """
    if samples < 1:
        raise ValueError(f"samples {samples} must be at least 1")
    loss, labels = _held_to(graph, weights, batches, loss, labels)
    plain = densify(weights)
    kernels = {name: finite_kernel(plain, name) for name in layers_of(graph, weights)}

    @jax.jit
    def forms(kernels: dict[str, Array], x: Array, y: Array, key: Array) -> dict[str, Array]:
        def total(kernels: dict[str, Array]) -> Array:
            layers = {name: plain[name] | {"kernel": kernel} for name, kernel in kernels.items()}
            return jnp.sum(loss(graph(layers, x), y))

        return quadratic_forms(total, kernels, key)

    def sample(key: Array) -> dict[str, float]:
        found = [forms(kernels, jnp.asarray(x), y, key) for x, y in zip(batches, labels, strict=True)]
        return {name: sum(float(batch[name]) for batch in found) / sum(map(len, batches)) for name in kernels}

    drawn = [sample(jax.random.fold_in(key, index)) for index in range(samples)]
    return {name: _trace([values[name] for values in drawn]) for name in kernels}


def hessian_sensitivity(
    graph: Graph,
    weights: Params,
    traces: Mapping[str, Trace],
    *,
    bits: Iterable[int] = range(2, 9),
    granularity: Granularity = "channel",
) -> Damages:
    """Estimates the damage of every layer and number of bits from `hessian_traces` (HAWQ-V2; Dong et al. 2020).

    ``trace(H) / n * sum((Q(w) - w)**2)`` for the n weights w of a kernel and its values Q(w) rounded to nearest
    (arXiv:1911.03852, section 2.2), with the scales of `post_training`. A negative trace, of a layer that is not at a
    minimum, counts as zero: fewer bits never help.

    Raises ValueError for bits outside 2..8, an unknown granularity, kernels that are not finite, and layers without a
    trace.
    """
    names, levels = _checked(graph, weights, bits, granularity)
    check_layers("trace", traces, names)

    def damage(name: str, number: int) -> float:
        kernel = finite_kernel(weights, name)
        difference = np.asarray(_rounded(kernel, jnp.int32(number), granularity) - kernel, np.float64)
        return max(traces[name].mean, 0.0) / kernel.size * float(np.sum(difference**2))

    return {name: {number: damage(name, number) for number in levels} for name in names}


_rounded = jax.jit(rounded_kernel, static_argnames="granularity")


def _checked(graph: Graph, weights: Params, bits: Iterable[int], granularity: str) -> tuple[list[str], list[int]]:
    names, levels = layers_of(graph, weights), list(bits)
    for number in levels:
        bits_by_layer(names, number)
    check_granularity(granularity)
    return names, levels


def _held_to(
    graph: Graph, weights: Params, batches: Sequence[Array], loss: Loss | None, labels: Sequence[Array] | None
) -> tuple[Loss, Sequence[Array]]:
    """Returns the loss and its labels; without any, the squared error and the outputs of the float network."""
    check_loss(graph, weights, batches, loss, labels)
    if loss is not None and labels is not None:
        return loss, [jnp.asarray(y) for y in labels]
    return squared_error, [jax.jit(graph)(weights, jnp.asarray(x)) for x in batches]


def _trace(samples: list[float]) -> Trace:
    error = np.std(samples, ddof=1) / math.sqrt(len(samples)) if len(samples) > 1 else math.nan
    return Trace(float(np.mean(samples)), float(error))
