"""Truncated singular value decomposition of dense kernels and of convolutions."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from jaxcompress.arrays import CompressedArray, LowRank
from jaxcompress.arrays.low_rank import matrix_shape
from jaxcompress.numerics.factors import energy_rank, truncated_svd
from jaxcompress.paths import rewrite
from jaxcompress.transform import Transform, identity_update, owned


def svd(
    pattern: str,
    rank: int | None = None,
    *,
    energy: float | None = None,
    name: str | None = None,
) -> Transform:
    """Replaces the matched kernels by two thin factors, which then run and train in its place.

    A kernel (in, out) becomes (in, rank) and (rank, out); a convolution (height, width, in, out) becomes a convolution
    to `rank` channels and a 1x1 convolution (Zhang et al. 2016, arXiv:1505.06798, without its response
    reconstruction). Either `rank`, from 1 to the full rank, or `energy`, the fraction in (0, 1] of the squared singular
    values to keep, is given.

    Raises ValueError for both or neither, values out of range, and, from `init`, for a rank above the full one, a leaf
    that is not a kernel or already compressed (factorize first, then mask or quantize the factors ``…/u`` and ``…/v``),
    non-finite weights, and a pattern without a match; TypeError if `init` is traced, since a rank is a shape.
    """
    if (rank is None) == (energy is None):
        raise ValueError(f"svd of {pattern!r} takes either rank or energy, not rank={rank!r} and energy={energy!r}")
    if rank is not None and not (isinstance(rank, int) and rank >= 1):
        raise ValueError(f"rank {rank!r} for pattern {pattern!r} is not an integer of at least 1")
    if energy is not None and not 0 < energy <= 1:
        raise ValueError(f"energy {energy!r} for pattern {pattern!r} is not a fraction in (0, 1]")
    owner = name or f"svd[{pattern}]"

    def factor(path: str, leaf: Any) -> Any:
        if owned(leaf, owner):
            return leaf
        _check(path, leaf)
        matrix = leaf.reshape(matrix_shape(leaf.shape, leaf.ndim - 1))
        full = min(matrix.shape)
        if rank is not None and rank > full:
            raise ValueError(f"rank {rank} is above the full rank {full} of {path}, shape {leaf.shape}")
        return _factors(leaf, energy_rank(matrix, energy) if energy is not None else rank or full, owner)

    return Transform((owner,), lambda params: rewrite(params, pattern, factor), identity_update)


def _factors(kernel: Array, rank: int, owner: str) -> LowRank:
    u, v = truncated_svd(kernel.reshape(matrix_shape(kernel.shape, kernel.ndim - 1)), rank)
    return LowRank(u.reshape(*kernel.shape[:-1], rank), v, kernel.ndim - 1, 1, owner)


def _check(path: str, leaf: Any) -> None:
    if isinstance(leaf, CompressedArray):
        raise ValueError(
            f"{path} is already {type(leaf).__name__}; factorize first, then mask or quantize {path}/u and {path}/v"
        )
    if isinstance(leaf, Tracer):
        raise TypeError(f"{path} is traced; factorize outside jit, since the rank decides shapes")
    if leaf.ndim < 2:
        raise ValueError(f"{path} has shape {leaf.shape}; a factorization needs a kernel of at least two axes")
    if not bool(jnp.all(jnp.isfinite(leaf))):
        raise ValueError(f"{path} holds values that are not finite and cannot be factorized")
