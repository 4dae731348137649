"""Truncated singular value decomposition of dense kernels and of convolutions."""

from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import CompressedArray, LowRank, SpatialLowRank
from jaxcompress.arrays.low_rank import matrix_shape
from jaxcompress.factorize import ranks
from jaxcompress.factorize.factoring import check_axes, factorization
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
    always: bool = False,
    name: str | None = None,
) -> Transform:
    """Replaces the matched kernels by two thin factors, which then run and train in its place.

    A kernel (in, out) becomes (in, rank) and (rank, out). A convolution (height, width, in, out) becomes a convolution
    to `rank` channels and a 1x1 convolution (``channel``; Zhang et al. 2016, arXiv:1505.06798, without its response
    reconstruction), or a vertical one to `rank` channels and a horizontal one (``spatial``; Jaderberg et al. 2014,
    arXiv:1405.3866). `rank` is a number from 1 to the full rank, a table of numbers by path, or a rule, such as `ratio`
    and `vbmf`; instead of it `energy`, the fraction in (0, 1] of the squared singular values to keep, stands for the
    rule of that name. Ranks that a rule finds are rounded up to a multiple of `round_to`. Weights drawn at random
    train from factors of the same spectrum so (spectral initialization, Khodak et al. 2021, arXiv:2105.01029).

    With `key`, folded with each path, the decomposition is a randomized one, nearly as good and, at a small rank of a
    large kernel, faster (Halko et al. 2011, arXiv:0909.4061). A rule may still need all singular values.

    `metric` weighs the error of the rows of a kernel, by path: a matrix, such as `second_moments` of its inputs, with
    which the error of the outputs is least, or the diagonal of one, as `activation_scales` and `fisher` give.

    Factors that would hold more weights than the kernel are declined, with a `Declined` warning, unless `always`.

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

    def factors(path: str, matrix: Array, number: int) -> tuple[Array, Array]:
        if key is not None:
            return randomized_svd(matrix, number, named_key(key, path))
        if metric is not None:
            return weighted_svd(matrix, number, _metric_of(metric, path, len(matrix)))
        return truncated_svd(matrix, number)

    def by_channel(path: str, kernel: Array) -> CompressedArray:
        matrix = kernel.reshape(matrix_shape(kernel.shape, kernel.ndim - 1))
        number = ranks.chosen(rank, path, matrix, kernel.shape, round_to=round_to)
        u, v = factors(path, matrix, number)
        return LowRank(u.reshape(*kernel.shape[:-1], number), v, kernel.ndim - 1, 1, owner)

    def by_axis(path: str, kernel: Array) -> CompressedArray:
        check_axes(path, kernel, "a spatial split", 4)
        height, width, inputs, outputs = kernel.shape
        matrix = jnp.transpose(kernel, (0, 2, 1, 3)).reshape(height * inputs, width * outputs)
        number = ranks.chosen(rank, path, matrix, kernel.shape, round_to=round_to)
        u, v = factors(path, matrix, number)
        right = jnp.moveaxis(v.reshape(number, width, outputs), 0, 1)
        return SpatialLowRank(u.reshape(height, inputs, number), right, owner)

    if split == "channel":
        return factorization(pattern, owner, by_channel, LowRank, always=always)
    return factorization(pattern, owner, by_axis, SpatialLowRank, always=always)


def _metric_of(metric: Mapping[str, Array], path: str, rows: int) -> Array:
    if path not in metric:
        raise ValueError(f"there is no metric for {path}; there are metrics for {', '.join(sorted(metric))}")
    found = jnp.asarray(metric[path])
    if found.shape not in ((rows,), (rows, rows)):
        raise ValueError(f"the metric of {path} has shape {found.shape}; its kernel has {rows} rows")
    diagonal = found if found.ndim == 1 else jnp.diagonal(found)
    if not bool(jnp.all(jnp.isfinite(found))) or not bool(jnp.all(diagonal > 0)):
        raise ValueError(f"the metric of {path} is not finite and positive")
    return found
