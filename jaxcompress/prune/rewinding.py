"""Lottery tickets: the weights of an earlier step under the masks of a later one."""

from dataclasses import replace
from typing import Any

import jax
from jax import Array

from jaxcompress.arrays import Masked, is_compressed
from jaxcompress.paths import Params, flatten, path_text


def rewind(params: Params, initial: Params) -> Params:
    """Puts the weights of `initial` under the masks of `params`: a ticket (Frankle & Carbin 2019, arXiv:1803.03635).

    `initial` is the tree before the masks, of step 0 or of a later one (Frankle et al. 2020, arXiv:1912.05671), or an
    earlier tree with masks, whose own masks are put aside. Every leaf is rewound, those without a mask too. With newly
    drawn weights for `initial` it is the control of random reinitialization.

    Raises ValueError for a leaf that `initial` lacks or has in another shape or dtype, and for one that is compressed
    by anything but masks.
    """
    earlier = flatten(initial)

    def visit(keys: tuple[Any, ...], leaf: Any) -> Any:
        path = path_text(keys)
        if path not in earlier:
            raise ValueError(f"{path} is not among what is rewound to: {', '.join(earlier)}")
        before, now = _weight(path, earlier[path]), _weight(path, leaf)
        if (before.shape, before.dtype) != (now.shape, now.dtype):
            raise ValueError(
                f"{path} is {now.dtype} {now.shape} and cannot be rewound to {before.dtype} {before.shape}"
            )
        return _under_masks(leaf, before)

    return jax.tree_util.tree_map_with_path(visit, params, is_leaf=is_compressed)


def shuffle_masks(params: Params, key: Array) -> Params:
    """Permutes each mask of `params` at random: the control that keeps the sparsity of a layer but not the places."""
    masks = iter(range(len(jax.tree.leaves(params))))

    def visit(leaf: Any) -> Any:
        if not is_compressed(leaf):
            return leaf
        leaf = leaf.map_arrays(lambda _, inner: visit(inner))
        if not isinstance(leaf, Masked):
            return leaf
        drawn = jax.random.permutation(jax.random.fold_in(key, next(masks)), leaf.mask.reshape(-1))
        return replace(leaf, mask=drawn.reshape(leaf.mask.shape))

    return jax.tree.map(visit, params, is_leaf=is_compressed)


def _weight(path: str, leaf: Any) -> Array:
    while isinstance(leaf, Masked):
        leaf = leaf.weight
    if is_compressed(leaf):
        raise ValueError(f"{path} is {type(leaf).__name__} below its masks; only masked arrays can be rewound")
    return leaf


def _under_masks(leaf: Any, weight: Array) -> Any:
    return replace(leaf, weight=_under_masks(leaf.weight, weight)) if isinstance(leaf, Masked) else weight
