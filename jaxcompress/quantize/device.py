"""From a graph with rounded weights and grids to the integers of a device, after training and in it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from jaxcompress.arrays import dense
from jaxcompress.interpreters.graph import INPUT, Graph, Node
from jaxcompress.interpreters.integers import Arithmetic, Grid, Integers, Layer, decode, encode, integers
from jaxcompress.numerics import affine
from jaxcompress.paths import Params
from jaxcompress.quantize.accumulators import largest_sum
from jaxcompress.quantize.activations import check_observed, fake_quantized, kernel_integers


def on_device(
    graph: Graph, weights: Params, grids: Mapping[str, Grid], arithmetic: Arithmetic = "xnnpack"
) -> Callable[[Array], Array]:
    """Returns ``run(x)``, the reals that a device computes from `x`, with the gradients of `fake_quantized`.

    Training against it is training against the device: forwards every rounding is that of the kernels, bit for bit as
    `jaxcompress.integers` has them; backwards they pass straight through (Bengio et al. 2013, arXiv:1308.3432). The
    weights may be traced; their leaves must be of bits and scales that `to_integers` takes, and grids of 8 bits. Scales
    are widened for biases as there. Raises as that does, as far as can be told while tracing: of a bias that is not
    finite or far beyond its output's grid, and of zero points, nothing can.
    """
    fake = fake_quantized(graph, weights, grids)
    if grids[INPUT].bits != 8:
        raise ValueError(f"activations of {grids[INPUT].bits} bits; training on a device is for 8 bits")
    model = to_integers(graph, jax.tree.map(lax.stop_gradient, weights), grids)
    device = integers(model, arithmetic)

    def run(x: Array) -> Array:
        codes = device(encode(lax.stop_gradient(x), grids[INPUT], arithmetic))
        return affine.straight_through(fake(x), decode(codes, grids[graph.output]))

    return run


def to_integers(graph: Graph, weights: Params, grids: Mapping[str, Grid]) -> Integers:
    """Turns a graph with rounded weights into the integers that a device computes with.

    The codes and scales of the kernels are those of their leaves, symmetric with a scale per tensor or per output;
    biases become integers of the accumulator's scale, int32 or, with activations of 16 bits, int64. Where a layer's
    sums would not fit, as those of a channel whose weights are tiny beside its bias, the scale of that output, or the
    one of the kernel, is widened until they do, and the codes are rounded to it (`quantize.accumulators`). A kernel
    whose codes fit in int4 is stored so, unless it is grouped or meets activations of 16 bits.

    Raises ValueError for a kernel that is not rounded, for a tensor without a grid or with one of fewer than 8 bits,
    which no device has, for grids that mix 8 and 16, and for a bias that is not finite or 2**39 steps of its output's
    grid (2**61 with 16 bits), which no kernel rescales.
    """
    check_observed(graph, grids)
    kinds = {grids[name].bits for name in (INPUT, *(node.name for node in graph.nodes))}
    if kinds not in ({8}, {16}):
        raise ValueError(f"activations of {sorted(kinds)} bits; a device holds all of them in 8 bits, or in 16")
    layers = {node.name: _layer(node, weights[node.name], grids) for node in graph.nodes if node.name in weights}
    return Integers(graph, dict(grids), layers)


def _layer(node: Node, weights: dict[str, Any], grids: Mapping[str, Grid]) -> Layer:
    given, bias = grids[node.inputs[0]], dense(weights["bias"])
    codes, scale, zero_point, widened = kernel_integers(node.name, weights, given)
    grouped = node.window is not None and node.window.groups > 1  # the runtimes have no int4 kernels for these
    packs = given.bits == 8 and not grouped
    if any(isinstance(part, Tracer) for part in (codes, scale, bias)):
        return _traced_layer(codes, scale, bias, given, packs)
    if np.any(np.asarray(zero_point)):
        raise ValueError(f"{node.name}/kernel has zero points; the kernels of a device are symmetric")
    unit = given.scale * np.asarray(scale)
    whole = np.rint(np.asarray(bias, np.float64) / unit.astype(np.float64))
    kind, most = (np.int32, 2**8) if given.bits == 8 else (np.int64, 2**14)
    beyond = np.asarray(widened) & (unit >= most * np.float64(grids[node.name].scale))
    if not np.abs(whole).max(initial=0) < largest_sum(given) or beyond.any():  # nor NaN
        of = int(np.argmax(beyond | ~(np.abs(whole) < largest_sum(given))))
        raise ValueError(
            f"a bias of {node.name} does not fit {kind.__name__}: {float(bias[of]):g}, of output {of}, is not finite "
            f"or too many steps of {grids[node.name].scale:g} beyond the grid of its output"
        )
    kernel = np.asarray(codes)
    bits = 4 if packs and np.abs(kernel.astype(np.int32)).max(initial=0) < 8 else 8
    return Layer(kernel, np.asarray(scale), whole.astype(kind), bits)


def _traced_layer(codes: Array, scale: Array, bias: Array, given: Grid, packs: bool) -> Layer:
    """Does what `_layer` does inside a compiled program, where values cannot be looked at."""
    with jax.enable_x64(True):
        unit = (given.scale * scale).astype(jnp.float64)
        whole = jnp.round(bias.astype(jnp.float64) / unit).astype(jnp.int32)
    fits = jnp.max(jnp.abs(codes.astype(jnp.int32))) < 8
    return Layer(codes, scale, whole, jnp.where(fits, 4, 8) if packs else 8)
