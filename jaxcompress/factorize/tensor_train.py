"""Tensor trains for dense kernels and convolutions."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import Factored, TensorTrain
from jaxcompress.factorize import layouts, ranks
from jaxcompress.factorize.factoring import check_groups, factorization
from jaxcompress.interpreters.axes import Axes
from jaxcompress.numerics.tensor_train import tensor_train as tt_svd
from jaxcompress.transform import Transform

_Modes = tuple[tuple[int, ...], tuple[int, ...]]
_Ranks = int | Sequence[int] | ranks.Rule


def tensor_train(
    pattern: str,
    inputs: Sequence[int],
    outputs: Sequence[int],
    rank: _Ranks | Mapping[str, _Ranks],
    *,
    axes: layouts.Layout = None,
    always: bool = False,
    name: str | None = None,
) -> Transform:
    """Replaces the matched kernels by trains of cores, one for every pair of an input mode and an output mode.

    `inputs` and `outputs` are the modes, as many of one as of the other, whose products are the inputs and the outputs
    of the kernel (Novikov et al. 2015, arXiv:1509.06569). A convolution (*window, in, out) gets a first core for its
    places (Garipov et al. 2016, arXiv:1611.03214). `rank` bounds the ranks between the cores: one number for all, one
    for each of them, or a rule, asked about what is left to factor there; or a table of these by path. A rank above the
    full one becomes that. Which matrix or convolution a kernel is, `axes` tell, as those of `svd`, or else the modes.

    Factors that would hold more weights than the kernel are declined, with a `Declined` warning, unless `always`.
    Raises ValueError for modes or ranks below 1, another number of one than of the other, and, from `init`, for modes
    whose products are not the sizes of the kernel, for kernels of grouped convolutions where `axes` tell, and as `svd`
    does.
    """
    modes = (tuple(inputs), tuple(outputs))
    if len(modes[0]) != len(modes[1]) or not modes[0] or min(*modes[0], *modes[1]) < 1:
        raise ValueError(f"modes {modes[0]} and {modes[1]} for pattern {pattern!r} are not as many, each at least 1")
    if not isinstance(rank, Mapping):
        _check_ranks(rank, f"pattern {pattern!r}")
    owner = name or f"tensor_train[{pattern}]"

    def by_modes(path: str, shape: tuple[int, ...]) -> Axes:
        return layouts.by_sizes(path, shape, math.prod(modes[0]), math.prod(modes[1]))

    def factors(path: str, layers: Array, own: Axes) -> list[Factored]:
        check_groups(path, own, "a tensor train")
        *window, rows, columns = layers.shape[1:]
        if (math.prod(modes[0]), math.prod(modes[1])) != (rows, columns):
            raise ValueError(f"modes {modes[0]} and {modes[1]} do not multiply to {path}, shape {layers.shape[1:]}")
        pairs = [i * o for i, o in zip(*modes, strict=True)]
        sizes = [math.prod(window), *pairs] if window else pairs
        bound = ranks.at(rank, path)
        _check_ranks(bound, path)
        if isinstance(bound, Sequence) and len(bound) != len(sizes) - 1:
            raise ValueError(f"{path} has {len(sizes)} cores and takes {len(sizes) - 1} ranks, not {len(bound)}")
        paired = [_paired(layer, modes).reshape(sizes) for layer in layers]
        trains = [tt_svd(layer, _rank_at(bound)) for layer in paired]
        if len(trains) > 1 and callable(bound):  # of a stack all layers have the ranks of the one that needs most
            most = [max(core.shape[-1] for core in cores) for cores in zip(*trains, strict=True)]
            trains = [tt_svd(layer, _rank_at(most)) for layer in paired]
        return [leaf(cores, window) for cores in trains]

    def leaf(cores: list[Array], window: Sequence[int]) -> Factored:
        places = (cores[0].reshape(*window, -1),) if window else ()
        rest = cores[len(places) :]
        shaped = [core.reshape(core.shape[0], i, o, -1) for core, i, o in zip(rest, *modes, strict=True)]
        return TensorTrain(tuple(shaped), places, owner)

    return factorization(pattern, owner, factors, TensorTrain, always=always, axes=axes, convention=by_modes)


def _check_ranks(rank: Any, where: str) -> None:
    if not callable(rank):
        for number in rank if isinstance(rank, Sequence) else (rank,):
            ranks.number(number, where)


def _rank_at(rank: _Ranks) -> Callable[[Array, int], int]:
    def at(matrix: Array, place: int) -> int:
        wanted = rank(matrix) if callable(rank) else rank[place] if isinstance(rank, Sequence) else rank
        return max(1, min(int(wanted), *matrix.shape))

    return at


def _paired(kernel: Array, modes: _Modes) -> Array:
    """Returns a kernel (*window, in, out) as (*window, i1, o1, i2, o2, …)."""
    spatial, count = kernel.ndim - 2, len(modes[0])
    split = kernel.reshape(*kernel.shape[:-2], *modes[0], *modes[1])
    pairs = [axis for i in range(count) for axis in (spatial + i, spatial + count + i)]
    return jnp.transpose(split, (*range(spatial), *pairs))
