"""Tucker decomposition of kernels."""

from jax import Array

from jaxcompress.arrays import CompressedArray, Tucker, Tucker2
from jaxcompress.factorize import ranks
from jaxcompress.factorize.factoring import check_axes, factorization
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
    always: bool = False,
    name: str | None = None,
) -> Transform:
    """Replaces the matched kernels by a core of fewer inputs and outputs, between a factor of each.

    A convolution becomes a 1x1 convolution to fewer channels, a convolution between these, and a 1x1 convolution (Kim
    et al. 2016, arXiv:1511.06530); a dense kernel becomes three products. `rank` is one for inputs and outputs, or a
    pair: each a number, a table by path, or a rule, asked about the unfolding along that axis. Kim et al. choose by
    `vbmf`. The other arguments, and what is raised, are those of `svd`; `sweeps` are those of orthogonal iteration
    after the truncated higher-order SVD.
    """
    pair = _several("tucker2", pattern, rank, energy, round_to, 2)
    owner = name or f"tucker2[{pattern}]"

    def factors(path: str, kernel: Array) -> CompressedArray:
        axes = (kernel.ndim - 2, kernel.ndim - 1)
        core, (u, v) = numerics.tucker(kernel, axes, _chosen(pair, path, kernel, axes, round_to), sweeps)
        return Tucker2(u, core, v.T, owner)

    return factorization(pattern, owner, factors, Tucker2, always=always)


def tucker(
    pattern: str,
    rank: Ranks | None = None,
    *,
    energy: float | None = None,
    sweeps: int = 2,
    always: bool = False,
    name: str | None = None,
) -> Transform:
    """Replaces the matched convolution kernels by a core and a factor of every axis, those of the window too.

    `rank` is one for the axes (height, width, in, out), or four, as those of `tucker2`. It stores less than `tucker2`
    and runs the same. Raises as `svd` does, and ValueError for a kernel that is not of four axes.
    """
    four = _several("tucker", pattern, rank, energy, 1, 4)
    owner = name or f"tucker[{pattern}]"

    def factors(path: str, kernel: Array) -> CompressedArray:
        check_axes(path, kernel, "tucker", 4)
        axes = (0, 1, 2, 3)
        core, found = numerics.tucker(kernel, axes, _chosen(four, path, kernel, axes, 1), sweeps)
        height, width, u, v = found
        return Tucker(height, width, u, core, v.T, owner)

    return factorization(pattern, owner, factors, Tucker, always=always)


def _several(
    form: str, pattern: str, rank: Ranks | None, energy: float | None, round_to: int, count: int
) -> tuple[ranks.Rank, ...]:
    if not isinstance(rank, tuple):
        return (ranks.given(form, pattern, rank, energy, round_to),) * count
    if len(rank) != count:
        raise ValueError(f"{form} of {pattern!r} takes one rank or {count}, not {len(rank)}: {rank}")
    return tuple(ranks.given(form, pattern, one, energy, round_to) for one in rank)


def _chosen(
    given: tuple[ranks.Rank, ...], path: str, kernel: Array, axes: tuple[int, ...], round_to: int
) -> tuple[int, ...]:
    def one(rank: ranks.Rank, axis: int) -> int:
        return ranks.chosen(rank, path, numerics.unfolding(kernel, axis), kernel.shape, round_to=round_to)

    return tuple(one(rank, axis) for rank, axis in zip(given, axes, strict=True))
