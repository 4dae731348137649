"""Sums of Kronecker products for dense kernels and convolutions."""

from jax import Array

from jaxcompress.arrays import Factored, Kronecker
from jaxcompress.factorize import layouts, ranks
from jaxcompress.factorize.factoring import check_groups, factorization
from jaxcompress.interpreters.axes import Axes
from jaxcompress.numerics import kronecker as numerics
from jaxcompress.transform import Transform


def kronecker(
    pattern: str,
    left: tuple[int, int],
    rank: ranks.Rank = 1,
    *,
    axes: layouts.Layout = None,
    always: bool = False,
    name: str | None = None,
) -> Transform:
    """Replaces the matched kernels by the nearest sums of `rank` Kronecker products.

    `left` is the shape (inputs, outputs) of the first factors, which must divide those of the kernel; the second have
    the rest, and the window of a convolution (Van Loan & Pitsianis 1993; Hameed et al. 2022, arXiv:2109.14710). `rank`
    is a number, a table by path or a rule, asked about the matrix in which a product is of rank one. `axes` are those
    of `svd`.

    Factors that would hold more weights than the kernel are declined, with a `Declined` warning, unless `always`.
    Raises ValueError for a shape below 1, and, from `init`, for one that does not divide the kernel's, for kernels of
    grouped convolutions where `axes` tell, and as `svd` does.
    """
    if len(left) != 2 or min(left) < 1:
        raise ValueError(f"left {left} for pattern {pattern!r} is not a shape (inputs, outputs) of at least 1")
    rank = ranks.given("kronecker", pattern, rank, None)
    owner = name or f"kronecker[{pattern}]"

    def factors(path: str, layers: Array, own: Axes) -> list[Factored]:
        check_groups(path, own, "a Kronecker product")
        shape = layers.shape[1:]
        if shape[-2] % left[0] or shape[-1] % left[1]:
            raise ValueError(f"left {left} does not divide the inputs and outputs of {path}, shape {shape}")
        number = ranks.chosen(rank, path, [numerics.rearranged(layer, left) for layer in layers], shape)
        return [Kronecker(*numerics.kronecker(layer, left, number), owner) for layer in layers]

    return factorization(pattern, owner, factors, Kronecker, always=always, axes=axes)
