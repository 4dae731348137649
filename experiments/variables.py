"""The variables of a Linen model as the one tree of a run: its weights and, beside them, its running statistics."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxcompress.arrays import Sliced, is_compressed, sliced
from jaxcompress.paths import Params

STATISTICS = "batch_stats"  # Linen's collection of them, and their key in a run's parameters
RANGES = "ranges"  # the key of the trained ranges of activations


def joined(variables: Mapping[str, Any]) -> Params:
    """Returns the parameters of a run from what ``module.init`` returned."""
    return variables["params"] | {name: tree for name, tree in variables.items() if name == STATISTICS}


def split(params: Params) -> tuple[Params, Params]:
    """Returns the weights, and ``{"batch_stats": ...}``, which is empty for a model without batch normalization.

    Only the weights are for recipes and optimisers: running statistics are moved by the batches of training.
    """
    weights = {name: tree for name, tree in params.items() if name != STATISTICS}
    return weights, {name: tree for name, tree in params.items() if name == STATISTICS}


def variables(params: Params) -> dict[str, Any]:
    """Returns the parameters of a run as ``module.apply`` takes them."""
    weights, statistics = split(without_ranges(params))
    return {"params": weights, **statistics}


def without_ranges(params: Params) -> Params:
    """Returns the parameters of a run but for the ranges of its activations."""
    return {name: tree for name, tree in params.items() if name != RANGES}


def cut_like(statistics: Params, before: Params) -> Params:
    """Removes from the statistics that a model returns, of full shapes, the channels that those before lack."""

    def cut(old: Any, new: Any) -> Any:
        return replace(old, weight=sliced(new, old.keep).weight) if isinstance(old, Sliced) else new

    return jax.tree.map(cut, before, statistics, is_leaf=is_compressed)


def on_weights(function: Callable[[Params], Params], params: Params) -> Params:
    """Replaces the weights among the parameters of a run by what `function` makes of them."""
    weights, statistics = split(params)
    return function(weights) | statistics


def digest(params: Any) -> str:
    """Returns the SHA-256 over the bits of all arrays of a tree."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        total.update(np.asarray(leaf).tobytes())
    return total.hexdigest()
