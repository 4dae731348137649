"""Truncated singular value decomposition of dense kernels and of convolutions."""

from jax import Array

from jaxcompress.arrays import CompressedArray, LowRank
from jaxcompress.arrays.low_rank import matrix_shape
from jaxcompress.factorize import ranks
from jaxcompress.factorize.factoring import factorization
from jaxcompress.numerics.factors import truncated_svd
from jaxcompress.transform import Transform


def svd(
    pattern: str,
    rank: ranks.Rank | None = None,
    *,
    energy: float | None = None,
    round_to: int = 1,
    always: bool = False,
    name: str | None = None,
) -> Transform:
    """Replaces the matched kernels by two thin factors, which then run and train in its place.

    A kernel (in, out) becomes (in, rank) and (rank, out); a convolution (height, width, in, out) becomes a convolution
    to `rank` channels and a 1x1 convolution (Zhang et al. 2016, arXiv:1505.06798, without its response
    reconstruction). `rank` is a number from 1 to the full rank, a table of numbers by path, or a rule, such as
    `ratio` and `vbmf`; instead of it `energy`, the fraction in (0, 1] of the squared singular values to keep, stands
    for the rule of that name. Ranks that a rule finds are rounded up to a multiple of `round_to`. Weights drawn at
    random train from factors of the same spectrum so (spectral initialization, Khodak et al. 2021, arXiv:2105.01029).

    Factors that would hold more weights than the kernel are declined, with a `Declined` warning, unless `always`.

    Raises ValueError for both or neither of `rank` and `energy`, values out of range, and, from `init`, for a rank
    above the full one, a leaf that is not a kernel or already compressed (factorize first, then mask or quantize the
    factors ``…/u`` and ``…/v``), non-finite weights, and a pattern without a match; TypeError if `init` is traced,
    since a rank is a shape.
    """
    rank = ranks.given("svd", pattern, rank, energy, round_to)
    owner = name or f"svd[{pattern}]"

    def factors(path: str, kernel: Array) -> CompressedArray:
        matrix = kernel.reshape(matrix_shape(kernel.shape, kernel.ndim - 1))
        number = ranks.chosen(rank, path, matrix, kernel.shape, round_to=round_to)
        u, v = truncated_svd(matrix, number)
        return LowRank(u.reshape(*kernel.shape[:-1], number), v, kernel.ndim - 1, 1, owner)

    return factorization(pattern, owner, factors, LowRank, always=always)
