"""Truncated singular value decomposition of dense kernels and of convolutions."""

import math
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.arrays import Factored, LowRank, SpatialLowRank
from jaxcompress.factorize import layouts, ranks
from jaxcompress.factorize.factoring import check_window, factorization
from jaxcompress.interpreters.axes import Axes
from jaxcompress.numerics.factors import randomized_svd, truncated_svd
from jaxcompress.numerics.weighted import weighted_svd
from jaxcompress.paths import named_key
from jaxcompress.transform import Transform


def svd(
    pattern: str,
    rank: ranks.Rank | None = None,
    *,
    energy: float | None = None,
    split: Literal["channel", "spatial"] = "channel",
    metric: Mapping[str, Array] | None = None,
    round_to: int = 1,
    key: Array | None = None,
    axes: layouts.Layout = None,
    always: bool = False,
    name: str | None = None,
) -> Transform:
    """Replaces the matched kernels by two thin factors, which then run and train in its place.

    A kernel (in, out) becomes (in, rank) and (rank, out). A convolution (height, width, in, out) becomes a convolution
    to `rank` channels and a 1x1 convolution (``channel``; Zhang et al. 2016, arXiv:1505.06798, without its response
    reconstruction), or a vertical one to `rank` channels and a horizontal one (``spatial``; Jaderberg et al. 2014,
    arXiv:1405.3866); of a window of three axes one along the first and one over the others, while a window of one axis
    has nothing to split so. `rank` is a number from 1 to the full rank, a table of numbers by path, or a rule, such as
    `ratio` and `vbmf`; instead of it `energy`, the fraction in (0, 1] of the squared singular values to keep, stands
    for the rule of that name. Ranks that a rule finds are rounded up to a multiple of `round_to`. Weights drawn at
    random train from factors of the same spectrum so (spectral initialization, Khodak et al. 2021, arXiv:2105.01029).

    With `key`, folded with each path, the decomposition is a randomized one, nearly as good and, at a small rank of a
    large kernel, faster (Halko et al. 2011, arXiv:0909.4061). A rule may still need all singular values.

    `metric` weighs the error of the rows of a kernel, by path: a matrix, such as `second_moments` of its inputs, with
    which the error of the outputs is least, or the diagonal of one, as `activation_scales` and `fisher` give.

    Which matrix a kernel is, `axes` tell: the table that `factorize.axes` reads from a program, `Axes` for all kernels
    or in a table by path, or the number of the first axes that are its inputs, the others being its outputs. Along the
    axes of a stack, as of layers in a scan, every layer has factors of its own, all of one rank: of a rule the largest
    that it finds. Without `axes` a kernel of two axes is (in, out), one of four or more a convolution, and one of three
    what makes the matrix nearest to a square: (d, heads * size) of q, k and v in attention, (heads * size, d) of what
    follows it, (width * in, out) of a convolution over one axis; and a metric tells by the number of its rows.

    Factors that would hold more weights than the kernel are declined, with a `Declined` warning, unless `always`,
    and so are those that would take more multiply-adds, if the axes were read from a program.

    Raises ValueError for both or neither of `rank` and `energy`, values out of range, an unknown split, and a metric
    for the spatial one or with a key, and, from `init`, for a rank above the full one, a metric that is missing or of
    another size, a leaf that is not a kernel or already compressed (factorize first, then mask or quantize the factors
    ``…/u`` and ``…/v``), non-finite weights, and a pattern without a match; TypeError if `init` is traced, since a rank
    is a shape.
    """
    rank = ranks.given("svd", pattern, rank, energy, round_to)
    if split not in ("channel", "spatial") or (split == "spatial" and metric is not None):
        raise ValueError(f"split {split!r} for pattern {pattern!r} is not 'channel', or 'spatial' without a metric")
    if key is not None and metric is not None:
        raise ValueError(f"svd of {pattern!r} takes either a metric or the key of a randomized decomposition, not both")
    owner = name or f"svd[{pattern}]"

    def factors(path: str, matrices: list[Array], number: int) -> list[tuple[Array, Array]]:
        if metric is not None:
            weights = _metric_of(metric, path, len(matrices), len(matrices[0]))
            return [weighted_svd(matrix, number, one) for matrix, one in zip(matrices, weights, strict=True)]
        if key is None:
            return [truncated_svd(matrix, number) for matrix in matrices]
        own = named_key(key, path)
        keys = [own] if len(matrices) == 1 else [jax.random.fold_in(own, layer) for layer in range(len(matrices))]
        return [randomized_svd(matrix, number, one) for matrix, one in zip(matrices, keys, strict=True)]

    def by_channel(path: str, layers: Array, _: Axes) -> list[Factored]:
        matrices = list(map(layouts.matrix_of, layers))
        number = ranks.chosen(rank, path, matrices, layers.shape[1:], round_to=round_to)
        return [
            LowRank(u.reshape(*layers.shape[1:-1], number), v, layers.ndim - 2, 1, owner)
            for u, v in factors(path, matrices, number)
        ]

    def by_axis(path: str, layers: Array, _: Axes) -> list[Factored]:
        check_window(path, layers, "a spatial split", range(2, 4))
        first, *rest, inputs, outputs = layers.shape[1:]
        matrices = [jnp.moveaxis(layer, -2, 1).reshape(first * inputs, -1) for layer in layers]
        number = ranks.chosen(rank, path, matrices, layers.shape[1:], round_to=round_to)
        return [
            SpatialLowRank(
                u.reshape(first, inputs, number), jnp.moveaxis(v.reshape(number, *rest, outputs), 0, -2), owner
            )
            for u, v in factors(path, matrices, number)
        ]

    if split == "spatial":
        convention = layouts.convolution
        return factorization(pattern, owner, by_axis, SpatialLowRank, always=always, axes=axes, convention=convention)
    by_rows = layouts.squarest if metric is None else lambda path, shape: _measured(metric, path, shape)
    return factorization(pattern, owner, by_channel, LowRank, always=always, axes=axes, convention=by_rows)


