"""Tucker decomposition: a small core and an orthogonal factor for each of some axes."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxcompress.numerics.precision import largest, widened


def unfolding(tensor: Array, axis: int) -> Array:
    """Returns the tensor as a matrix whose rows are the entries of `axis`."""
    return jnp.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1)


@partial(jax.jit, static_argnames=("axes", "ranks", "sweeps"))
def tucker(
    tensor: Array, axes: tuple[int, ...], ranks: tuple[int, ...], sweeps: int = 2
) -> tuple[Array, tuple[Array, ...]]:
    """Returns a core and, for each of `axes`, a factor (size, rank) with orthonormal columns.

    The core has the ranks along these axes and the sizes of `tensor` along the others; multiplied by the factors it is
    near the tensor, and all are of its dtype. Truncated higher-order SVD (De Lathauwer et al. 2000), then `sweeps` of
    orthogonal iteration (HOOI), which never raise the error. The singular vectors are the eigenvectors of the matrix
    times its transpose, which squares its condition: fine for the leading ones, which are all that is kept.
    """
    dtype, tensor = tensor.dtype, widened(tensor)
    scale = largest(tensor)
    tensor = tensor / scale  # of which the squares overflow no more
    factors = [_leading(unfolding(tensor, axis), rank) for axis, rank in zip(axes, ranks, strict=True)]
    for _ in range(sweeps):
        for i, axis in enumerate(axes):
            projected = _projected(tensor, axes, factors, without=i)
            factors[i] = _leading(unfolding(projected, axis), ranks[i])
    core = _projected(tensor, axes, factors) * scale
    return core.astype(dtype), tuple(factor.astype(dtype) for factor in factors)


def _projected(tensor: Array, axes: Sequence[int], factors: Sequence[Array], without: int | None = None) -> Array:
    """Multiplies the tensor along each axis by the transpose of its factor, but for one."""
    for i, (axis, factor) in enumerate(zip(axes, factors, strict=True)):
        if i != without:
            moved = jnp.tensordot(tensor, factor, ((axis,), (0,)), precision=lax.Precision.HIGHEST)
            tensor = jnp.moveaxis(moved, -1, axis)
    return tensor


def _leading(matrix: Array, rank: int) -> Array:
    """Returns the `rank` leading left singular vectors of a matrix, as columns, largest first."""
    _, vectors = jnp.linalg.eigh(jnp.matmul(matrix, matrix.T, precision=lax.Precision.HIGHEST))
    return vectors[:, ::-1][:, :rank]
