"""Removes channels: the slices of weights, statistics and optimiser states that belong to them."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.arrays import Masked, is_compressed, sliced
from jaxcompress.interpreters import Channels
from jaxcompress.paths import Params, flatten, path_text
from jaxcompress.prune.groups import group_of

Kept = Mapping[str | int, Any]  # by a group's name or index, bools [channels] of those that stay

_Masks = dict[str, dict[int, np.ndarray]]  # by path and axis, which entries stay


def remove(params: Params, channels: Channels, kept: Kept) -> Params:
    """Removes channels from all the weights that they are slices of, which become `jaxcompress.arrays.Sliced`.

    `kept` maps a group of `channels`, by its name or its index in ``channels.groups``, to bools [channels]: those that
    stay. Groups that it does not name stay whole. `params` is the tree for which `jaxcompress.channels` was called,
    batch statistics included, or one of the same paths and shapes; its compressed leaves are cut inside. The model as
    `jaxcompress.lift` runs it computes what it computed with zeros in place of all that was removed, faster.

    Normalisations go on to divide by the number of channels that there were: a removed channel counts as a zero in
    their means, as it does when it is masked.

    Raises ValueError for a group that is not there, a name that several groups share, bools of another number, a group
    of which no channel would stay, and parameters that are not those of the channels.
    """
    masks = _masks(params, channels, kept)
    cut = lambda path, leaf: _cut(path, leaf, masks[path], tuple(leaf.shape)) if path in masks else leaf
    return _by_path(params, cut)


def mask(params: Params, channels: Channels, kept: Kept) -> Params:
    """Masks what `remove` removes: the same values in the full shapes, as `jaxcompress.arrays.Masked`.

    Takes and raises what `remove` does.
    """
    masks = _masks(params, channels, kept)

    def masked(path: str, leaf: Any) -> Any:
        found = masks.get(path, {})
        if not any(np.any(~stays) for stays in found.values()):
            return leaf
        whole = np.ones(leaf.shape, bool)
        for axis, stays in found.items():
            whole &= stays.reshape([-1 if i == axis else 1 for i in range(whole.ndim)])
        return Masked(leaf, jnp.asarray(whole))

    return _by_path(params, masked)


def remove_from_state(state: Any, params: Params, channels: Channels, kept: Kept) -> Any:
    """Removes channels from the state of an optimiser, so that training goes on with what `remove` returned.

    `state` is any tree, such as optax's, that holds trees of `params` or of its trainable part
    (`jaxcompress.partition`): an array whose path ends with that of a parameter, and that has its shape, is cut as the
    parameter is. The moments of what stays are what they were. `params` is the tree as it was before.

    Raises what `remove` does, and ValueError for an array at the place of a cut parameter that has another shape and
    more than one entry, such as sums over its rows.
    """
    masks = _masks(params, channels, kept)
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten(params).items()}

    def cut(path: str, leaf: Any) -> Any:
        keys = path.split("/")
        of = next((name for i in range(len(keys)) if (name := "/".join(keys[i:])) in shapes), None)
        if of is None or all(stays.all() for stays in masks.get(of, {}).values()):
            return leaf
        if jax.tree.leaves(leaf) and not is_compressed(leaf) and tuple(np.shape(leaf)) != shapes[of]:
            if np.size(leaf) <= 1:
                return leaf
            raise ValueError(
                f"{path} of shape {np.shape(leaf)} is no slice by slice state of {of} of shape {shapes[of]}"
            )
        return _cut(path, leaf, masks[of], shapes[of])

    return _by_path(state, cut)


def _by_path(tree: Any, function: Any) -> Any:
    """Replaces leaves, and what holds the places of leaves that are elsewhere, by ``function(path, leaf)``."""
    held = lambda node: node is None or (isinstance(node, tuple) and not node) or is_compressed(node)
    return jax.tree_util.tree_map_with_path(lambda keys, leaf: function(path_text(keys), leaf), tree, is_leaf=held)


def _cut(path: str, leaf: Any, masks: Mapping[int, np.ndarray], shape: tuple[int, ...]) -> Any:
    keep = [np.flatnonzero(masks[axis]).tolist() if axis in masks else None for axis in range(len(shape))]
    try:
        return sliced(leaf, keep, shape)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _masks(params: Params, channels: Channels, kept: Kept) -> _Masks:
    """Returns which entries stay, along each axis of each parameter that loses any."""
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten(params).items()}
    masks: _Masks = defaultdict(dict)
    for key, stays in kept.items():
        group = group_of(channels, key)
        stays = np.asarray(stays)
        if stays.dtype != bool or stays.shape != (group.channels,):
            raise ValueError(
                f"kept[{key!r}] must be bools of shape ({group.channels},), one a channel of {group.name}; "
                f"it has shape {stays.shape} and dtype {stays.dtype}"
            )
        if not stays.any():
            raise ValueError(f"kept[{key!r}] would remove all {group.channels} channels of {group.name}")
        for path, axis, indices in group.members:
            shape = shapes.get(path, ())
            if axis >= len(shape) or np.max(indices) >= shape[axis]:
                raise ValueError(f"{path} of shape {shape} is not what the channels of {group.name} are slices of")
            along = masks[path].setdefault(axis, np.ones(shape[axis], bool))
            along[indices[~stays].reshape(-1)] = False
    return masks
