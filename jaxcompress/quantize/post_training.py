"""Rounding the kernels of a trained graph, layer by layer, from a few batches and without training it again."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import Quantized, dense
from jaxcompress.interpreters.graph import Graph, Node, operate, window_of
from jaxcompress.interpreters.integers import Grid
from jaxcompress.interpreters.patches import columns
from jaxcompress.numerics import affine
from jaxcompress.numerics.adaround import adaround
from jaxcompress.numerics.gptq import gptq
from jaxcompress.paths import Params
from jaxcompress.quantize.activations import fake_quantized_values
from jaxcompress.quantize.weights import Granularity

Rounding = Literal["nearest", "gptq", "adaround"]


def post_training(
    graph: Graph,
    weights: Params,
    grids: Mapping[str, Grid],
    batches: Sequence[Array],
    *,
    bits: int = 8,
    granularity: Granularity = "channel",
    rounding: Rounding = "nearest",
    steps: int = 2000,
    key: Array | None = None,
) -> Params:
    """Rounds every kernel of a graph to symmetric `bits`-bit integers and returns the weights, kernels `Quantized`.

    Scales, one per array (``tensor``) or per output (``channel``), are those of the smallest squared error of the
    weights. `rounding` is to ``nearest``; by ``gptq`` (Frantar et al. 2022, arXiv:2210.17323), which keeps a layer's
    outputs on `batches`; or by ``adaround`` (Nagel et al. 2020, arXiv:2004.10568), which learns it in `steps` steps and
    needs a `key`. Both treat the layers in the order of the graph, each on what the rounded layers before it, with
    activations on their `grids`, give it; GPTQ of a convolution sums over the patches that it meets. A weight of zero
    stays zero.

    Raises ValueError for bits outside 2..8, an unknown granularity or rounding, kernels or inputs that are not finite,
    no batches, and a missing key.
    """
    if not (isinstance(bits, int) and 2 <= bits <= 8):
        raise ValueError(f"bits {bits!r} is not an integer from 2 to 8")
    if granularity not in get_args(Granularity) or rounding not in get_args(Rounding):
        allowed = (*get_args(Granularity), *get_args(Rounding))
        raise ValueError(f"granularity {granularity!r} or rounding {rounding!r} is not one of {', '.join(allowed)}")
    if rounding != "nearest" and not len(batches):
        raise ValueError(f"rounding by {rounding} needs at least one batch of inputs")
    if rounding == "adaround" and key is None:
        raise ValueError("rounding by adaround needs a key")
    rounded = dict(weights)
    for index, node in enumerate(node for node in graph.nodes if node.name in weights):
        layer = {name: dense(leaf) for name, leaf in weights[node.name].items()}
        if not bool(jnp.all(jnp.isfinite(layer["kernel"]))):
            raise ValueError(f"{node.name}/kernel holds NaN or infinity; only finite weights can be rounded")
        scale = _scale(layer["kernel"], bits, granularity)
        zero = jnp.zeros_like(scale)
        if rounding == "gptq":
            codes = _gptq(graph, rounded, grids, batches, node, layer["kernel"], scale, bits)
        elif rounding == "adaround":
            assert key is not None
            inputs = jnp.concatenate([_given(graph, rounded, grids, node.name)(x) for x in batches])
            targets = jnp.concatenate([_made(graph, weights, node.name)(x) for x in batches])
            apply = partial(_layer, node, layer["bias"])
            options = {"key": jax.random.fold_in(key, index), "steps": steps}
            codes = adaround(layer["kernel"], apply, inputs, targets, scale, zero, bits, True, **options)
        else:
            codes = affine.quantize(layer["kernel"], scale, zero, bits, symmetric=True)
        codes = jnp.where(layer["kernel"] == 0, jnp.int8(0), codes)  # what is pruned stays so
        kernel = Quantized(codes, scale, zero.astype(jnp.int8), bits)
        rounded[node.name] = {"kernel": kernel, "bias": layer["bias"]}
    return rounded


def _scale(kernel: Array, bits: int, granularity: Granularity) -> Array:
    """Searches the clipping that gives the smallest squared error, between half of the largest weight and all of it."""
    axes = tuple(range(kernel.ndim if granularity == "tensor" else kernel.ndim - 1))
    largest, _ = affine.weight_range(kernel, bits, axes, symmetric=True)

    def error(fraction: Array) -> Array:
        scale = fraction * largest
        codes = affine.quantize(kernel, scale, jnp.zeros_like(scale), bits, symmetric=True)
        return jnp.sum((affine.dequantize(codes, scale, jnp.zeros_like(scale)) - kernel) ** 2, axes, keepdims=True)

    fractions = jnp.linspace(0.5, 1.0, 51)
    return fractions[jnp.argmin(jax.lax.map(error, fractions), axis=0)] * largest


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
        rows = x.reshape(1, -1, x.shape[-1])
    else:
        window = window_of(node)
        found = columns(x, kernel.shape[:2], window.strides, window.padding, window.dilation)
        by_group = found.reshape(-1, kernel.shape[0] * kernel.shape[1], window.groups, kernel.shape[2])
        rows = by_group.transpose(2, 0, 1, 3).reshape(window.groups, by_group.shape[0], -1)
    return jnp.einsum("gni,gnj->gij", rows, rows, precision=jax.lax.Precision.HIGHEST)


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
