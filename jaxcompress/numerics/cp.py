"""Canonical polyadic decomposition by alternating least squares."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxcompress.numerics.precision import largest, widened
from jaxcompress.numerics.tucker import unfolding

_RIDGE = 1e-6  # of the mean diagonal of the normal equations: two components that cancel would make them singular


class Fit(NamedTuple):
    """Holds a factor (size, rank) for every axis, the error they leave, and the largest component over the whole.

    `error` is the norm of what is missed over that of the tensor; `largest` the norm of the largest component over the
    same, which grows without bound where components cancel.
    """

    factors: tuple[Array, ...]
    error: Array
    largest: Array


@partial(jax.jit, static_argnames=("rank", "sweeps"))
def cp(tensor: Array, rank: int, key: Array, sweeps: int = 100) -> Fit:
    """Returns the best fit of `sweeps` of alternating least squares, from normal factors drawn by `key`.

    The tensor is nearly ``sum over r of the outer products of the r-th columns``, of which every axis has its share of
    the norm (Harshman 1970; Carroll & Chang 1970). A sweep that raises the error, as ill-conditioned ones may, is
    passed over: the best factors of all sweeps are returned, in the dtype of the tensor.
    """
    dtype, tensor = tensor.dtype, widened(tensor)
    scale = largest(tensor)
    tensor = tensor / scale  # of which the squares overflow no more
    norm = jnp.linalg.norm(tensor)
    keys = jax.random.split(key, tensor.ndim)
    start = tuple(jax.random.normal(k, (size, rank), tensor.dtype) for k, size in zip(keys, tensor.shape, strict=True))

    def sweep(_: int, state: tuple[tuple[Array, ...], Fit]) -> tuple[tuple[Array, ...], Fit]:
        factors, best = state
        for axis in range(tensor.ndim):
            factors = _solved(tensor, factors, axis)
        factors = _balanced(factors)
        error = jnp.linalg.norm(tensor - composed(factors)) / norm
        better = error < best.error
        kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), factors, best.factors)
        component = jnp.max(jnp.prod(jnp.stack([jnp.linalg.norm(f, axis=0) for f in kept]), axis=0)) / norm
        return factors, Fit(kept, jnp.where(better, error, best.error), component)

    first = Fit(start, jnp.asarray(jnp.inf, tensor.dtype), jnp.asarray(jnp.inf, tensor.dtype))
    fit = lax.fori_loop(0, sweeps, sweep, (start, first))[1]
    share = scale ** (1 / tensor.ndim)
    return fit._replace(factors=tuple((factor * share).astype(dtype) for factor in fit.factors))


def composed(factors: Sequence[Array]) -> Array:
    """Returns the tensor that factors stand for."""
    columns = factors[0]
    for factor in factors[1:-1]:
        columns = _pairs(columns, factor)
    whole = jnp.matmul(columns, factors[-1].T, precision=lax.Precision.HIGHEST)
    return whole.reshape(*(len(factor) for factor in factors))


def _pairs(a: Array, b: Array) -> Array:
    """Returns the products of all pairs of rows, those of `b` running faster (the Khatri-Rao product)."""
    return (a[:, None, :] * b[None, :, :]).reshape(-1, a.shape[1])


def _solved(tensor: Array, factors: tuple[Array, ...], axis: int) -> tuple[Array, ...]:
    """Replaces the factor of one axis by the least-squares solution for the others."""
    others = [factor for i, factor in enumerate(factors) if i != axis]
    gram = jnp.ones((others[0].shape[1],) * 2, tensor.dtype)
    columns = jnp.ones((1, others[0].shape[1]), tensor.dtype)
    for factor in others:
        gram = gram * jnp.matmul(factor.T, factor, precision=lax.Precision.HIGHEST)
        columns = _pairs(columns, factor)
    ridge = _RIDGE * jnp.mean(jnp.diag(gram)) * jnp.eye(len(gram), dtype=tensor.dtype)
    right = jnp.matmul(unfolding(tensor, axis), columns, precision=lax.Precision.HIGHEST)
    solved = jax.scipy.linalg.solve(gram + ridge, right.T, assume_a="pos").T
    return tuple(solved if i == axis else factor for i, factor in enumerate(factors))


def _balanced(factors: tuple[Array, ...]) -> tuple[Array, ...]:
    """Scales the columns so that those of one component are all of the same norm."""
    norms = jnp.stack([jnp.linalg.norm(factor, axis=0) for factor in factors])
    share = jnp.exp(jnp.mean(jnp.log(jnp.maximum(norms, 1e-30)), axis=0))
    scales = share[None, :] / jnp.maximum(norms, 1e-30)
    return tuple(factor * scale[None, :] for factor, scale in zip(factors, scales, strict=True))
