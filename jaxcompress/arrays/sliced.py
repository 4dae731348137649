"""Weights of which whole slices are removed: smaller arrays that keep their place in an unmodified model."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxcompress.arrays.base import CompressedArray, compressed, decode, dense, encode, pack, stacked, static
from jaxcompress.arrays.clustered import Clustered
from jaxcompress.arrays.factored import Factored
from jaxcompress.arrays.low_rank import LowRank
from jaxcompress.arrays.zeros import Zeros
from jaxcompress.coding import Coded, Stream
from jaxcompress.numerics import positions

Keep = tuple[tuple[int, ...] | None, ...]  # by axis the entries that are left, ascending; None where all are


@compressed
class Sliced(CompressedArray):
    """Means an array of `full_shape` that is `weight` at the entries of `keep` and `fill` everywhere else.

    `keep` lists for every axis the entries that are left, in ascending order, or is None for an axis that is whole;
    `weight` has that many along it. The model goes on to see the full shape, and under `jaxcompress.lift` computes with
    what is left. Transforms reach into the leaf: its path is that of `weight`. Axes that `weight` has before those of
    `full_shape` are a stack of such leaves.

    False in the place of `weight`, as ``jax.tree.map`` puts it there, stands for the leaf: optax leaves out the whole
    parameter where a mask is False, whether a function made that mask or it was written down for the unmodified tree,
    and the state of an optimiser does not tell which.
    """

    weight: Array | CompressedArray
    full_shape: tuple[int, ...] = static()
    keep: Keep = static()
    fill: float = static(default=0.0)
    owner: str = static(default="")

    @classmethod
    def rebuilt(cls, weight: Any, **known: Any) -> Any:
        """Returns the leaf of these parts, or the False that stands for it in a mask."""
        left_out = isinstance(weight, bool | np.bool_) and not weight
        return weight if left_out else cls(weight, **known)  # pyright: ignore (JAX puts any object there)

    @property
    def stack_axes(self) -> int:
        """The number of leading axes that stack leaves."""
        return self.weight.ndim - len(self.full_shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.weight.shape[: self.stack_axes], *self.full_shape)

    @property
    def dtype(self) -> Any:
        return self.weight.dtype

    def dense(self) -> Array:
        return expand(dense(self.weight), self.shape, (None,) * self.stack_axes + self.keep, self.fill)

    def stacked(self) -> "Sliced | None":
        if self.stack_axes:
            return replace(self, weight=stacked(self.weight))
        if not self.keep or self.keep[0] is not None:
            return None
        return replace(self, weight=stacked(self.weight), full_shape=self.full_shape[1:], keep=self.keep[1:])

    def pack(self) -> "Sliced":
        return replace(self, weight=pack(self.weight), owner="")

    def encode(self, kept: np.ndarray | None = None) -> Coded:
        streams = []
        for axis, (size, entries) in enumerate(zip(self.full_shape, self.keep, strict=True)):
            if entries is not None:
                mask = np.zeros(size, bool)
                mask[list(entries)] = True
                streams.append(Stream(f"keep{axis}", *positions.encode_mask(mask, size)))
        attributes = {"shape": list(self.full_shape), "fill": float(self.fill)}
        return Coded("Sliced", attributes, tuple(streams), {"weight": encode(self.weight)})

    @classmethod
    def decode(cls, coded: Coded, kept: np.ndarray | None = None) -> "Sliced":
        full, fill, weight = coded.shape(), coded.attribute("fill", float), decode(coded.part("weight"))
        found = {stream.role: stream for stream in coded.streams}
        keep: list[tuple[int, ...] | None] = [None] * len(full)
        for axis, size in enumerate(full):
            if (stream := found.pop(f"keep{axis}", None)) is not None:
                entries = np.flatnonzero(positions.decode_mask(stream.coding, stream.data, size, size))
                if not 0 < len(entries) < size:
                    raise ValueError(f"a sliced axis of {size} entries keeps {len(entries)} of them")
                keep[axis] = tuple(entries.tolist())
        if found or not math.isfinite(fill) or all(entries is None for entries in keep):
            raise ValueError(f"streams {sorted(found)} and fill {fill} do not describe what is left of {full}")
        left = left_of(full, tuple(keep))
        if tuple(weight.shape)[max(0, len(weight.shape) - len(full)) :] != left:  # axes before them are a stack's
            raise ValueError(f"a weight of shape {weight.shape} is not what is left, {left}")
        return cls(weight, full, tuple(keep), fill)


def left_of(shape: Sequence[int], keep: Keep) -> tuple[int, ...]:
    """Returns the shape of what is left."""
    return tuple(n if entries is None else len(entries) for n, entries in zip(shape, keep, strict=True))


def take(array: Any, entries: Sequence[int], axis: int) -> Any:
    """Returns the `entries` of an array along an axis, as a slice where they are evenly spaced."""
    steps = set(np.diff(entries).tolist())
    if len(steps) <= 1 and (not steps or min(steps) > 0):
        return lax.slice_in_dim(array, entries[0], entries[-1] + 1, steps.pop() if steps else 1, axis)
    return jnp.take(array, np.array(entries), axis=axis, mode="clip")


def expand(value: Array, shape: Sequence[int], keep: Keep, fill: Any) -> Array:
    """Returns the array of `shape` that is `value` at the entries of `keep` and `fill` elsewhere.

    `fill` is a number, or an array that has one entry along every axis that is cut.
    """
    if all(entries is None for entries in keep):
        return value
    runs = [_run(entries, n) for entries, n in zip(keep, shape, strict=True)]
    if np.ndim(fill) == 0 and all(run is not None for run in runs):
        return lax.pad(value, jnp.asarray(fill, value.dtype), [run for run in runs if run is not None])
    indices = [np.arange(n) if entries is None else np.array(entries) for n, entries in zip(shape, keep, strict=True)]
    return jnp.broadcast_to(jnp.asarray(fill, value.dtype), shape).at[np.ix_(*indices)].set(value)


def _run(entries: Sequence[int] | None, size: int) -> tuple[int, int, int] | None:
    """Returns the padding that puts back what is missing around and evenly between the entries, None if uneven."""
    if entries is None:
        return (0, 0, 0)
    steps = set(np.diff(entries).tolist()) or {1}
    return (entries[0], size - 1 - entries[-1], steps.pop() - 1) if len(steps) == 1 else None


def sliced(leaf: Any, keep: Sequence[Sequence[int] | None], shape: Sequence[int] | None = None) -> Any:
    """Removes from an array or a compressed leaf what `keep` does not list, by axis; None keeps all of an axis.

    Entries are those of the dense array, also where some were removed before, which stay removed. A compressed leaf is
    cut inside: masks, codes and scales by channel go with the weight, and a scale that follows from the weight follows
    from what is left. `shape` is that of the leaf, needed where it holds no arrays (in a part of what
    `jaxcompress.partition` split). Returns the leaf itself where nothing is removed, and where nothing was left
    (`Zeros`). Raises ValueError for what are no ascending entries of an axis, for an axis of which nothing would be
    left, and for a leaf that shares numbers between slices (scales by group).
    """
    shape = tuple(leaf.shape if shape is None else shape)
    if len(keep) != len(shape):
        raise ValueError(f"a shape {shape} has {len(shape)} axes; {len(keep)} are given")
    for axis, (size, entries) in enumerate(zip(shape, keep, strict=True)):
        chosen = [] if entries is None else list(entries)
        if entries is not None and (
            not chosen or chosen != sorted(set(chosen)) or not 0 <= chosen[0] <= chosen[-1] < size
        ):
            raise ValueError(f"{chosen} are not ascending entries, one or more, of axis {axis} of {shape}")
    whole = tuple(None if e is None or len(e) == n else tuple(map(int, e)) for n, e in zip(shape, keep, strict=True))
    if isinstance(leaf, Sliced):
        return _further(leaf, whole)
    if isinstance(leaf, Zeros):
        return leaf
    return leaf if all(entries is None for entries in whole) else Sliced(cut(leaf, whole, shape), shape, whole)


def _further(leaf: Sliced, keep: Keep) -> Sliced:
    places: list[tuple[int, ...] | None] = []
    merged: list[tuple[int, ...] | None] = []
    for axis, (before, entries) in enumerate(zip(leaf.keep, keep, strict=True)):
        if before is None or entries is None:
            places.append(entries)
            merged.append(before if entries is None else entries)
            continue
        places.append(tuple(place for place, entry in enumerate(before) if entry in set(entries)))
        merged.append(tuple(entry for entry in before if entry in set(entries)))
        if not places[-1]:
            raise ValueError(f"nothing of axis {axis} of {leaf.full_shape} would be left: {before} are")
    inner = cut(leaf.weight, tuple(places), left_of(leaf.full_shape, leaf.keep))
    return replace(leaf, weight=inner, keep=tuple(merged))


def cut(leaf: Any, keep: Keep, shape: Sequence[int]) -> Any:
    """Returns the leaf of the smaller array; `shape` is that of the larger."""
    keep = tuple(None if e is None or len(e) == n else e for n, e in zip(shape, keep, strict=True))
    if all(entries is None for entries in keep) or not jax.tree.leaves(leaf):
        return leaf
    match leaf:
        case LowRank():
            axes = len(shape) - leaf.output_axes
            stack = axes - leaf.input_axes
            u_keep, v_keep = (*keep[:axes], None), (*keep[:stack], None, *keep[axes:])
            return replace(leaf, u=_taken(leaf.u, u_keep), v=_taken(leaf.v, v_keep))
        case Factored():
            raise ValueError(f"a {type(leaf).__name__} of shape {tuple(shape)} cannot be cut; remove channels before")
        case Clustered():
            return replace(leaf, codes=_taken(leaf.codes, keep))
        case CompressedArray() if getattr(leaf, "group", 0):
            raise ValueError(f"a {type(leaf).__name__} with scales by group of {leaf.group} inputs cannot be cut")  # pyright: ignore
        case CompressedArray():
            return leaf.map_arrays(lambda name, inner: _part(leaf, name, inner, keep, shape))
        case _:
            return _taken(leaf, keep)


def _part(leaf: CompressedArray, name: str, inner: Any, keep: Keep, shape: Sequence[int]) -> Any:
    """Cuts one field of a leaf; along axes of one entry it stands for all."""
    if not jax.tree.leaves(inner) or inner.ndim == 0:
        return inner
    if inner.ndim != len(shape) or any(n not in (1, size) for n, size in zip(inner.shape, shape, strict=True)):
        kind = type(leaf).__name__
        raise ValueError(f"{kind} of shape {tuple(shape)} cannot be cut: its {name} has shape {inner.shape}")
    return cut(inner, tuple(None if n == 1 else e for n, e in zip(inner.shape, keep, strict=True)), inner.shape)


def _taken(array: Any, keep: Keep) -> Any:
    if isinstance(array, CompressedArray):
        return cut(array, keep, array.shape)
    for axis, entries in enumerate(keep):
        if array is not None and entries is not None:
            array = take(jnp.asarray(array), entries, axis)
    return array


def shrunk(params: Any) -> Any:
    """Replaces every `Sliced` leaf of a tree by its `weight`: the parameters of the smaller model.

    Plain arrays come out as plain arrays of smaller shapes, which a module that is rebuilt with fewer features takes.
    """
    inner = lambda leaf: leaf.weight if isinstance(leaf, Sliced) else leaf
    return jax.tree.map(inner, params, is_leaf=lambda leaf: isinstance(leaf, CompressedArray))
