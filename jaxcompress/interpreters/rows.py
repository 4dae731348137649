"""The rows that a kernel multiplies: inputs of a product, patches of a convolution."""

import math
from collections.abc import Sequence

from jax import Array, lax
from jax.extend.core import primitives as prim

from jaxcompress.interpreters.patches import columns
from jaxcompress.interpreters.uses import Use
from jaxcompress.interpreters.weights import Atom


def rows(use: Use) -> Array | None:
    """Returns what multiplies a weight, (matrices, number, entries), or None if it does not stand as a kernel.

    There is a matrix for each group of a convolution, and for each entry of the batch of a product, the later axes of
    the leaf running faster. The entries of a row stand in the order of the rows of `Use.axes`: those of the leaf's
    axes of inputs in the order that they have in the leaf, behind those of a window.
    """
    if use.axes is None or use.atoms is None or any(atom.backwards for group in use.atoms for atom in group):
        return None
    if use.primitive is prim.dot_general_p:
        return _of_product(use, use.atoms)
    params, numbers, spatial = use.params, use.params["dimension_numbers"], use.weight.ndim - 2
    if params["batch_group_count"] != 1 or params["lhs_dilation"] != (1,) * spatial:
        return None
    batch, channel, *places = numbers.lhs_spec
    output, given, *window = numbers.rhs_spec
    kernel = [use.weight.shape[axis] for axis in (*window, given, output)]
    x = lax.transpose(use.input, (batch, *places, channel))
    options = (params["window_strides"], params["padding"], params["rhs_dilation"])
    found = patch_rows(x, kernel, *options, groups=params["feature_group_count"])
    inputs = use.atoms[given]
    if list(inputs) == _in_order(inputs):
        return found
    split = found.reshape(*found.shape[:2], math.prod(kernel[:-2]), *(atom.size for atom in inputs))
    return split.transpose(0, 1, 2, *(3 + inputs.index(atom) for atom in _in_order(inputs))).reshape(found.shape)


def _of_product(use: Use, atoms: Sequence[Sequence[Atom]]) -> Array:
    (summed, axes), (batched, batch_axes) = use.params["dimension_numbers"]
    free = [axis for axis in range(use.input.ndim) if axis not in (*summed, *batched)]
    layers, entries = ([atom for axis in group for atom in atoms[axis]] for group in (batch_axes, axes))
    x = lax.transpose(use.input, (*batched, *free, *summed))
    number = math.prod(use.input.shape[axis] for axis in free)
    x = x.reshape(*(atom.size for atom in layers), number, *(atom.size for atom in entries))
    first = [layers.index(atom) for atom in _in_order(layers)]
    last = [len(layers) + 1 + entries.index(atom) for atom in _in_order(entries)]
    return x.transpose(*first, len(layers), *last).reshape(math.prod(x.shape[: len(layers)]), number, -1)


def _in_order(atoms: Sequence[Atom]) -> list[Atom]:
    """Returns atoms in the order of the leaf, slowest first."""
    return sorted(atoms, key=lambda atom: (atom.axis, -atom.stride))


def patch_rows(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> Array:
    """Returns the patches of `x` (batch, *spatial, channels) that multiply a kernel of this shape, by group."""
    *window, channels, _ = kernel
    found = columns(x, window, strides, padding, dilation)
    by_group = found.reshape(-1, found.shape[-1] // (groups * channels), groups, channels)
    return by_group.transpose(2, 0, 1, 3).reshape(groups, by_group.shape[0], -1)
