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
from jaxcompress.prune.optimisers import without_channels

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

    `state` is any tree, such as optax's, that holds trees in the structure of `params`, of its trainable part
    (`jaxcompress.partition`) or of one of its branches, as the collection ``params`` of Linen's variables is. At the
    place of a parameter that is cut these have an array of its shape, which is cut as it is; one number, which stays;
    a list of arrays along its axes (SM3), each of which is cut; or nothing, where a mask of optax left it out. An array
    elsewhere whose path ends with that of a parameter is cut alike. What is kept for what stays is what it was, and the
    optimiser's next update takes it. `params` is the tree as it was before.

    Raises what `remove` does, and ValueError for an array at the place of a cut parameter that has another shape and
    more than one entry, such as the factored second moments of Adafactor or the history of L-BFGS: start these anew.
    """
    masks = _masks(params, channels, kept)
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten(params).items()}
    lost = [path for path, along in masks.items() if not all(stays.all() for stays in along.values())]
    return without_channels(state, params, {path: _entries(masks[path], shapes[path]) for path in lost})


def _by_path(tree: Any, function: Any) -> Any:
    """Replaces leaves by ``function(path, leaf)``."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: function(path_text(keys), leaf), tree, is_leaf=is_compressed
    )


def _cut(path: str, leaf: Any, masks: Mapping[int, np.ndarray], shape: tuple[int, ...]) -> Any:
    try:
        return sliced(leaf, _entries(masks, shape), shape)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _entries(masks: Mapping[int, np.ndarray], shape: tuple[int, ...]) -> list[list[int] | None]:
    """Returns the entries that stay along each axis of `shape`."""
    return [np.flatnonzero(masks[axis]).tolist() if axis in masks else None for axis in range(len(shape))]


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
