"""Bias correction: rounding kernels shifts the mean of a layer's outputs, and the bias takes the shift back.

Nagel et al. 2019 (arXiv:1906.04721), section 4.2.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import dense
from jaxcompress.interpreters.graph import INPUT, Graph, Node, operate
from jaxcompress.interpreters.integers import Grid
from jaxcompress.paths import Params
from jaxcompress.quantize.activations import check_observed, fake_quantized_values
from jaxcompress.quantize.moments import (
    Moments,
    before_activation,
    by_channel,
    is_linear,
    mean_after,
    moments,
    pooled,
)


def correct_bias(
    graph: Graph, weights: Params, rounded: Params, grids: Mapping[str, Grid], batches: Sequence[Array]
) -> Params:
    """Corrects the biases of rounded weights by the shift of every layer's mean, measured on `batches`.

    ``bias -= E[y'] - E[y]`` by channel, with y before the activation as the float `weights` give it, and y' as the
    `rounded` ones do with activations on their `grids` and all layers before corrected already (section 4.2 and
    appendix D). Returns `rounded` with other biases. A departure: as activations are rounded too, their part of the
    shift is taken back as well.

    Runs the batches once for each layer. Raises ValueError if there are no batches, for a layer or tensor without
    rounded weights or a grid, and for values that are not finite.
    """
    check_observed(graph, grids)
    layers = _layers(graph, weights, rounded)
    wanted = moments(graph, weights, batches)
    measure = jax.jit(lambda rounded, x: by_channel(_sums(graph, rounded, grids, layers, x)))
    corrected = dict(rounded)
    for node in layers:
        found = pooled([(len(x), measure(corrected, jnp.asarray(x))) for x in batches])
        shift = found[node.name].mean - wanted[node.name].mean
        corrected[node.name] = _shifted(corrected[node.name], shift)
    return corrected


def correct_bias_by_moments(graph: Graph, weights: Params, rounded: Params, moments: Mapping[str, Moments]) -> Params:
    """Corrects the biases of rounded weights by the shift that normal activations would give, without any inputs.

    The shift of a layer is ``(w' - w) E[x]`` (eqs. 16 to 18), where what the layers before give is taken as normal
    before its activation, with `moments`, and E[x] is the mean of the clipped normal behind it (eq. 19, appendix C).
    Means of sums, of poolings by average and of what only moves values follow from those. Where batch normalization
    was folded into a layer its moments are the shift and the scale; `quantize.moments` measures all that are needed.

    Departures: the shift is averaged over the image with the zeros of padding counted, which appendix B leaves out; a
    difference of the biases themselves is taken back too. Rounded activations are not accounted for.

    Raises ValueError for a layer without rounded weights, and where moments are missing: those of the input, of layers,
    and of what chooses among values or has an activation of its own.
    """
    layers = _layers(graph, weights, rounded)
    shifts = jax.jit(lambda *trees: _shifts(graph, *trees))(weights, rounded, dict(moments))
    return rounded | {node.name: _shifted(rounded[node.name], shifts[node.name]) for node in layers}


def _shifts(graph: Graph, weights: Params, rounded: Params, moments: Mapping[str, Moments]) -> dict[str, Array]:
    """Runs the graph on means, for a batch of one, and returns the shift of every layer."""
    shifts = {}

    def after(mean: Array, shape: tuple[int, ...]) -> Array:
        return jnp.broadcast_to(mean.reshape((1,) * (len(shape) - 1) + (-1,)), shape)

    def step(node: Node, means: list[Array | None]) -> Array | None:
        known = [mean for mean in means if mean is not None]
        if (node.name in weights or (is_linear(node) and node.name not in moments)) and len(known) < len(means):
            unknown = [name for name, mean in zip(node.inputs, means, strict=True) if mean is None]
            raise ValueError(f"the mean of {', '.join(unknown)}, which {node.name} is given, needs moments of its own")
        if node.name in weights:
            given, made = weights[node.name], rounded[node.name]
            shift = before_activation(node, {name: dense(made[name]) - dense(given[name]) for name in given}, known)
            shifts[node.name] = jnp.mean(shift, axis=tuple(range(shift.ndim - 1)))
        if node.name in moments:
            return after(mean_after(node, moments[node.name]), node.shape)
        return operate(node, {}, known) if is_linear(node) else None

    graph.run(step, after(moments[INPUT].mean, graph.input_shape) if INPUT in moments else None)
    return shifts


def _layers(graph: Graph, weights: Params, rounded: Params) -> list[Node]:
    layers = [node for node in graph.nodes if node.name in weights]
    missing = [node.name for node in layers if node.name not in rounded]
    if missing:
        raise ValueError(f"there are no rounded weights of {', '.join(missing)}")
    return layers


def _sums(
    graph: Graph, rounded: Params, grids: Mapping[str, Grid], layers: Sequence[Node], x: Array
) -> dict[str, Array]:
    values = fake_quantized_values(graph, rounded, grids, x)
    return {n.name: before_activation(n, rounded[n.name], [values[name] for name in n.inputs]) for n in layers}


def _shifted(layer: dict[str, Array], shift: Array) -> dict[str, Array]:
    bias = dense(layer["bias"])
    return layer | {"bias": bias - shift.astype(bias.dtype)}
