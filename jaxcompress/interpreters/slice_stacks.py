"""How values that are cut are stacked along a new axis, taken apart along one, and repeated."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax
from jax.extend import core

from jaxcompress.arrays import dense
from jaxcompress.interpreters.base import Reading, Rule
from jaxcompress.interpreters.slice_moves import concatenated, moved, window, without_axis
from jaxcompress.interpreters.slices import Slices, Spread, lowered, made


def _stacked(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    axis = params["axis"]
    return concatenated(reading, [_with_axis(value, axis) for value in values], {"dimension": axis})


def _with_axis(value: Any, axis: int) -> Any:
    """Returns a value with a new axis of one entry."""

    def new(sequence: Sequence[Any], entry: Any) -> list[Any]:
        return [*sequence[:axis], entry, *sequence[axis:]]

    expand = lambda array: lax.expand_dims(array, [axis])
    match value:
        case Slices():
            fill = moved(value.fill, expand)
            return Slices(expand(dense(value.value)), new(value.shape, 1), tuple(new(value.keep, None)), fill)
        case Spread():
            return Spread(moved(value.value, expand), new(value.shape, 1), value.dtype)
        case _:
            return expand(dense(value))


def _tiled(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    """Repeats what is left; what is one entry along an axis goes on to stand for all."""
    (x,), reps = values, params["reps"]
    shape = [n * times for n, times in zip(np.shape(x), reps, strict=True)]

    def along(array: Any) -> Any:
        return lax.tile(array, [1 if n == 1 else times for n, times in zip(array.shape, reps, strict=True)])

    if isinstance(x, Slices):
        keep = [
            None if kept is None else [turn * n + entry for turn in range(times) for entry in kept]
            for kept, n, times in zip(x.keep, x.shape, reps, strict=True)
        ]
        return made(lax.tile(dense(x.value), reps), shape, keep, moved(x.fill, along))
    if isinstance(x, Spread):
        return Spread(moved(x.value, along), shape, x.dtype)
    if all(1 in (n, times) for n, times in zip(np.shape(x), reps, strict=True)):
        return Spread(dense(x), shape, x.dtype)
    return NotImplemented


def unstack(reading: Reading, params: dict[str, Any], values: Sequence[Any]) -> list[Any]:
    """Returns the values along an axis; where that is cut, some of them are all fill."""
    (x,), axis = values, params["axis"]
    if isinstance(x, Slices) and x.keep[axis] is not None:
        parts = (window(x, _entry(x.shape, axis, place)) for place in range(x.shape[axis]))
        return [without_axis(part, (axis,)) for part in parts]
    if not isinstance(x, Slices | Spread):
        return list(lax.unstack(lowered(x), axis))
    count, shape = x.shape[axis], [n for i, n in enumerate(x.shape) if i != axis]
    of_each = lambda array: [lax.squeeze(array, [axis])] * count if array.shape[axis] == 1 else lax.unstack(array, axis)
    fills = moved(x.fill if isinstance(x, Slices) else x.value, of_each)
    fills = fills if isinstance(fills, list | tuple) else [fills] * count
    if isinstance(x, Spread):
        return [Spread(fill, shape, x.dtype) for fill in fills]
    keep = [entries for i, entries in enumerate(x.keep) if i != axis]
    return [made(part, shape, keep, fill) for part, fill in zip(lax.unstack(dense(x.value), axis), fills, strict=True)]


def _entry(shape: Sequence[int], axis: int, place: int) -> list[tuple[int, int, int]]:
    return [(place, place + 1, 1) if i == axis else (0, n, 1) for i, n in enumerate(shape)]


STACKS: dict[core.Primitive, Rule] = {lax.tile_p: _tiled, lax.stack_p: _stacked}
