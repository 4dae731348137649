"""Integer activations: one grid for every tensor that a device holds, calibrated and trained."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxcompress.arrays import CompressedArray, dense
from jaxcompress.interpreters.graph import INPUT, Graph, Node, by_channel, operate
from jaxcompress.interpreters.integers import Grid
from jaxcompress.numerics import affine, softmax
from jaxcompress.paths import Params
from jaxcompress.quantize.accumulators import fitting_codes
from jaxcompress.quantize.ranges import Calibrator, min_max

# Operations that move or choose codes; their kernels want input and output on one grid.
_KEEP_GRID = ("max_pool", "average_pool", "reshape", "transpose", "concatenate", "slice", "pad", "relu", "relu6")

# The grid that the kernels of a softmax demand of its output.
PROBABILITIES = Grid(np.float32(softmax.OUTPUT_SCALE), softmax.OUTPUT_ZERO_POINT)


def tensors(graph: Graph) -> dict[str, str]:
    """Maps every tensor of a graph to the first of those that share its grid."""
    first = {INPUT: INPUT}

    def root(name: str) -> str:
        while first[name] != name:
            name = first[name]
        return name

    for node in graph.nodes:
        first[node.name] = node.name
        if node.kind in _KEEP_GRID:
            for name in node.inputs:
                one, other = sorted([root(name), root(node.name)], key=list(first).index)
                first[other] = one
    return {name: root(name) for name in first}


def calibrate(
    graph: Graph, weights: Params, batches: Iterable[Any], calibrator: Calibrator | None = None, *, bits: int = 8
) -> dict[str, Grid]:
    """Chooses the grid of every tensor of a graph from the values that it takes on `batches` of inputs.

    Grids have `bits` bits, from 2 to 8 asymmetric, with 16 symmetric as the kernels of devices want, and hold zero
    exactly; the output of a softmax in 8 bits is on the grid of its kernels, 1/256 from 0. `calibrator` is `min_max` by
    default; one that knows bits should know the same. Tensors that share a grid are observed together. Raises
    ValueError for other bits, if there are no batches, and for values that are not finite.
    """
    if bits not in (*range(2, 9), 16):
        raise ValueError(f"activations of {bits!r} bits are not known; bits are from 2 to 8, or 16")
    calibrator = calibrator or min_max()
    shared = tensors(graph)
    states = {name: calibrator.init() for name in set(shared.values())}
    count = 0
    for batch in batches:
        states, count = _observed(graph, calibrator, weights, states, jnp.asarray(batch)), count + 1
    if not count:
        raise ValueError("the calibration set is empty; at least one batch is needed")
    grids = {name: _grid(name, *calibrator.limits(state), bits) for name, state in states.items()}
    found = {name: grids[first] for name, first in shared.items()}
    fixed = {shared[node.name] for node in graph.nodes if node.kind == "softmax" and bits == 8}
    return found | {name: PROBABILITIES for name, first in shared.items() if first in fixed}


@partial(jax.jit, static_argnames=("graph", "calibrator"))  # of the module, so that it is compiled once for a graph
def _observed(
    graph: Graph, calibrator: Calibrator, weights: Params, states: dict[str, Any], x: Array
) -> dict[str, Any]:
    shared = tensors(graph)
    states = states | {shared[INPUT]: calibrator.update(states[shared[INPUT]], x)}

    def step(node: Node, inputs: list[Array]) -> Array:
        out = operate(node, weights.get(node.name, {}), inputs)
        first = shared[node.name]
        states[first] = calibrator.update(states[first], out)
        return out

    graph.run(step, x)
    return states


def _grid(name: str, low: Array, high: Array, bits: int) -> Grid:
    scale, zero_point = affine.affine_range(low, high, bits, symmetric=bits == 16)
    if not np.isfinite(scale):
        raise ValueError(f"the range of {name} is [{float(low)}, {float(high)}], which is not finite")
    return Grid(np.float32(scale), int(zero_point), bits)


def fake_quantized(graph: Graph, weights: Params, grids: Mapping[str, Grid]) -> Callable[[Array], Array]:
    """Returns ``run(x)``, the graph in floats with every tensor rounded to its grid, for training.

    Biases are rounded to the integers of the accumulator where the kernel is made of integers. Kernels are as their
    leaves mean them; round them by `jaxcompress.quantize.weights`. Where a bias would not fit, as beside the tiny
    weights of a dead channel, the kernel's scale is widened as `to_integers` does. Gradients pass straight through
    inside a grid's range and are zero outside of it. The values differ from the device's by a unit now and then, since
    kernels rescale sums with roundings of their own: `jaxcompress.integers` gives those exactly.
    """
    check_observed(graph, grids)
    return lambda x: fake_quantized_values(graph, weights, grids, x)[graph.output]


def fake_quantized_values(graph: Graph, weights: Params, grids: Mapping[str, Grid], x: Array) -> dict[str, Array]:
    """Returns every tensor of the graph by name as `fake_quantized` computes it."""

    def step(node: Node, inputs: list[Array]) -> Array:
        layer = dict(weights.get(node.name, {}))
        if layer and integers_of(layer["kernel"]) is not None:
            layer = _on_integers(node.name, layer, grids[node.inputs[0]])
        out = operate(node, layer, inputs)
        return out if node.kind in _KEEP_GRID and node.kind != "average_pool" else on_grid(out, grids[node.name])

    return graph.values(step, on_grid(x, grids[INPUT]))


def _on_integers(name: str, layer: dict[str, Any], given: Grid) -> dict[str, Any]:
    """Returns the reals that the integers of a layer stand for: its kernel, and a bias of the accumulator's scale."""
    integers, kernel, bias = kernel_integers(name, layer, given), dense(layer["kernel"]), dense(layer["bias"])
    scale, widened = (by_channel(part, kernel.ndim) for part in (integers.scale, integers.widened))
    reals = affine.dequantize(integers.codes, scale, integers.zero_point).astype(kernel.dtype)
    unit = given.scale * integers.scale
    return {
        "kernel": jnp.where(widened, affine.straight_through(kernel, reals), kernel),
        "bias": affine.straight_through(bias, jnp.round(bias / unit) * unit),
    }


