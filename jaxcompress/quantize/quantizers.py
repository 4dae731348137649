"""Activations whose range is trained with the network: LSQ, LSQ+, PACT and DoReFa-Net.

A grid (`quantize.calibrate`) is chosen once and frozen. A quantizer has parameters, a few numbers a tensor, that stand
in a tree beside the weights and that the optimiser moves with them::

    quantizer = quantizers.lsq(bits=4)
    ranges = train_ranges(graph, weights, images, quantizer, "conv.*")
    logits = with_ranges(graph, weights, ranges, quantizer)(images)  # differentiable in weights and ranges

With 8 bits the trained ranges are grids of a device: `grids_of` returns them.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxcompress.interpreters.graph import INPUT, Graph, Node, operate
from jaxcompress.interpreters.integers import Grid
from jaxcompress.numerics import learned
from jaxcompress.paths import Params, select
from jaxcompress.quantize.activations import tensors

Range = dict[str, Array]  # the parameters of one tensor's quantizer


class Quantizer(NamedTuple):
    """Rounds activations with parameters that are trained.

    ``init(values) -> range`` looks at values that a tensor takes. ``apply(range, values) -> values`` rounds them, the
    batch first, with the gradients of its paper. ``grid(range)`` is what a device needs, once training is over. A range
    holds its own ``bits``, an int32 scalar that may be traced, so that a sweep over bits is one program.
    """

    init: Callable[[Array], Range]
    apply: Callable[[Range, Array], Array]
    grid: Callable[[Range], Grid]


def lsq(bits: Array | int) -> Quantizer:
    """Trains the step of each tensor (Esser et al. 2020, arXiv:1902.08153).

    Values that were never negative get unsigned codes, all others signed ones, as in section 2.1; N of the gradient's
    scale counts features. Raises ValueError for `bits` outside 2..8.
    """
    bits = _checked(bits, "lsq", 2)

    def init(values: Array) -> Range:
        signed = jnp.any(values < 0)
        return {"step": learned.lsq_step(values, bits, signed).reshape(()), "signed": signed, "bits": bits}

    def apply(of: Range, values: Array) -> Array:
        return learned.lsq(values, of["step"], of["bits"], of["signed"], count=_features(values))

    def grid(of: Range) -> Grid:
        return Grid(_scale(of["step"]), 0 if of["signed"] else _smallest(of), int(of["bits"]))

    return Quantizer(init, apply, grid)


def lsq_plus(bits: Array | int) -> Quantizer:
    """Trains the step and the offset of each tensor (Bhalgat et al. 2020, arXiv:2004.09576).

    A device has whole zero points: `grid` moves the offset to the nearest multiple of the step. Raises ValueError for
    `bits` outside 2..8.
    """
    bits = _checked(bits, "lsq_plus", 2)

    def init(values: Array) -> Range:
        step, offset = learned.lsq_plus_range(values, bits)
        return {"step": step, "offset": offset, "bits": bits}

    def apply(of: Range, values: Array) -> Array:
        return learned.lsq_plus(values, of["step"], of["offset"], of["bits"], count=_features(values))

    def grid(of: Range) -> Grid:
        scale, smallest = _scale(of["step"]), _smallest(of)
        zero = smallest - int(np.rint(np.float64(of["offset"]) / np.float64(scale)))
        if not smallest <= zero < -smallest:
            raise ValueError(f"offset {float(of['offset']):g} leaves zero out of {-2 * smallest} steps of {scale:g}")
        return Grid(scale, zero, int(of["bits"]))

    return Quantizer(init, apply, grid)


def pact(bits: Array | int) -> Quantizer:
    """Trains the value at which each tensor is clipped (Choi et al. 2018, arXiv:1805.06085).

    It starts from the largest value seen. Weight decay of the optimiser is the paper's penalty on it. Raises
    ValueError for `bits` outside 1..8 and, where values can be looked at, for a tensor with negative ones.
    """
    bits = _checked(bits, "pact", 1)

    def init(values: Array) -> Range:
        _refuse_negative(values, "PACT")
        largest = jnp.max(values).astype(jnp.float32)
        return {"alpha": jnp.where(largest > 0, largest, 1.0), "bits": bits}

    def apply(of: Range, values: Array) -> Array:
        return learned.pact(values, of["alpha"], of["bits"])

    def grid(of: Range) -> Grid:
        levels = np.float32(2 ** int(of["bits"]) - 1)
        return Grid(_scale(np.float32(of["alpha"]) / levels), _smallest(of), int(of["bits"]))

    return Quantizer(init, apply, grid)


def dorefa(bits: Array | int) -> Quantizer:
    """Clips each tensor to [0, 1] and trains nothing (Zhou et al. 2016, arXiv:1606.06160, section 2.4).

    Raises ValueError for `bits` outside 1..8 and, where values can be looked at, for a tensor with negative ones.
    """
    bits = _checked(bits, "dorefa", 1)

    def init(values: Array) -> Range:
        _refuse_negative(values, "DoReFa-Net")
        return {"bits": bits}

    def grid(of: Range) -> Grid:
        return Grid(np.float32(1 / (2 ** int(of["bits"]) - 1)), _smallest(of), int(of["bits"]))

    return Quantizer(init, lambda of, values: learned.dorefa_activations(values, of["bits"]), grid)


def train_ranges(
    graph: Graph, weights: Params, inputs: Array, quantizer: Quantizer, pattern: str = ".*"
) -> dict[str, Range]:
    """Returns the first parameters of the quantizer of every tensor that `pattern` matches, by the tensor's name.

    They are set from the values of the float network on `inputs`, a batch. Of tensors that share a grid (the outputs of
    pools, reshapes and concatenations, see `quantize.activations.tensors`) the first names them all; ``input`` names
    the input of the network. Papers leave the input of the first layer and the output of the last in floats. Raises
    ValueError for a pattern without a match, listing the names, and as the quantizer does, naming the tensor.
    """
    shared = tensors(graph)
    roots = {name: name for name in shared if shared[name] == name}
    values = graph.values(lambda node, given: operate(node, weights.get(node.name, {}), given), inputs)
    ranges = {}
    for name in select(roots, pattern):
        members = [values[member].reshape(-1) for member, root in shared.items() if root == name]
        try:
            ranges[name] = quantizer.init(jnp.concatenate(members))
        except ValueError as error:
            raise ValueError(f"tensor {name}: {error}") from error
    return ranges


def with_ranges(
    graph: Graph, weights: Params, ranges: Mapping[str, Range], quantizer: Quantizer
) -> Callable[[Array], Array]:
    """Returns ``run(x)``, the graph with every tensor of `ranges` rounded by its quantizer, the others in floats.

    Kernels and biases are as their leaves mean them. Raises ValueError for a range of a tensor that is not there.
    """
    shared = tensors(graph)
    unknown = sorted(set(ranges) - set(shared.values()))
    if unknown:
        known = ", ".join(sorted(set(shared.values())))
        raise ValueError(f"there are no tensors {', '.join(unknown)}; there are {known}")

    def rounded(name: str, values: Array) -> Array:
        return quantizer.apply(ranges[shared[name]], values) if shared[name] in ranges else values

    def step(node: Node, inputs: list[Array]) -> Array:
        return rounded(node.name, operate(node, weights.get(node.name, {}), inputs))

    return lambda x: graph.run(step, rounded(INPUT, x))


def grids_of(graph: Graph, ranges: Mapping[str, Range], quantizer: Quantizer) -> dict[str, Grid]:
    """Returns the grids of trained ranges, of every tensor that shares one; the rest is for `calibrate`.

    Raises ValueError for a range that no grid has.
    """
    return {name: quantizer.grid(ranges[root]) for name, root in tensors(graph).items() if root in ranges}


def _features(values: Array) -> int:
    return max(1, values.size // values.shape[0])


def _scale(step: Any) -> np.float32:
    return np.float32(learned.usable_step(step))


def _smallest(of: Range) -> int:
    return -(2 ** (int(of["bits"]) - 1))


def _checked(bits: Array | int, quantizer: str, fewest: int) -> Array:
    if not isinstance(bits, jax.Array) and not (isinstance(bits, int) and fewest <= bits <= 8):
        raise ValueError(f"bits {bits!r} of {quantizer} is not an integer from {fewest} to 8")
    return jnp.asarray(bits, jnp.int32)


def _refuse_negative(values: Array, method: str) -> None:
    if not isinstance(values, Tracer) and float(jnp.min(values)) < 0:
        raise ValueError(f"{method} clips at zero, and the values go down to {float(jnp.min(values)):g}")
