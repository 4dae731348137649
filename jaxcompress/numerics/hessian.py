"""The trace of a Hessian that is never formed, by Hutchinson's estimator."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Tree = Any  # a pytree of floating-point arrays


def rademacher(tree: Tree, key: Array) -> Tree:
    """Draws +1 or -1, equally likely and independent, for every entry of the arrays of `tree`."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.rademacher(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def quadratic_forms(function: Callable[[Tree], Array], point: Tree, key: Array) -> Tree:
    """Returns ``sum(v * (H @ v))`` over each array of `point`, H the Hessian of the scalar `function`, v `rademacher`.

    The expectation of each is the trace of the block of H that belongs to its array (Hutchinson 1990; Dong et al. 2020,
    arXiv:1911.03852, section 2.2). ``H @ v`` is the derivative of the gradient along v, so that one pass serves all
    arrays; what other arrays add to it has the mean zero. Its variance is twice the sum of the squares off the diagonal
    of the block, plus the squares of H between this array and the others; a diagonal H is exact.
    """
    direction = rademacher(point, key)
    _, product = jax.jvp(jax.grad(function), (point,), (direction,))
    return jax.tree.map(lambda v, hv: jnp.sum((v * hv).astype(jnp.float32)), direction, product)