def on_grid(values: Array, grid: Grid) -> Array:
    """Rounds values to a grid; gradients pass straight through inside its range."""
    low, high = (np.float32(code - grid.zero_point) * grid.scale for code in (grid.smallest, grid.largest))
    inside = jnp.clip(values, low, high)
    codes = jnp.clip(jnp.round(values / grid.scale) + grid.zero_point, grid.smallest, grid.largest)
    return affine.straight_through(inside, lax.stop_gradient((codes - grid.zero_point) * grid.scale))


class KernelIntegers(NamedTuple):
    """Holds the codes of a kernel, its scale by output, its zero points, and which outputs have a widened scale."""

    codes: Array
    scale: Array
    zero_point: Array
    widened: Array


def kernel_integers(name: str, layer: Mapping[str, Any], given: Grid) -> KernelIntegers:
    """Returns the integers of a layer's kernel, of its leaf or, where its sums would not fit, of a wider scale.

    `given` is the grid of the layer's input. With a wider scale the codes are those of the same reals, rounded again.
    Raises ValueError, naming the layer, for a kernel that is not rounded and for scales that no device knows.
    """
    kernel = layer["kernel"]
    found = integers_of(kernel)
    if found is None:
        kind = type(kernel).__name__ if isinstance(kernel, CompressedArray) else "plain array"
        raise ValueError(f"{name}/kernel is a {kind}; a device needs integers, such as quantize.weights makes")
    codes, scale, zero_point = found
    if any(n != 1 for n in scale.shape[:-1]):
        raise ValueError(f"{name}/kernel has scales of shape {scale.shape}; a device knows one, or one by output")
    codes, fitted = fitting_codes(codes, scale, zero_point, layer["bias"], given)
    by_output = [jnp.broadcast_to(part.reshape(-1), codes.shape[-1:]) for part in (fitted, fitted > scale)]
    return KernelIntegers(codes, by_output[0], zero_point, by_output[1])


def integers_of(kernel: Any) -> tuple[Array, Array, Array] | None:
    """Returns codes, scale and zero point of a kernel that is rounded to integers, None of another."""
    return kernel.integers() if isinstance(kernel, CompressedArray) else None


def check_observed(graph: Graph, grids: Mapping[str, Grid]) -> None:
    """Raises ValueError, naming them, for tensors of a graph that have no grid."""
    missing = [name for name in (INPUT, *(node.name for node in graph.nodes)) if name not in grids]
    if missing:
        raise ValueError(f"the range of {', '.join(missing)} was never observed; calibrate the graph first")
