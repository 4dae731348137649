"""How the primitives that move entries, and compute nothing, move `Slices`."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend import core
from jax.extend.core import primitives as prim

from jaxcompress.arrays import CompressedArray, dense
from jaxcompress.arrays.sliced import left_of, take
from jaxcompress.interpreters.base import Reading, Rule, bind
from jaxcompress.interpreters.primitives import matched
from jaxcompress.interpreters.slices import (
    Fill,
    Slices,
    Spread,
    at_once,
    is_known,
    keep_of,
    lowered,
    made,
    narrowed,
    number,
    outside,
    united,
    whole_fill,
)


def _of_slices(rule: Rule) -> Rule:
    """Makes a rule decline where the first operand is not cut."""

    def guarded(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        return rule(reading, values, params) if isinstance(values[0], Slices) else NotImplemented

    return guarded


def moved(fill: Fill, function: Callable[[Any], Any]) -> Fill:
    """Moves the axes of a fill."""
    return fill if is_known(fill) else at_once(function, fill)


@_of_slices
def _transposed(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    (x,), order = values, params["permutation"]
    out = bind(reading, prim.transpose_p, x.value, **params)
    fill = moved(x.fill, lambda fill: lax.transpose(fill, order))
    return made(out, [x.shape[i] for i in order], [x.keep[i] for i in order], fill)


def _squeezed(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    (x,) = values
    return without_axis(x, params["dimensions"]) if isinstance(x, Slices | Spread) else NotImplemented


def without_axis(x: Any, gone: Sequence[int]) -> Any:
    """Returns a value without some of its axes of one entry."""
    if isinstance(x, Spread):
        shape = [n for axis, n in enumerate(x.shape) if axis not in gone]
        return Spread(moved(x.value, lambda value: lax.squeeze(value, gone)), shape, x.dtype)
    if not isinstance(x, Slices):
        return lax.squeeze(dense(x), gone)
    left = [axis for axis in range(x.ndim) if axis not in gone]
    fill = moved(x.fill, lambda fill: lax.squeeze(fill, gone))
    return made(lax.squeeze(dense(x.value), gone), [x.shape[i] for i in left], [x.keep[i] for i in left], fill)


def _broadcast(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    x, *later = values
    shape, placed = tuple(params["shape"]), params["broadcast_dimensions"]
    if later:
        return NotImplemented

    def along(array: Any, sizes: Sequence[int]) -> Any:
        """Gives an array axes of one entry beside its own."""
        wanted = [1] * len(shape)
        for size, axis in zip(sizes, placed, strict=True):
            wanted[axis] = size
        return lax.reshape(array, wanted)

    if (known := number(x)) is not None:
        return Spread(known, shape, x.dtype)
    if isinstance(x, Spread):
        return Spread(at_once(lambda value: along(value, x.axes), x.value), shape, x.dtype)
    if not isinstance(x, Slices):
        array = dense(x)
        return Spread(along(array, array.shape), shape, array.dtype)
    keep: list[Any] = [None] * len(shape)
    for axis, place in enumerate(placed):
        keep[place] = x.keep[axis]
    out = lax.broadcast_in_dim(dense(x.value), left_of(shape, tuple(keep)), placed)
    return made(out, shape, keep, moved(x.fill, lambda fill: along(fill, fill.shape)))


def _reshaped(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    (x,), shape = values, tuple(params["new_sizes"])
    if params.get("dimensions") is not None or 0 in shape:
        return NotImplemented
    if isinstance(x, Spread):
        value = _reshaped_fill(x.value, x.shape, shape)
        return NotImplemented if value is None else Spread(value, shape, x.dtype)
    if not isinstance(x, Slices):
        return NotImplemented
    keep = _kept_after(x, shape)
    fill = _reshaped_fill(x.fill, x.shape, shape)
    if keep is None or fill is None:
        return NotImplemented
    return made(lax.reshape(dense(x.value), left_of(shape, keep)), shape, keep, fill)


def _kept_after(x: Slices, shape: Sequence[int]) -> Any:
    """Returns what is left along the axes of another shape, None where it is no product of axes any more."""
    keep: list[tuple[int, ...] | None] = []
    for before, after in matched(x.shape, shape):
        left = [np.arange(x.shape[axis]) if x.keep[axis] is None else np.array(x.keep[axis]) for axis in before]
        box = np.zeros([x.shape[axis] for axis in before], bool)
        box[np.ix_(*left)] = True
        box = box.reshape([shape[axis] for axis in after])
        others = [tuple(i for i in range(box.ndim) if i != axis) for axis in range(box.ndim)]
        along = [np.flatnonzero(box.any(axes)) for axes in others]
        if box.sum() != math.prod(map(len, along)):
            return None
        keep += [None if len(e) == box.shape[axis] else tuple(e.tolist()) for axis, e in enumerate(along)]
    return tuple(keep)


def _reshaped_fill(fill: Fill, before: Sequence[int], after: Sequence[int]) -> Fill | None:
    """Reshapes a fill whose axes are whole or of one entry; None where they are mixed among axes that are joined."""
    if is_known(fill):
        return fill
    sizes: list[int] = [1] * len(after)
    for old, new in matched(before, after):
        whole = [fill.shape[axis] == before[axis] for axis in old if before[axis] > 1]
        if any(whole) and not all(whole):
            return None
        if any(whole):
            for axis in new:
                sizes[axis] = after[axis]
    return at_once(lambda fill: lax.reshape(fill, sizes), fill)


def concatenated(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    """Joins values along an axis; it may be cut, the others are cut as any of the values is."""
    if not any(isinstance(value, Slices) for value in values):
        return NotImplemented
    joined, shape = params["dimension"], list(values[0].shape)
    shape[joined] = sum(value.shape[joined] for value in values)
    others = list(united([_without(value, joined) for value in values], shape))
    offset, along, parts, fills, seen = 0, [], [], [], []
    for value in values:
        keep = list(others)
        keep[joined] = own = keep_of(value)[joined]
        places = [axis for axis, entries in enumerate(keep) if entries is not None]
        fills.append(outside(value, places, value.shape) if places else 0.0)  # of what is whole none is seen
        along += [offset + entry for entry in (range(value.shape[joined]) if own is None else own)]
        offset += value.shape[joined]
        parts.append(dense(narrowed(value, tuple(keep), value.shape)))
        seen.append(bool(places))
    if any(fill is None for fill in fills):
        return NotImplemented
    others[joined] = tuple(along) if len(along) < shape[joined] else None
    numbers = {fill if is_known(fill) else None for fill, cut in zip(fills, seen, strict=True) if cut}
    fill = numbers.pop() if len(numbers) == 1 and None not in numbers else _joined_fills(fills, values, joined)
    return made(lax.concatenate(parts, joined), shape, others, fill)


def _joined_fills(fills: Sequence[Fill], values: Sequence[Any], joined: int) -> Array:
    """Returns the fill of what is joined along an axis, whole along that."""
    dtype = values[0].dtype

    def join(*fills: Any) -> Array:
        arrays = [jnp.asarray(fill, dtype) for fill in fills]
        arrays = [array if array.ndim else array.reshape([1] * values[0].ndim) for array in arrays]
        sizes = np.broadcast_shapes(*(np.delete(array.shape, joined).tolist() for array in arrays))
        counts = [value.shape[joined] for value in values]
        wholes = [
            jnp.broadcast_to(array, (*sizes[:joined], count, *sizes[joined:]))
            for array, count in zip(arrays, counts, strict=True)
        ]
        return lax.concatenate(wholes, joined)

    return at_once(join, *fills)


def _without(value: Any, axis: int) -> Any:
    """Returns a value without its cut along an axis, to compare the others."""
    if not isinstance(value, Slices):
        return value
    return Slices(
        value.value, value.shape, tuple(None if i == axis else e for i, e in enumerate(value.keep)), value.fill
    )


@_of_slices
def _windowed(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    (x,) = values
    strides = params["strides"] or (1,) * x.ndim
    return window(x, list(zip(params["start_indices"], params["limit_indices"], strides, strict=True)))


def window(x: Slices, cuts: Sequence[tuple[int, int, int]]) -> Any:
    """Returns the entries of a value from a start to a limit at a stride, by axis."""
    out, fill, shape, keep = dense(x.value), x.fill, [], []
    for axis, where in enumerate(cuts):
        entries, kept = range(*where), x.keep[axis]
        shape.append(len(entries))
        if not is_known(fill) and fill.shape[axis] > 1:
            fill = at_once(lambda fill, where=where, axis=axis: lax.slice_in_dim(fill, *where, axis=axis), fill)
        if kept is None:
            out = lax.slice_in_dim(out, *where, axis)
            keep.append(None)
            continue
        chosen = [(place, entries.index(entry)) for place, entry in enumerate(kept) if entry in entries]
        keep.append([entry for _, entry in chosen])
        if chosen and len(chosen) < len(kept):
            out = take(out, [place for place, _ in chosen], axis)
    if any(entries == [] for entries in keep):
        return Spread(fill, shape, x.dtype)
    return made(out, shape, keep, fill)


def _padded(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    x, edge = values
    edges, known = params["padding_config"], number(edge)
    if known is None:
        return NotImplemented
    if not isinstance(x, Slices):
        return _appended(x, edges, known)
    if any(inside or low < 0 or high < 0 for axis in x.cut for low, high, inside in [edges[axis]]):
        return NotImplemented
    around = [(0, 0, 0) if axis in x.cut else e for axis, e in enumerate(edges)]
    value = dense(x.value)
    out = value if not any(map(any, around)) else lax.pad(value, jnp.asarray(known, x.dtype), around)
    beside = any(any(edges[axis]) for axis in x.cut)
    fill = x.fill
    if not (is_known(fill) and fill == known):
        if beside:
            return NotImplemented
        fill = lax.pad(whole_fill(x, range(x.ndim)), jnp.asarray(known, x.dtype), around)
    shape, keep = list(out.shape), list(x.keep)
    for axis in x.cut:  # what is appended is what is missing already
        low, high, _ = edges[axis]
        shape[axis] = low + x.shape[axis] + high
        keep[axis] = tuple(low + entry for entry in x.keep[axis] or ())
    return made(out, shape, keep, fill)


def _appended(x: Any, edges: Sequence[tuple[int, int, int]], known: float) -> Any:
    """Appends one number along one axis, as channels of zeros to a shortcut, without computing it."""
    padded = [axis for axis, edge in enumerate(edges) if any(edge)]
    if len(padded) != 1 or min(edges[padded[0]]) < 0 or edges[padded[0]][2]:
        return NotImplemented
    (axis,), array = padded, lowered(x)
    low, high, _ = edges[axis]
    shape, keep = list(array.shape), [None] * array.ndim
    shape[axis], keep[axis] = low + array.shape[axis] + high, range(low, low + array.shape[axis])
    return made(array, shape, keep, known)


def _gathered(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    """Takes entries along axes that are whole, as the rows of an embedding whose columns are cut."""
    x, indices = values
    numbers, taken = params["dimension_numbers"], params["slice_sizes"]
    if not isinstance(x, Slices) or isinstance(indices, Slices | CompressedArray) or not is_known(x.fill):
        return NotImplemented
    if any(taken[axis] != x.shape[axis] or axis in numbers.start_index_map for axis in x.cut):
        return NotImplemented
    indices = indices.dense() if isinstance(indices, Spread) else indices
    out = prim.gather_p.bind(dense(x.value), indices, **(params | {"slice_sizes": left_of(taken, x.keep)}))
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    shape, keep = list(out.shape), [None] * out.ndim
    for place, axis in zip(numbers.offset_dims, [a for a in range(x.ndim) if a not in gone], strict=True):
        shape[place], keep[place] = taken[axis], x.keep[axis]
    return made(out, shape, keep, x.fill)


MOVES: dict[core.Primitive, Rule] = {
    prim.transpose_p: _transposed,
    prim.squeeze_p: _squeezed,
    prim.broadcast_in_dim_p: _broadcast,
    prim.reshape_p: _reshaped,
    prim.concatenate_p: concatenated,
    prim.slice_p: _windowed,
    prim.pad_p: _padded,
    prim.gather_p: _gathered,
}
