"""What compressed leaves declare of their values, and whether it still holds after whatever came later.

A later stage may prune, round, factor and train what an earlier one made. Composition keeps its promise if the zeros of
a mask are still zeros, what was rounded is still on a grid of as few values, and a product of two factors is still of
low rank. Other factors declare what their parts do.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcompress.arrays import Dithered, Factored, FakeQuantized, LowRank, Masked, Quantized, Sliced, dense
from jaxcompress.numerics.affine import spread
from jaxcompress.paths import Params, flatten, names, select

_NOISE = 1e-5  # singular values below this share of the largest are those of rounding in float32


class Declared(NamedTuple):
    """Says what the array at a `path` keeps to: `told` in words, ``holds(values)`` of its dense values."""

    path: str
    shape: tuple[int, ...]
    told: str
    holds: Callable[[np.ndarray], bool]


def declared(params: Params) -> list[Declared]:
    """Lists what the leaves of a tree declare: masks, grids and ranks, those of factors by the paths of these."""
    return [each for path, leaf in flatten(params).items() for each in _of(path, leaf)]


def broken(before: Params, after: Params) -> list[str]:
    """Says what `before` declares that does not hold in `after`, a line each; none if everything does.

    Values are compared, not types: a mask is kept if what it removed is zero, in whatever leaf. A path that is no
    longer there, or whose array has another shape, since channels were removed or it was factored anew, is broken.
    """
    there = set(names(after))
    return [f"{each.path}: {told}" for each in declared(before) if (told := _broken(each, after, there)) is not None]


def _of(path: str, leaf: Any) -> Iterator[Declared]:
    match leaf:
        case Masked():
            removed = ~np.asarray(leaf.mask)
            told = f"{np.count_nonzero(removed)} weights are zero"
            yield Declared(path, leaf.shape, told, lambda x: not np.any(x[removed]))
            yield from _of(path, leaf.weight)
        case FakeQuantized():
            yield from _of(path, leaf.pack())
            yield from _of(path, leaf.weight)
        case Quantized():
            scales = jnp.arange(leaf.scale.size).reshape(leaf.scale.shape)
            owners, most = np.broadcast_to(np.asarray(spread(scales, leaf.shape)), leaf.shape), 2**leaf.bits
            told = f"{most} values a scale at most"
            yield Declared(path, leaf.shape, told, lambda x: _most_values(x, owners) <= most)
        case Dithered() | Sliced():
            yield from _of(path, leaf.weight)
        case Factored():
            if isinstance(leaf, LowRank):
                rows = math.prod(leaf.shape[leaf.stack_axes :][: leaf.input_axes])
                matrix, most = (rows, math.prod(leaf.v.shape[leaf.stack_axes + 1 :])), leaf.rank
                yield Declared(path, leaf.shape, f"a rank of {most} at most", lambda x: _rank(x, matrix) <= most)
            parts: dict[str, Any] = {}
            leaf.map_arrays(lambda name, part: parts.setdefault(name, part))
            for name, part in parts.items():
                yield from _of(f"{path}/{name}", part)
        case _:
            return


def _broken(each: Declared, after: Params, there: set[str]) -> str | None:
    if each.path not in there:
        return f"{each.told}, before; it is not there any more"
    (leaf,) = select(after, re.escape(each.path)).values()
    if leaf.shape != each.shape:
        return f"{each.told}, before; it has shape {leaf.shape} now, it had {each.shape}"
    return None if each.holds(np.asarray(dense(leaf))) else f"{each.told}, before; no longer"


def _most_values(x: np.ndarray, owners: np.ndarray) -> int:
    """Returns the largest number of different values that entries with one owner have."""
    pairs = np.unique(np.stack([owners.reshape(-1), x.reshape(-1).astype(np.float64)]), axis=1)
    return int(np.max(np.unique(pairs[0], return_counts=True)[1], initial=0))


def _rank(x: np.ndarray, matrix: tuple[int, int]) -> int:
    layers = x.astype(np.float64).reshape(-1, *matrix)
    singular = np.linalg.svd(layers, compute_uv=False)
    return int(np.max(np.sum(singular > _NOISE * singular[:, :1], axis=1)))
