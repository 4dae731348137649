"""Tensor-train decomposition by one singular value decomposition after the other."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from jaxcompress.numerics.precision import widened


def tensor_train(tensor: Array, rank: Callable[[Array, int], int]) -> list[Array]:
    """Returns a core (rank before, size, rank after) for every axis, whose product is near the tensor.

    ``rank(matrix, place)`` gives the rank after the core of that place, from 1 to the full one of the matrix that is
    left to factor there. The squared error is at most the sum of the squared singular values left out in all places
    (Oseledets 2011, SIAM J. Sci. Comput. 33, TT-SVD, theorem 2.2).
    """
    cores, left = [], widened(tensor)[None]
    for place, size in enumerate(tensor.shape[:-1]):
        matrix = left.reshape(left.shape[0] * size, -1)
        number = rank(matrix, place)
        u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
        cores.append(u[:, :number].reshape(-1, size, number).astype(tensor.dtype))
        left = s[:number, None] * vt[:number]
    cores.append(left.reshape(-1, tensor.shape[-1], 1).astype(tensor.dtype))
    return cores
