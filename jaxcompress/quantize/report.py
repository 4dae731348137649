"""What rounding does to each layer of a graph: how far its weights and its outputs are from those in floats."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.arrays import FakeQuantized, Quantized, dense
from jaxcompress.interpreters.graph import INPUT, Graph, Node, operate
from jaxcompress.interpreters.integers import Grid
from jaxcompress.paths import Params
from jaxcompress.quantize.activations import check_observed, fake_quantized_values
from jaxcompress.quantize.kernels import check_layers
from jaxcompress.quantize.kernels import layers as layers_of


class Distance(NamedTuple):
    """Holds how near an array is to its original: its ratio of signal to noise in dB, and the cosine of their angle.

    ``sqnr = 10 * log10(sum(x**2) / sum((x - q)**2))``, inf where nothing differs. The cosine of an array of zeros is 1
    with another and 0 with all others.
    """

    sqnr: float
    cosine: float


class Row(NamedTuple):
    """Holds the distances of one layer: of its kernel, of its output alone, and of its output in the whole network."""

    layer: str
    bits: int | None  # None for a kernel that is not made of integers
    weight: Distance
    alone: Distance
    accumulated: Distance


class Report(NamedTuple):
    """Holds the rows of all layers, in the order in which they run; printed it is a table."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        """Prints the report as a table."""
        width = max(len("layer"), *(len(row.layer) for row in self.rows))
        lines = [
            f"{'':{width}}      {'weights':>17}{'output alone':>17}{'accumulated':>17}",
            f"{'layer':{width}}  bits" + f"{'dB':>8} {'cosine':>8}" * 3,
        ]
        for row in self.rows:
            distances = "".join(f"{d.sqnr:8.2f} {d.cosine:8.5f}" for d in (row.weight, row.alone, row.accumulated))
            lines.append(f"{row.layer:{width}}  {'-' if row.bits is None else row.bits:>4}{distances}")
        return "\n".join(lines)


def report(
    graph: Graph, weights: Params, rounded: Params, grids: Mapping[str, Grid], batches: Sequence[Array]
) -> Report:
    """Compares every layer of a graph with `rounded` weights and activations on `grids` to that with float `weights`.

    An output alone is what the rounded layer makes, on its grid, of what the float network gives it, on the grid of
    that; accumulated it is that of `fake_quantized`, with all that the layers before it have lost. Both are over all
    examples of `batches`, fused activations included.

    Raises ValueError for layers that only one of the trees has, a tensor without a grid, and no batches.
    """
    names = layers_of(graph, weights)
    check_layers("rounded weights", rounded, names)
    check_observed(graph, grids)
    if not len(batches):
        raise ValueError("there are no batches; at least one is needed")
    compare = jax.jit(lambda weights, rounded, x: _outputs(graph, weights, rounded, grids, names, x))
    found = [jax.tree.map(np.float64, compare(weights, rounded, jnp.asarray(x))) for x in batches]
    sums = jax.tree.map(lambda *values: sum(values), *found)
    rows = []
    for name in names:
        kernel, changed = (tree[name]["kernel"] for tree in (weights, rounded))
        bits = int(changed.bits) if isinstance(changed, Quantized | FakeQuantized) else None
        of_weights = _distance(_sums(dense(kernel), dense(changed)))
        rows.append(Row(name, bits, of_weights, *(_distance(of_output) for of_output in sums[name])))
    return Report(tuple(rows))


class _Sums(NamedTuple):
    """Holds all that a distance is made of, which adds up over batches. Each term is small where the distance is."""

    signal: Array | np.ndarray  # of x**2
    noise: Array | np.ndarray  # of e**2, where q = x + e
    cross: Array | np.ndarray  # of x * e


def _sums(original: Array, changed: Array) -> _Sums:
    x = original.astype(jnp.float32)
    e = changed.astype(jnp.float32) - x
    return _Sums(jnp.sum(x * x), jnp.sum(e * e), jnp.sum(x * e))


def _distance(sums: _Sums) -> Distance:
    signal, noise, cross = map(float, sums)
    sqnr = math.inf if noise == 0 else -math.inf if signal == 0 else 10 * math.log10(signal / noise)
    lengths = math.sqrt(signal * max(signal + 2 * cross + noise, 0.0))  # of x and of q
    cosine = float(signal == noise == 0) if lengths == 0 else (signal + cross) / lengths
    return Distance(sqnr, min(cosine, 1.0))


def _outputs(
    graph: Graph, weights: Params, rounded: Params, grids: Mapping[str, Grid], names: Sequence[str], x: Array
) -> dict[str, tuple[_Sums, _Sums]]:
    """Returns the sums of every layer's output, alone and accumulated, on one batch."""
    plain = graph.values(lambda node, inputs: operate(node, weights.get(node.name, {}), inputs), x)
    accumulated = fake_quantized_values(graph, rounded, grids, x)

    def alone(node: Node) -> Array:
        (source,) = node.inputs
        layer = Graph((replace(node, inputs=(INPUT,)),), plain[source].shape, node.name)
        return fake_quantized_values(layer, rounded, {**grids, INPUT: grids[source]}, plain[source])[node.name]

    return {
        name: (_sums(plain[name], alone(graph.node(name))), _sums(plain[name], accumulated[name])) for name in names
    }
