"""Means and deviations of what a graph computes, before its activations."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxcompress.interpreters.graph import INPUT, Graph, Node, activate, operate
from jaxcompress.numerics.normal import clipped_mean, rectified_mean
from jaxcompress.paths import Params

_LINEAR = ("add", "mean", "average_pool", "concatenate", "reshape", "transpose", "slice", "pad")
_ACTIVATIONS = ("relu", "relu6")


class Moments(NamedTuple):
    """The mean and the standard deviation of a tensor by channel, its last axis; float32."""

    mean: Float[Array, "channels"]
    deviation: Float[Array, "channels"]


def moments(graph: Graph, weights: Params, batches: Iterable[Any]) -> dict[str, Moments]:
    """Measures, on `batches` of inputs, the moments of every tensor that is no linear function of those before.

    These are the input of the graph, and before their activations the layers and all other operations that have one or
    choose. Where a layer was followed by batch normalization they are its shift and scale (`beta`, `gamma`), which may
    stand in for them where there are no inputs. Raises ValueError if there are no batches, and for values that are not
    finite.
    """
    measure = jax.jit(lambda x: by_channel(_before_activations(graph, weights, x)))
    return pooled([(len(x), measure(jnp.asarray(x))) for x in batches])


def by_channel(tensors: Mapping[str, Array]) -> dict[str, Moments]:
    """Takes the moments of each tensor over all axes but the last."""
    axes = {name: tuple(range(x.ndim - 1)) for name, x in tensors.items()}
    return {name: Moments(jnp.mean(x, axes[name]), jnp.std(x, axes[name])) for name, x in tensors.items()}


def pooled(batches: Sequence[tuple[int, Mapping[str, Moments]]]) -> dict[str, Moments]:
    """Joins the moments of batches of inputs, each given with its size; raises as `moments` does."""
    if not batches:
        raise ValueError("there are no batches of inputs; at least one is needed")
    sizes = [size for size, _ in batches]
    found = {}
    for name in batches[0][1]:
        means, deviations = np.asarray([of[name] for _, of in batches], np.float64).swapaxes(0, 1)
        if not np.all(np.isfinite(deviations)):
            raise ValueError(f"the values of {name} are not finite on the batches given")
        mean = np.average(means, axis=0, weights=sizes)
        # About the common mean: squares less the square of the mean would cancel where a channel hardly moves.
        variance = np.average(deviations**2 + (means - mean) ** 2, axis=0, weights=sizes)
        found[name] = Moments(jnp.asarray(mean, jnp.float32), jnp.asarray(np.sqrt(variance), jnp.float32))
    return found


def mean_after(node: Node, before: Moments) -> Array:
    """Returns the mean by channel of what a node gives, if its values before the activation are normal."""
    match activation_of(node):
        case "relu":
            return rectified_mean(*before)
        case "relu6":
            return clipped_mean(*before, 0.0, 6.0)
        case _:
            return before.mean


def is_linear(node: Node) -> bool:
    """Tells whether the mean of what a node gives follows from the means of what it is given, without weights."""
    return node.kind in _LINEAR and node.activation is None


def activation_of(node: Node) -> str | None:
    """Returns the activation that a node applies, alone or last."""
    return node.kind if node.kind in _ACTIVATIONS else node.activation


def before_activation(node: Node, weights: dict[str, Any], inputs: Sequence[Array]) -> Array:
    """Computes an operation without its activation."""
    return inputs[0] if node.kind in _ACTIVATIONS else operate(replace(node, activation=None), weights, inputs)


def _before_activations(graph: Graph, weights: Params, x: Array) -> dict[str, Array]:
    found = {INPUT: x}

    def step(node: Node, inputs: list[Array]) -> Array:
        out = before_activation(node, weights.get(node.name, {}), inputs)
        if not is_linear(node):
            found[node.name] = out
        return activate(out, activation_of(node))

    graph.run(step, x)
    return found
