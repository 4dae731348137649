"""The rows that a kernel multiplies: inputs of a product, patches of a convolution."""

from collections.abc import Sequence

from jax import Array, lax
from jax.extend.core import primitives as prim

from jaxcompress.interpreters.patches import columns
from jaxcompress.interpreters.uses import Use


def rows(use: Use) -> Array | None:
    """Returns what multiplies a weight, (groups, number, entries), or None if it does not stand as a kernel.

    A kernel is (…, inputs, outputs), its first axes those of the window or all summed over, its outputs in order of
    the groups. The entries of a row stand in the order of one group's kernel, flattened but for the outputs.
    """
    shape, params = use.weight.shape, use.params
    if use.primitive is prim.dot_general_p:
        (contracted, axes), batched = params["dimension_numbers"]
        if tuple(map(tuple, batched)) != ((), ()) or tuple(axes) != tuple(range(len(axes))) or not axes:
            return None
        first = [axis for axis in range(use.input.ndim) if axis not in contracted]
        entries = 1
        for axis in axes:
            entries *= shape[axis]
        return lax.transpose(use.input, (*first, *contracted)).reshape(1, -1, entries)
    numbers, spatial = params["dimension_numbers"], len(shape) - 2
    stands = numbers.rhs_spec == (spatial + 1, spatial, *range(spatial))
    if not stands or params["batch_group_count"] != 1 or params["lhs_dilation"] != (1,) * spatial:
        return None
    batch, channel, *places = numbers.lhs_spec
    x = lax.transpose(use.input, (batch, *places, channel))
    options = (params["window_strides"], params["padding"], params["rhs_dilation"])
    return patch_rows(x, shape, *options, groups=params["feature_group_count"])


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