def _measured(metric: Mapping[str, Array], path: str, shape: tuple[int, ...]) -> Axes:
    """Returns the axes of a kernel that has as many rows as its metric; those by convention if none has."""
    by_convention = layouts.squarest(path, shape)
    if path not in metric:
        return by_convention
    sizes = np.shape(metric[path])
    stacked = len(sizes) == 3 or (len(sizes) == 2 and sizes[0] != sizes[1])
    for axes in (by_convention, *(layouts.split_at(shape, n, int(stacked)) for n in range(1, len(shape) - stacked))):
        rows = axes.sizes(shape, (*axes.window, *axes.inputs))
        if len(axes.stack) == stacked and math.prod(rows) == sizes[-1]:
            return axes
    return by_convention


def _metric_of(metric: Mapping[str, Array], path: str, layers: int, rows: int) -> list[Array]:
    """Returns the metric of each layer of a kernel, a matrix or the diagonal of one."""
    if path not in metric:
        raise ValueError(f"there is no metric for {path}; there are metrics for {', '.join(sorted(metric))}")
    given = jnp.asarray(metric[path])
    of_each = next((size for size in ((rows, rows), (rows,)) if given.shape[-len(size) :] == size), None)
    if of_each is None or math.prod(given.shape) != layers * math.prod(of_each):
        told = f"the metric of {path} has shape {given.shape}; its kernel has {rows} rows"
        raise ValueError(told if layers == 1 else f"{told} in each of {layers} layers")
    by_layer = given.reshape(layers, *of_each)
    diagonal = by_layer if by_layer.ndim == 2 else jnp.diagonal(by_layer, axis1=1, axis2=2)
    if not bool(jnp.all(jnp.isfinite(given))) or not bool(jnp.all(diagonal > 0)):
        raise ValueError(f"the metric of {path} is not finite and positive")
    return list(by_layer)
