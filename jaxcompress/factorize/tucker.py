"""Tucker decomposition of kernels."""

from jax import Array

from jaxcompress.arrays import Factored, Tucker, Tucker2
from jaxcompress.factorize import layouts, ranks
from jaxcompress.factorize.factoring import check_window, factorization
from jaxcompress.interpreters.axes import Axes
from jaxcompress.numerics import tucker as numerics
from jaxcompress.transform import Transform

Ranks = ranks.Rank | tuple[ranks.Rank, ...]


def tucker2(
    pattern: str,
    rank: Ranks | None = None,
    *,
    energy: float | None = None,
    sweeps: int = 2,
    round_to: int = 1,
    axes: layouts.Layout = None,
    always: bool = False,
    name: str | None = None,
) -> Transform:
    """Replaces the matched kernels by a core of fewer inputs and outputs, between a factor of each.

    A convolution becomes a 1x1 convolution to fewer channels, a convolution between these, and a 1x1 convolution (Kim
    et al. 2016, arXiv:1511.06530); a dense kernel becomes three products. `rank` is one for inputs and outputs, or a
    pair: each a number, a table by path, or a rule, asked about the unfolding along that axis. Kim et al. choose by
    `vbmf`. The other arguments, and what is raised, are those of `svd`; `sweeps` are those of orthogonal iteration
    after the truncated higher-order SVD. A kernel has a window, and is a convolution, as `axes` or the convention of
    `svd` tell.
    """
    pair = _several("tucker2", pattern, rank, energy, round_to, 2)
    owner = name or f"tucker2[{pattern}]"

    def factors(path: str, layers: Array, _: Axes) -> list[Factored]:
        sides = (layers.ndim - 3, layers.ndim - 2)
        numbers = _chosen(pair, path, layers, sides, round_to)
        return [both(layer, sides, numbers) for layer in layers]

    def both(kernel: Array, sides: tuple[int, ...], numbers: tuple[int, ...]) -> Factored:
        core, (u, v) = numerics.tucker(kernel, sides, numbers, sweeps)
        return Tucker2(u, core, v.T, owner)

    return factorization(pattern, owner, factors, Tucker2, always=always, axes=axes)


def tucker(
    pattern: str,
    rank: Ranks | None = None,
    *,
    energy: float | None = None,
    sweeps: int = 2,
    axes: layouts.Layout = None,
    always: bool = False,
    name: str | None = None,
) -> Transform:
    """Replaces the matched convolution kernels by a core and a factor of every axis, those of the window too.

    `rank` is one for the axes (height, width, in, out), or four, as those of `tucker2`; three or five of a window of
    one axis or three. It stores less than `tucker2` and runs the same. Raises as `svd` does, and ValueError for a
    kernel without a window, or of another number of axes than there are ranks.
    """
    if isinstance(rank, tuple) and len(rank) not in (3, 4, 5):
        raise ValueError(f"tucker of {pattern!r} takes one rank or 4, not {len(rank)}: {rank}")
    count = len(rank) if isinstance(rank, tuple) else None
    each = _several("tucker", pattern, rank, energy, 1, count or 1)
    owner = name or f"tucker[{pattern}]"

    def factors(path: str, layers: Array, _: Axes) -> list[Factored]:
        check_window(path, layers, "tucker", range(1, 4))
        whole = tuple(range(layers.ndim - 1))
        if count not in (None, len(whole)):
            raise ValueError(f"{path} has shape {layers.shape[1:]} and takes one rank or {len(whole)}, not {count}")
        numbers = _chosen(each if count else each * len(whole), path, layers, whole, 1)
        return [of_all(layer, whole, numbers) for layer in layers]

    def of_all(kernel: Array, whole: tuple[int, ...], numbers: tuple[int, ...]) -> Factored:
        core, (*window, u, v) = numerics.tucker(kernel, whole, numbers, sweeps)
        return Tucker(tuple(window), u, core, v.T, owner)

    return factorization(pattern, owner, factors, Tucker, always=always, axes=axes, convention=layouts.convolution)


def _several(
    form: str, pattern: str, rank: Ranks | None, energy: float | None, round_to: int, count: int
) -> tuple[ranks.Rank, ...]:
    if not isinstance(rank, tuple):
        return (ranks.given(form, pattern, rank, energy, round_to),) * count
    if len(rank) != count:
        raise ValueError(f"{form} of {pattern!r} takes one rank or {count}, not {len(rank)}: {rank}")
    return tuple(ranks.given(form, pattern, one, energy, round_to) for one in rank)


def _chosen(
    given: tuple[ranks.Rank, ...], path: str, layers: Array, axes: tuple[int, ...], round_to: int
) -> tuple[int, ...]:
    def one(rank: ranks.Rank, axis: int) -> int:
        unfolded = [numerics.unfolding(layer, axis) for layer in layers]
        return ranks.chosen(rank, path, unfolded, layers.shape[1:], round_to=round_to)

    return tuple(one(rank, axis) for rank, axis in zip(given, axes, strict=True))
