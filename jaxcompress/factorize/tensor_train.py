"""Tensor trains for dense kernels and convolutions."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import CompressedArray, TensorTrain
from jaxcompress.factorize import ranks
from jaxcompress.factorize.factoring import factorization
from jaxcompress.numerics.tensor_train import tensor_train as tt_svd
from jaxcompress.transform import Transform


def tensor_train(
    pattern: str,
    inputs: Sequence[int],
    outputs: Sequence[int],
    rank: int | Sequence[int] | ranks.Rule,
    *,
    always: bool = False,
    name: str | None = None,
) -> Transform:
    """Replaces the matched kernels by trains of cores, one for every pair of an input mode and an output mode.

    `inputs` and `outputs` are the modes, as many of one as of the other, whose products are the inputs and the outputs
    of the kernel (Novikov et al. 2015, arXiv:1509.06569). A convolution (*window, in, out) gets a first core for its
    places (Garipov et al. 2016, arXiv:1611.03214). `rank` bounds the ranks between the cores: one number for all, one
    for each of them, or a rule, asked about what is left to factor there. A rank above the full one becomes that.

    Factors that would hold more weights than the kernel are declined, with a `Declined` warning, unless `always`.
    Raises ValueError for modes or ranks below 1, another number of one than of the other, and, from `init`, for modes
    whose products are not the sizes of the kernel, and as `svd` does.
    """
    modes = (tuple(inputs), tuple(outputs))
    if len(modes[0]) != len(modes[1]) or not modes[0] or min(*modes[0], *modes[1]) < 1:
        raise ValueError(f"modes {modes[0]} and {modes[1]} for pattern {pattern!r} are not as many, each at least 1")
    numbers = () if callable(rank) else (rank,) if isinstance(rank, int) else tuple(rank)
    if any(not isinstance(number, int) or number < 1 for number in numbers):
        raise ValueError(f"rank {rank!r} for pattern {pattern!r} is not an integer of at least 1")
    owner = name or f"tensor_train[{pattern}]"

    def factors(path: str, kernel: Array) -> CompressedArray:
        *window, rows, columns = kernel.shape
        if (math.prod(modes[0]), math.prod(modes[1])) != (rows, columns):
            raise ValueError(f"modes {modes[0]} and {modes[1]} do not multiply to {path}, shape {kernel.shape}")
        pairs = [i * o for i, o in zip(*modes, strict=True)]
        sizes = [math.prod(window), *pairs] if window else pairs
        if not isinstance(rank, int) and not callable(rank) and len(rank) != len(sizes) - 1:
            raise ValueError(f"{path} has {len(sizes)} cores and takes {len(sizes) - 1} ranks, not {len(rank)}")

        def at(matrix: Array, place: int) -> int:
            wanted = rank(matrix) if callable(rank) else rank if isinstance(rank, int) else rank[place]
            return max(1, min(wanted, *matrix.shape))

        cores = tt_svd(_paired(kernel, modes).reshape(sizes), at)
        places = (cores.pop(0).reshape(*window, -1),) if window else ()
        shaped = [core.reshape(core.shape[0], i, o, -1) for core, i, o in zip(cores, *modes, strict=True)]
        return TensorTrain(tuple(shaped), places, owner)

    return factorization(pattern, owner, factors, TensorTrain, always=always)


def _paired(kernel: Array, modes: tuple[tuple[int, ...], tuple[int, ...]]) -> Array:
    """Returns a kernel (*window, in, out) as (*window, i1, o1, i2, o2, …)."""
    spatial, count = kernel.ndim - 2, len(modes[0])
    split = kernel.reshape(*kernel.shape[:-2], *modes[0], *modes[1])
    pairs = [axis for i in range(count) for axis in (spatial + i, spatial + count + i)]
    return jnp.transpose(split, (*range(spatial), *pairs))
