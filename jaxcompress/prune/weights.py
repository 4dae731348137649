"""The weights that a pattern selects, by path, and the loss as a function of them."""

from collections.abc import Callable, Mapping

import jax
from jax import Array

from jaxcompress.arrays import dense
from jaxcompress.paths import Params, rewrite, select
from jaxcompress.weights import checked_weight

Weights = dict[str, Array]  # path -> dense array
Loss = Callable[[Params], Array]


def weights_of(params: Params, pattern: str) -> Weights:
    """Returns the dense arrays of the leaves that match `pattern`, removed weights as zeros.

    Raises ValueError for a pattern without a match and for leaves that are not of weights, as `checked_weight` does.
    """
    leaves = select(params, pattern)
    return {path: dense(checked_weight(path, leaf, "pruned")) for path, leaf in leaves.items()}


def with_weights(params: Params, pattern: str, weights: Mapping[str, Array]) -> Params:
    """Puts dense arrays in the places of the leaves that match `pattern`."""
    return rewrite(params, pattern, lambda path, _: weights[path])


def gradients(params: Params, pattern: str, loss: Loss) -> Weights:
    """Returns the gradient of ``loss(params)`` by every matched weight, the removed ones too."""
    return jax.grad(lambda weights: loss(with_weights(params, pattern, weights)))(weights_of(params, pattern))
