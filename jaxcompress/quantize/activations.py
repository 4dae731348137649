"""Integer activations: one grid for every tensor that a device holds, calibrated, trained and made integers."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxcompress.arrays import CompressedArray, dense
from jaxcompress.interpreters.graph import INPUT, Graph, Node, operate
from jaxcompress.interpreters.integers import LARGEST, SMALLEST, Grid, Integers, Layer
from jaxcompress.numerics import affine
from jaxcompress.paths import Params
from jaxcompress.quantize.ranges import Calibrator, min_max

# Operations that move or choose codes; their kernels want input and output on one grid.
_KEEP_GRID = ("max_pool", "average_pool", "reshape", "transpose", "concatenate", "slice", "pad", "relu", "relu6")


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
    graph: Graph, weights: Params, batches: Iterable[Any], calibrator: Calibrator | None = None
) -> dict[str, Grid]:
    """Chooses the grid of every tensor of a graph from the values that it takes on `batches` of inputs.

    Grids are int8, asymmetric, and hold zero exactly. `calibrator` is `min_max` by default. Tensors that share a grid
    are observed together. Raises ValueError if there are no batches, and for values that are not finite.
    """
    calibrator = calibrator or min_max()
    shared = tensors(graph)
    states = {name: calibrator.init() for name in set(shared.values())}
    observe = jax.jit(lambda states, x: _observed(graph, weights, calibrator, shared, states, x))
    count = 0
    for batch in batches:
        states, count = observe(states, jnp.asarray(batch)), count + 1
    if not count:
        raise ValueError("the calibration set is empty; at least one batch is needed")
    grids = {name: _grid(name, *calibrator.limits(state)) for name, state in states.items()}
    return {name: grids[first] for name, first in shared.items()}


def _observed(
    graph: Graph, weights: Params, calibrator: Calibrator, shared: dict[str, str], states: dict[str, Any], x: Array
) -> dict[str, Any]:
    states = states | {shared[INPUT]: calibrator.update(states[shared[INPUT]], x)}

    def step(node: Node, inputs: list[Array]) -> Array:
        out = operate(node, weights.get(node.name, {}), inputs)
        first = shared[node.name]
        states[first] = calibrator.update(states[first], out)
        return out

    graph.run(step, x)
    return states


def _grid(name: str, low: Array, high: Array) -> Grid:
    scale, zero_point = affine.affine_range(low, high, 8, symmetric=False)
    if not np.isfinite(scale):
        raise ValueError(f"the range of {name} is [{float(low)}, {float(high)}], which is not finite")
    return Grid(np.float32(scale), int(zero_point))


def fake_quantized(graph: Graph, weights: Params, grids: Mapping[str, Grid]) -> Callable[[Array], Array]:
    """Returns ``run(x)``, the graph in floats with every tensor rounded to its grid, for training.

    Biases are rounded to the integers of the accumulator where the kernel is made of integers. Kernels are as their
    leaves mean them; round them by `jaxcompress.quantize.weights`. Gradients pass straight through inside a grid's
    range and are zero outside of it. The values differ from the device's by a unit now and then, since kernels rescale
    sums with roundings of their own: `jaxcompress.integers` gives those exactly.
    """
    _check(graph, grids)
    return lambda x: fake_quantized_values(graph, weights, grids, x)[graph.output]


def fake_quantized_values(graph: Graph, weights: Params, grids: Mapping[str, Grid], x: Array) -> dict[str, Array]:
    """Returns every tensor of the graph by name as `fake_quantized` computes it."""

    def step(node: Node, inputs: list[Array]) -> Array:
        layer = dict(weights.get(node.name, {}))
        if layer and _rounded(layer["kernel"]) is not None:
            scale = grids[node.inputs[0]].scale * _integers(node.name, layer["kernel"])[1]
            layer["bias"] = affine.straight_through(layer["bias"], jnp.round(layer["bias"] / scale) * scale)
        out = operate(node, layer, inputs)
        return out if node.kind in _KEEP_GRID and node.kind != "average_pool" else on_grid(out, grids[node.name])

    return graph.values(step, on_grid(x, grids[INPUT]))


def on_grid(values: Array, grid: Grid) -> Array:
    """Rounds values to a grid; gradients pass straight through inside its range."""
    low, high = (np.float32(code - grid.zero_point) * grid.scale for code in (SMALLEST, LARGEST))
    inside = jnp.clip(values, low, high)
    codes = jnp.clip(jnp.round(values / grid.scale) + grid.zero_point, SMALLEST, LARGEST)
    return affine.straight_through(inside, lax.stop_gradient((codes - grid.zero_point) * grid.scale))


def to_integers(graph: Graph, weights: Params, grids: Mapping[str, Grid]) -> Integers:
    """Turns a graph with rounded weights into the integers that a device computes with.

    The codes and scales of the kernels are those of their leaves, symmetric with a scale per tensor or per output;
    biases become int32 of the accumulator's scale. A kernel whose codes fit in int4 is stored so, unless it is grouped.
    Raises ValueError for a kernel that is not rounded, for a tensor without a grid, and for a bias beyond int32.
    """
    _check(graph, grids)
    layers = {node.name: _layer(node, weights[node.name], grids) for node in graph.nodes if node.name in weights}
    return Integers(graph, dict(grids), layers)


def _layer(node: Node, weights: dict[str, Any], grids: Mapping[str, Grid]) -> Layer:
    codes, scale, zero_point = _integers(node.name, weights["kernel"])
    if np.any(np.asarray(zero_point)):
        raise ValueError(f"{node.name}/kernel has zero points; the kernels of a device are symmetric")
    unit = grids[node.inputs[0]].scale * np.asarray(scale)
    bias = np.rint(np.asarray(dense(weights["bias"]), np.float64) / unit.astype(np.float64))
    if not np.abs(bias).max(initial=0) < 2**31:  # nor NaN
        raise ValueError(f"a bias of {node.name} does not fit int32 at the scale {unit.min():g} of its accumulator")
    kernel = np.asarray(codes)
    grouped = node.window is not None and node.window.groups > 1  # the runtimes have no int4 kernels for these
    bits = 4 if not grouped and np.abs(kernel.astype(np.int32)).max(initial=0) < 8 else 8
    return Layer(kernel, np.asarray(scale), bias.astype(np.int32), bits)


def _integers(name: str, kernel: Any) -> tuple[Array, Array, Array]:
    """Returns the codes of a kernel, its scale by output, and its zero points."""
    found = _rounded(kernel)
    if found is None:
        kind = type(kernel).__name__ if isinstance(kernel, CompressedArray) else "plain array"
        raise ValueError(f"{name}/kernel is a {kind}; a device needs integers, such as quantize.weights makes")
    codes, scale, zero_point = found
    if any(n != 1 for n in scale.shape[:-1]):
        raise ValueError(f"{name}/kernel has scales of shape {scale.shape}; a device knows one, or one by output")
    return codes, jnp.broadcast_to(scale.reshape(-1), codes.shape[-1:]), zero_point


def _rounded(kernel: Any) -> tuple[Array, Array, Array] | None:
    return kernel.integers() if isinstance(kernel, CompressedArray) else None


def _check(graph: Graph, grids: Mapping[str, Grid]) -> None:
    missing = [name for name in (INPUT, *(node.name for node in graph.nodes)) if name not in grids]
    if missing:
        raise ValueError(f"the range of {', '.join(missing)} was never observed; calibrate the graph first")
