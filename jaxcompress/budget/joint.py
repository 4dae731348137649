"""Sparsity, bits and rank of every kernel at once."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import jax

from jaxcompress import arrays
from jaxcompress.arrays import is_compressed
from jaxcompress.budget.levels import Leaves
from jaxcompress.factorize import ratio, svd
from jaxcompress.paths import Params, select
from jaxcompress.prune import magnitude
from jaxcompress.quantize import weights
from jaxcompress.transform import Transform, chain, identity_update

Step = Literal["rank", "sparsity", "bits"]
Split = Literal["channel", "spatial"]
ORDER: tuple[Step, ...] = ("rank", "sparsity", "bits")


class Level(NamedTuple):
    """Says what becomes of a kernel; by default it stays as it is.

    `rank` is that at which two factors have this share of its weights, in (0, 1); `sparsity`, in [0, 1), the fraction
    of the weights, or of those of each factor, that is removed; `bits`, from 2 to 8, those of what is left.
    """

    rank: float | None = None
    sparsity: float = 0.0
    bits: int | None = None


def grid(ranks: Iterable[float] = (), sparsities: Iterable[float] = (), bits: Iterable[int] = ()) -> list[Level]:
    """Lists every combination of these, each also left out; without the kernel as it is."""
    of_all = itertools.product((None, *ranks), (0.0, *sparsities), (None, *bits))
    return [level for level in itertools.starmap(Level, of_all) if level != Level()]


def recipe(
    levels: Mapping[str, Level | None],
    *,
    order: Sequence[Step] = ORDER,
    split: Split = "channel",
) -> Transform:
    """Returns the transform that brings every kernel to its level, by path: `svd`, `magnitude` and `weights`, chained.

    The `order` is that in which a kernel is factored, pruned and rounded. What is factored has no leaf around it, so
    `rank` comes first; convolutions are factored along the `split`. Masks are drawn by `init` and stand; scales follow
    the weights. None stands for a kernel as it is.

    Raises ValueError for another order, and as the transforms do for a level that is out of range.
    """
    _check(order)
    return chain(
        *(
            transform
            for path, level in levels.items()
            if level is not None
            for transform in _steps(path, level, order, split).values()
        )
    )


def _check(order: Sequence[Step]) -> None:
    if sorted(order) != sorted(ORDER) or order[0] != "rank":
        raise ValueError(f"order {list(order)} is not 'rank' and, after it, 'sparsity' and 'bits' in either order")


def _steps(path: str, level: Level, order: Sequence[Step], split: Split) -> dict[Step, Transform]:
    kernel = re.escape(path)
    parts = kernel if level.rank is None else f"{kernel}/.*"
    made: dict[Step, Transform] = {}
    if level.rank is not None:
        made["rank"] = _factored(kernel, level.rank, split)
    if level.sparsity:
        made["sparsity"] = magnitude(parts, level.sparsity)._replace(update=identity_update)
    if level.bits is not None:
        made["bits"] = weights(parts, level.bits)
    return {step: made[step] for step in order if step in made}


def _factored(pattern: str, share: float, split: Split) -> Transform:
    """Splits convolutions as they are asked to be, and other kernels in the one way there is."""
    of = {split: svd(pattern, ratio(share), split=split, always=True) for split in get_args(Split)}

    def init(params: Params) -> Params:
        (leaf,) = select(params, pattern).values()
        return of[split if leaf.ndim == 4 else "channel"].init(params)

    return Transform(of[split].names, init, identity_update)


def forms(
    params: Params,
    pattern: str,
    levels: Sequence[Level],
    *,
    order: Sequence[Step] = ORDER,
    split: Split = "channel",
) -> Leaves[Level]:
    """Brings each kernel that a pattern matches to every level, by path and level; raises as `recipe` does."""
    _check(order)

    def of(path: str, kernel: Any) -> dict[Level, Any]:
        @cache
        def form(level: Level) -> Any:
            steps = _steps(path, level, order, split)
            if not steps:
                return kernel
            last, transform = list(steps.items())[-1]
            before = form(level._replace(**{last: Level()._asdict()[last]}))
            return transform.init({path: before})[path]

        return {level: form(level) for level in levels}

    return {path: of(path, kernel) for path, kernel in select(params, pattern).items()}


def packed_bytes(params: Params) -> int:
    """Counts the bytes of the leaves of a tree in a packed file: all of it but the prefix and the header."""
    leaves = jax.tree.leaves(params, is_leaf=is_compressed)
    return sum(sum(arrays.encode(arrays.pack(leaf)).bytes_by_coding().values()) for leaf in leaves)
