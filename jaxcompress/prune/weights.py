"""The weights that a pattern selects, by path, and the loss as a function of them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import dense
from jaxcompress.paths import Params, rewrite, select

Weights = dict[str, Array]  # path -> dense array
Loss = Callable[[Params], Array]


def check_prunable(path: str, leaf: Any) -> None:
    """Raises ValueError, with the path, for a leaf that is not floating-point."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(f"{path} of dtype {leaf.dtype} cannot be pruned; weights are floating-point")


def weights_of(params: Params, pattern: str) -> Weights:
    """Returns the dense arrays of the leaves that match `pattern`, removed weights as zeros.

    Raises ValueError for a pattern without a match and for leaves that are not floating-point.
    """
    leaves = select(params, pattern)
    for path, leaf in leaves.items():
        check_prunable(path, leaf)
    return {path: jnp.asarray(dense(leaf)) for path, leaf in leaves.items()}


def with_weights(params: Params, pattern: str, weights: Mapping[str, Array]) -> Params:
    """Puts dense arrays in the places of the leaves that match `pattern`."""
    return rewrite(params, pattern, lambda path, _: weights[path])


def gradients(params: Params, pattern: str, loss: Loss) -> Weights:
    """Returns the gradient of ``loss(params)`` by every matched weight, the removed ones too."""
    return jax.grad(lambda weights: loss(with_weights(params, pattern, weights)))(weights_of(params, pattern))
