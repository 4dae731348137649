"""The optimiser's state of weights that are removed."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import Masked, is_compressed
from jaxcompress.paths import Params, flatten, path_text


def mask_moments(opt_state: Any, params: Params) -> Any:
    """Sets the optimiser's state of every removed weight of `params` to zero.

    `opt_state` is any optax state of the trained part of `params`, as `partition` gives it. Its arrays whose path ends
    in that of a masked weight, and that have its shape, are moments of that weight: of Adam, of momentum, and what
    wraps them. Called after every update of the masks, weights that return start with moments of zero, as those that
    RigL grows (Evci et al. 2020, arXiv:1911.11134) and those of a dense phase of AC/DC.
    """
    masks = _masks(params)

    def visit(keys: tuple[Any, ...], state: Any) -> Any:
        path = path_text(keys)
        while path not in masks and "/" in path:
            path = path.partition("/")[2]
        mask = masks.get(path)
        if mask is None or jnp.shape(state) != mask.shape:
            return state
        return jnp.where(mask, state, jnp.zeros_like(state))

    return jax.tree_util.tree_map_with_path(visit, opt_state)


def _masks(params: Params) -> dict[str, Array | None]:
    """Lists, by the path of each trained array, where it is in use; None for one that has no mask."""
    found: dict[str, Array | None] = {}

    def visit(path: str, leaf: Any, mask: Array | None) -> Any:
        if isinstance(leaf, Masked):
            mask = leaf.mask if mask is None else mask & leaf.mask
        if is_compressed(leaf):
            # Other fields than the weight (factors, steps) have no place that the mask removes.
            leaf.map_arrays(lambda field, inner: visit(f"{path}/{field}", inner, mask if field == "weight" else None))
        else:
            found[path] = mask
        return leaf

    for path, leaf in flatten(params).items():
        visit(path, leaf, None)
    return found
