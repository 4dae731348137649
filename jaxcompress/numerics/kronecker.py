"""The nearest sum of Kronecker products."""

from jax import Array

from jaxcompress.numerics.factors import truncated_svd


def rearranged(matrix: Array, left: tuple[int, int]) -> Array:
    """Returns the matrix in which a Kronecker product, with a first factor of shape `left`, is of rank one.

    `matrix` is (*window, rows, columns); a row of the result is an entry of the first factor, a column one of the
    second (Van Loan & Pitsianis 1993).
    """
    *window, rows, columns = matrix.shape
    split = matrix.reshape(*window, left[0], rows // left[0], left[1], columns // left[1])
    spatial = len(window)
    order = (spatial, spatial + 2, *range(spatial), spatial + 1, spatial + 3)
    return split.transpose(order).reshape(left[0] * left[1], -1)


def kronecker(matrix: Array, left: tuple[int, int], rank: int) -> tuple[Array, Array]:
    """Returns the factors (rank, *left) and (rank, *window, rows, columns) of the nearest sum of `rank` products."""
    *window, rows, columns = matrix.shape
    u, v = truncated_svd(rearranged(matrix, left), rank)
    return u.T.reshape(rank, *left), v.reshape(rank, *window, rows // left[0], columns // left[1])
