"""Rounding the kernels of a trained graph, layer by layer, from a few batches and without training it again."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import dense
from jaxcompress.interpreters.graph import Graph, Node, operate, window_of
from jaxcompress.interpreters.integers import Grid
from jaxcompress.interpreters.rows import patch_rows
from jaxcompress.numerics import affine
from jaxcompress.numerics.adaround import adaround
from jaxcompress.numerics.gptq import gptq
from jaxcompress.numerics.second_moment import second_moment
from jaxcompress.paths import Params
from jaxcompress.quantize.activations import fake_quantized_values
from jaxcompress.quantize.kernels import (
    bits_by_layer,
    check_granularity,
    finite_kernel,
    fitting_scale,
    integer_leaf,
    layers,
)
from jaxcompress.quantize.weights import Granularity

Rounding = Literal["nearest", "gptq", "adaround"]


def post_training(
    graph: Graph,
    weights: Params,
    grids: Mapping[str, Grid],
    batches: Sequence[Array],
    *,
    bits: int | Mapping[str, int] = 8,
    granularity: Granularity = "channel",
    rounding: Rounding = "nearest",
    steps: int = 2000,
    key: Array | None = None,
) -> Params:
    """Rounds every kernel of a graph to symmetric `bits`-bit integers and returns the weights, kernels `Quantized`.

    `bits`, from 2 to 8, are those of all layers or map the name of each to its own, as `jaxcompress.budget` finds them.
    Scales, one per array (``tensor``) or per output (``channel``), are those of the smallest squared error of the
    weights, widened where a bias beside tiny weights would not fit the accumulator of a device. `rounding` is to
    ``nearest``; by ``gptq`` (Frantar et al. 2022, arXiv:2210.17323), which keeps a layer's outputs on `batches`; or by
    ``adaround`` (Nagel et al. 2020, arXiv:2004.10568), which learns it in `steps` steps and needs a `key`. Both treat
    the layers in the order of the graph, each on what the rounded layers before it, with activations on their `grids`,
    give it; GPTQ of a convolution sums over the patches that it meets. A weight of zero stays zero. To round the layers
    of a residual block together, see `reconstruct`.

    Raises ValueError for bits outside 2..8, a layer without bits and bits without a layer, an unknown granularity or
    rounding, kernels or inputs that are not finite, no batches, and a missing key.
    """
    by_layer = bits_by_layer(layers(graph, weights), bits)
    check_granularity(granularity)
    if rounding not in get_args(Rounding):
        raise ValueError(f"rounding {rounding!r} is not one of {', '.join(get_args(Rounding))}")
    if rounding != "nearest" and not len(batches):
        raise ValueError(f"rounding by {rounding} needs at least one batch of inputs")
    if rounding == "adaround" and key is None:
        raise ValueError("rounding by adaround needs a key")
    rounded = dict(weights)
    for index, node in enumerate(node for node in graph.nodes if node.name in weights):
        kernel, bias = finite_kernel(weights, node.name), dense(weights[node.name]["bias"])
        number = by_layer[node.name]
        scale = fitting_scale(kernel, bias, grids[node.inputs[0]], number, granularity)
        zero = jnp.zeros_like(scale)
        if rounding == "gptq":
            codes = _gptq(graph, rounded, grids, batches, node, kernel, scale, number)
        elif rounding == "adaround":
            assert key is not None
            inputs = jnp.concatenate([_given(graph, rounded, grids, node.name)(x) for x in batches])
            targets = jnp.concatenate([_made(graph, weights, node.name)(x) for x in batches])
            options = {"key": jax.random.fold_in(key, index), "steps": steps}
            codes = adaround(kernel, partial(_layer, node, bias), inputs, targets, scale, zero, number, True, **options)
        else:
            codes = affine.quantize(kernel, scale, zero, number, symmetric=True)
        rounded[node.name] = {"kernel": integer_leaf(kernel, codes, scale, number), "bias": bias}
    return rounded


def _gptq(
    graph: Graph,
    weights: Params,
    grids: Mapping[str, Grid],
    batches: Sequence[Array],
    node: Node,
    kernel: Array,
    scale: Array,
    bits: int,
) -> Array:
    """Rounds a kernel, group by group of a grouped convolution, by the second moment of what it is multiplied with."""
    groups = 1 if node.window is None else node.window.groups
    given = _given(graph, weights, grids, node.name)
    moment = jax.jit(lambda x: _moment(node, kernel, given(x)))
    total = sum(moment(x) for x in batches)
    if not bool(jnp.all(jnp.isfinite(total))):
        raise ValueError(f"the inputs of {node.name} are not finite on the batches given")
    # (..., inputs, outputs) -> (groups, rows, outputs of the group)
    split = kernel.reshape(-1, groups, kernel.shape[-1] // groups).transpose(1, 0, 2)
    by_group = jnp.broadcast_to(scale.reshape(-1), kernel.shape[-1:]).reshape(groups, -1)
    rounds = jax.vmap(lambda w, m, s: gptq(w, m, s, jnp.zeros_like(s), bits, True))
    return rounds(split, total, by_group).transpose(1, 0, 2).reshape(kernel.shape)


def _moment(node: Node, kernel: Array, x: Array) -> Array:
    """Sums ``outer(row, row)`` over all rows that multiply the kernel; (groups, rows, rows)."""
    if node.window is None:
        return second_moment(x.reshape(1, -1, x.shape[-1]))
    window = window_of(node)
    options = (window.strides, window.padding, window.dilation, window.groups)
    return second_moment(patch_rows(x, kernel.shape, *options))


def _layer(node: Node, bias: Array, kernel: Array, inputs: Array) -> Array:
    return operate(node, {"kernel": kernel, "bias": bias}, [inputs])


def _given(graph: Graph, weights: Params, grids: Mapping[str, Grid], name: str) -> Any:
    """Returns a function to the input of a layer, with activations on their grids."""
    source = graph.node(name).inputs[0]
    return jax.jit(lambda x: fake_quantized_values(graph, weights, grids, x)[source])


def _made(graph: Graph, weights: Params, name: str) -> Any:
    """Returns a function to the output of a layer, in floats."""
    return jax.jit(
        lambda x: graph.values(lambda node, inputs: operate(node, weights.get(node.name, {}), inputs), x)[name]
    )
