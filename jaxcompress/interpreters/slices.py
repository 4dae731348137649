"""Values of which whole slices are known without computing them: what a model computes from `Sliced` weights.

A `Slices` is computed at the entries kept along each axis, and is one value, its fill, at all others. The fill of a
removed channel is zero behind a product or a convolution; it goes through what follows like any entry, so that it is
one half behind a sigmoid, and the negative mean of what is left behind the subtraction of a mean. Where a constant that
the model closes over (a mean of batches, a table of positions) was added, it is another number at each entry. The
logical shape stays that of the unmodified model, and `Slices.dense` is what the model would have computed with zeros.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxcompress.arrays import LowRank, Sliced, Zeros, dense, stacked
from jaxcompress.arrays.sliced import Keep, cut, expand, left_of, take

# A Python number that is known while tracing, or an array of one entry or all along each axis.
Fill = Any


@jax.tree_util.register_pytree_node_class
class Slices:
    """Holds a value that is `value` at the entries of `keep` along the axes of `shape`, and that of `fill` elsewhere.

    `keep` cuts at least one axis. `value` may be a compressed leaf.
    """

    def __init__(self, value: Any, shape: Sequence[int], keep: Keep, fill: Fill) -> None:
        self.value, self.shape, self.keep, self.fill = value, tuple(shape), keep, fill

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        """The dtype of the values."""
        return self.value.dtype

    @property
    def cut(self) -> tuple[int, ...]:
        """The axes that are cut."""
        return tuple(axis for axis, entries in enumerate(self.keep) if entries is not None)

    def dense(self) -> Array:
        """Returns the whole array."""
        return expand(dense(self.value), self.shape, self.keep, self.fill)

    def tree_flatten(self) -> tuple[Any, Any]:
        """Splits off what is known while tracing."""
        known = is_known(self.fill)
        return (self.value, None if known else self.fill), (self.shape, self.keep, self.fill if known else None)

    @classmethod
    def tree_unflatten(cls, known: Any, parts: Any) -> "Slices":
        """Joins what `tree_flatten` split."""
        shape, keep, fill = known
        return cls(parts[0], shape, keep, parts[1] if fill is None else fill)


@jax.tree_util.register_pytree_node_class
class Spread:
    """Holds a value that is the same all along some axes of `shape`: those along which `value` has one entry.

    So it is known of a constant or a mask that was broadcast against a `Slices` what it is where that is cut. `value`
    is a Python number if it is known while tracing. Arrays that a model closes over are such values too, also where
    they vary along all axes.
    """

    def __init__(self, value: Any, shape: Sequence[int], dtype: Any) -> None:
        self.value, self.shape, self.dtype = value, tuple(shape), dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def axes(self) -> tuple[int, ...]:
        """The size of the value along each axis."""
        return (1,) * self.ndim if is_known(self.value) else self.value.shape

    def dense(self) -> Array:
        """Returns the whole array."""
        return jnp.broadcast_to(jnp.asarray(self.value, self.dtype), self.shape)

    def tree_flatten(self) -> tuple[Any, Any]:
        """Splits off what is known while tracing."""
        known = is_known(self.value)
        return (None if known else self.value,), (self.value if known else None, self.shape, self.dtype)

    @classmethod
    def tree_unflatten(cls, known: Any, parts: Any) -> "Spread":
        """Joins what `tree_flatten` split."""
        value, shape, dtype = known
        return cls(parts[0] if value is None else value, shape, dtype)


def is_known(fill: Any) -> bool:
    """Tells whether a fill is a number that is known while tracing."""
    return isinstance(fill, bool | int | float)


def of_constant(value: Any) -> Any:
    """Returns an array that a program closes over as a value of which each entry is known."""
    if not isinstance(value, np.ndarray | Array) or np.size(value) == 1:
        return value
    if not (jnp.issubdtype(value.dtype, jnp.number) or value.dtype == bool):
        return value
    array = at_once(jnp.asarray, value)
    return Spread(array, array.shape, array.dtype)


def at_once(function: Callable[..., Any], *arrays: Any) -> Any:
    """Computes a function of arrays while tracing, if none of them is traced."""
    if any(isinstance(array, Tracer) for array in arrays):
        return function(*arrays)
    with jax.ensure_compile_time_eval():
        return function(*arrays)


def number(value: Any) -> float | None:
    """Returns the number that all of a value is, None where that is not known while tracing."""
    match value:
        case Spread():
            return value.value if is_known(value.value) else None
        case bool() | int() | float():
            return value
        case np.ndarray() | np.generic() | Array() if not isinstance(value, Tracer) and value.size == 1:
            plain = jnp.issubdtype(value.dtype, jnp.number) or value.dtype == bool
            return np.asarray(value).item() if plain else None
        case _:
            return None


def of_leaf(leaf: Any) -> Any:
    """Returns a `Sliced` or `Zeros` leaf as the value that a program computes with; others as they are."""
    if isinstance(leaf, Zeros):
        return Spread(0.0, leaf.shape, leaf.dtype)
    if not isinstance(leaf, Sliced):
        return leaf
    return made(leaf.weight, leaf.shape, (None,) * leaf.stack_axes + leaf.keep, leaf.fill)


def made(value: Any, shape: Sequence[int], keep: Sequence[Sequence[int] | None], fill: Fill) -> Any:
    """Returns the value of which `value` is what is left; itself where nothing is cut."""
    kept = tuple(None if e is None or len(e) == n else tuple(map(int, e)) for n, e in zip(shape, keep, strict=True))
    assert tuple(value.shape) == left_of(shape, kept), (value.shape, shape, kept)
    return value if all(entries is None for entries in kept) else Slices(value, shape, kept, fill)


def keep_of(value: Any) -> Keep:
    """Returns what is left along each axis of any value."""
    return value.keep if isinstance(value, Slices) else (None,) * np.ndim(value)


def part_of(value: Any) -> Any:
    """Returns what is left of a value: a plain array or a compressed leaf."""
    match value:
        case Slices():
            return value.value
        case Spread():
            return value.dense()
        case _:
            return value


def lowered(value: Any) -> Any:
    """Returns the whole array that any value of a reading means."""
    return value.dense() if isinstance(value, Slices | Spread) else dense(value)


def sliceable(value: Any) -> Any:
    """Returns a value in a form that a scan may slice along its first axis."""
    if not isinstance(value, Slices):
        return stacked(lowered(value) if isinstance(value, Spread) else value)
    if value.keep[0] is not None or not is_known(value.fill):
        return value.dense()
    return Slices(stacked(value.value), value.shape[1:], value.keep[1:], value.fill)


def zero_outside(value: Any) -> bool:
    """Tells whether a value is zero wherever it is cut."""
    return not isinstance(value, Slices) or (is_known(value.fill) and value.fill == 0)


def narrowed(value: Any, keep: Keep, shape: Sequence[int]) -> Any:
    """Returns the part of a value at the entries of `keep` of `shape`, put together where it was cut further.

    An axis of one entry stands against all of an axis of `shape`, and a scalar against all of it.
    """
    if np.ndim(value) == 0:
        return part_of(value)
    wanted = tuple(None if n == 1 != m else entries for n, m, entries in zip(value.shape, shape, keep, strict=True))
    if isinstance(value, Spread):
        return _narrowed_spread(value, wanted)
    if keep_of(value) == wanted:
        return part_of(value)
    part, fill = part_of(value), narrowed_fill(value.fill, wanted) if isinstance(value, Slices) else 0.0
    before = [tuple(range(n)) if e is None else e for n, e in zip(value.shape, keep_of(value), strict=True)]
    after = [tuple(range(n)) if e is None else e for n, e in zip(value.shape, wanted, strict=True)]
    both = [sorted(set(a) & set(b)) for a, b in zip(before, after, strict=True)]
    if any(not entries for entries in both):
        return jnp.broadcast_to(jnp.asarray(fill, value.dtype), left_of(value.shape, wanted))
    chosen = [np.searchsorted(old, entries).tolist() for old, entries in zip(before, both, strict=True)]
    part = cut(part if isinstance(part, LowRank) else dense(part), tuple(map(tuple, chosen)), part.shape)
    if both == [list(entries) for entries in after]:
        return part
    part = dense(part)
    places = tuple(
        None if len(entries) == len(new) else tuple(np.searchsorted(new, entries).tolist())
        for entries, new in zip(both, after, strict=True)
    )
    sizes = [len(entries) for entries in after]
    return expand(part, sizes, places, fill)


def narrowed_fill(fill: Fill, keep: Sequence[Sequence[int] | None]) -> Fill:
    """Returns a fill at some entries of each axis; an axis of one entry stands for all of them."""
    if not is_known(fill):
        for axis, entries in enumerate(keep):
            if entries is not None and fill.shape[axis] > 1:
                fill = at_once(lambda fill, axis=axis, entries=entries: take(fill, entries, axis), fill)
    return fill


def _narrowed_spread(value: Spread, keep: Keep) -> Array:
    part = jnp.asarray(narrowed_fill(value.value, keep), value.dtype)
    return jnp.broadcast_to(part, left_of(value.shape, keep))


def united(values: Sequence[Any], shape: Sequence[int]) -> Keep:
    """Returns the entries along each axis of `shape` at which any of the values is not its fill."""
    keep: list[tuple[int, ...] | None] = []
    for axis, size in enumerate(shape):
        cut = [value.keep[axis] for value in values if isinstance(value, Slices) and value.shape[axis] == size]
        found = [entries for entries in cut if entries is not None]
        entries = sorted(set().union(*found)) if found else None
        keep.append(None if entries is None or len(entries) == size else tuple(entries))
    return tuple(keep)


def outside(value: Any, cut: Sequence[int], shape: Sequence[int]) -> Fill | None:
    """Returns what a value is wherever an array of `shape` is cut along the axes `cut`; None where that is not known.

    The answer is a number, or an array of as many axes as `shape`, of one entry or all along each. Of an array that a
    program computes, and that varies along an axis that is cut, it is not known: it would be computed twice.
    """
    if (known := number(value)) is not None:
        return known
    if isinstance(value, Slices):
        return value.fill if value.cut == tuple(cut) else None
    if np.ndim(value) == 0:
        return jnp.reshape(dense(value), (1,) * len(shape))
    if isinstance(value, Spread):
        return value.value
    return None if any(value.shape[axis] != 1 for axis in cut) else dense(value)


def apply_to_fills(
    operation: Callable[..., Any], fills: Sequence[Fill], dtypes: Sequence[Any], shape: Sequence[int]
) -> Fill:
    """Computes an elementwise operation on fills: a number if all of them are, once while tracing."""
    if all(map(is_known, fills)):
        with jax.ensure_compile_time_eval():
            out = operation(*(jnp.asarray(fill, dtype) for fill, dtype in zip(fills, dtypes, strict=True)))
            return np.asarray(out).item()
    together = np.broadcast_shapes(*(np.shape(fill) for fill in fills), (1,) * len(shape))

    def whole(*fills: Any) -> Any:
        arrays = (jnp.broadcast_to(jnp.asarray(f, dtype), together) for f, dtype in zip(fills, dtypes, strict=True))
        return operation(*arrays)

    return at_once(whole, *fills)


def whole_fill(value: Slices, axes: Sequence[int]) -> Array:
    """Returns the fill as an array that is whole along `axes` where they are not cut; along the others as it is."""
    fill = jnp.asarray(value.fill, value.dtype)
    old = fill.shape or (1,) * value.ndim
    wanted = [n if i in axes and value.keep[i] is None else old[i] for i, n in enumerate(value.shape)]
    return jnp.broadcast_to(fill, wanted)


def count(sizes: Sequence[int], axes: Sequence[int]) -> int:
    """Returns the number of entries along some axes."""
    return math.prod(sizes[axis] for axis in axes)
