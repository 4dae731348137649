"""Sums of Kronecker products for dense kernels and convolutions."""

from jax import Array

from jaxcompress.arrays import CompressedArray, Kronecker
from jaxcompress.factorize import ranks
from jaxcompress.factorize.factoring import factorization
from jaxcompress.numerics import kronecker as numerics
from jaxcompress.transform import Transform


def kronecker(
    pattern: str,
    left: tuple[int, int],
    rank: ranks.Rank = 1,
    *,
    always: bool = False,
    name: str | None = None,
) -> Transform:
    """Replaces the matched kernels by the nearest sums of `rank` Kronecker products.

    `left` is the shape (inputs, outputs) of the first factors, which must divide those of the kernel; the second have
    the rest, and the window of a convolution (Van Loan & Pitsianis 1993; Hameed et al. 2022, arXiv:2109.14710). `rank`
    is a number, a table by path or a rule, asked about the matrix in which a product is of rank one.

    Factors that would hold more weights than the kernel are declined, with a `Declined` warning, unless `always`.
    Raises ValueError for a shape below 1, and, from `init`, for one that does not divide the kernel's, and as `svd`
    does.
    """
    if len(left) != 2 or min(left) < 1:
        raise ValueError(f"left {left} for pattern {pattern!r} is not a shape (inputs, outputs) of at least 1")
    rank = ranks.given("kronecker", pattern, rank, None)
    owner = name or f"kronecker[{pattern}]"

    def factors(path: str, kernel: Array) -> CompressedArray:
        if kernel.shape[-2] % left[0] or kernel.shape[-1] % left[1]:
            raise ValueError(f"left {left} does not divide the inputs and outputs of {path}, shape {kernel.shape}")
        number = ranks.chosen(rank, path, numerics.rearranged(kernel, left), kernel.shape)
        return Kronecker(*numerics.kronecker(kernel, left, number), owner)

    return factorization(pattern, owner, factors, Kronecker, always=always)
