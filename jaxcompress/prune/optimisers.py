"""Removes channels from the states of optimisers.

A state holds trees in the structure of the parameters. At the place of each it may have an array of its shape (a
moment), one number, arrays along its axes (SM3), or nothing (a mask left it out).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.arrays import is_compressed, sliced
from jaxcompress.paths import Params, flatten, path_text

Cuts = Mapping[str, Sequence[Sequence[int] | None]]  # by path, what stays along each axis


def without_channels(state: Any, params: Params, cuts: Cuts) -> Any:
    """Returns the state of an optimiser of the parameters that are left when `params` are cut as `cuts` say."""
    trees = _trees(params)
    leaves = flatten(params)

    def visit(path: str, node: Any) -> Any:
        for tree in trees:
            if (entries := tree.entries(node)) is not None:
                below = [f"{path}/{name}".strip("/") for name in tree.names]
                return tree.structure.unflatten(map(_cut, below, entries, tree.paths, tree.leaves, [cuts] * len(below)))
        found, structure = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda child: child is not node)
        if found and not is_compressed(node) and not jax.tree_util.treedef_is_leaf(structure):
            return structure.unflatten([visit(f"{path}/{path_text(keys)}".strip("/"), child) for keys, child in found])
        keys = path.split("/")
        of = next((name for i in range(len(keys)) if (name := "/".join(keys[i:])) in leaves), None)
        if "" in leaves and np.shape(node) == leaves[""].shape:  # the parameters are one array
            of = ""
        return node if of is None else _cut(path, node, of, leaves[of], cuts)

    return visit("", state)


class _Tree(NamedTuple):
    """Describes a tree of parameters that a state may hold others like: paths are those in all the parameters."""

    structure: Any
    names: list[str]
    paths: list[str]
    leaves: list[Any]

    def entries(self, node: Any) -> list[Any] | None:
        """Returns what a tree has at the places of the parameters; None if it is no such tree."""
        try:
            entries = self.structure.flatten_up_to(node)
        except (ValueError, TypeError, KeyError):
            return None
        return entries if all(map(_belongs, entries, self.leaves)) else None


def _trees(params: Params) -> list[_Tree]:
    """Lists `params` and its branches (collections of variables), of which an optimiser may have got one alone."""
    whole = _tree("", params)
    if jax.tree_util.treedef_is_leaf(whole.structure):
        return []
    branches, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda child: child is not params)
    found = [_tree(path_text(keys), child) for keys, child in branches if not is_compressed(child)]
    found = [tree for tree in found if tree.leaves and not jax.tree_util.treedef_is_leaf(tree.structure)]
    return [whole, *(tree for tree in found if [other.structure for other in found].count(tree.structure) == 1)]


def _tree(path: str, params: Params) -> _Tree:
    leaves = flatten(params)
    paths = [f"{path}/{name}".strip("/") for name in leaves]
    return _Tree(jax.tree.structure(params, is_leaf=is_compressed), list(leaves), paths, list(leaves.values()))


def _belongs(entry: Any, leaf: Any) -> bool:
    """Tells whether something may be the state of one parameter, and is no state of several."""
    if is_compressed(entry) or not jax.tree.leaves(entry):
        return True
    if isinstance(entry, list | tuple) and not hasattr(entry, "_fields"):
        return all(map(_belongs, entry, [leaf] * len(entry)))
    return jax.tree_util.treedef_is_leaf(jax.tree.structure(entry))


def _cut(path: str, entry: Any, of: str, leaf: Any, cuts: Cuts) -> Any:
    """Cuts the state of one parameter, whatever its form, so that it has the structure of what is left of that."""
    if of not in cuts or _left_out(entry):
        return entry
    structure = jax.tree.structure(leaf)
    try:
        parts = structure.flatten_up_to(entry)
    except ValueError as error:
        raise ValueError(f"{path} is no slice by slice state of {of}, a {type(leaf).__name__}: {error}") from error
    shapes = [np.shape(array) for array in jax.tree.leaves(leaf)]
    with jax.ensure_compile_time_eval():
        places = [np.arange(np.prod(shape, dtype=int)).reshape(shape) for shape in shapes]
        left = sliced(structure.unflatten(map(jnp.asarray, places)), cuts[of], leaf.shape)
        arrays, structure = jax.tree.flatten(left)
        keeps = [_keep(np.asarray(array), shape) for array, shape in zip(arrays, shapes, strict=True)]

    def part(value: Any, keep: Sequence[Sequence[int] | None], shape: tuple[int, ...]) -> Any:
        if isinstance(value, list | tuple) and len(value) == len(shape):  # one for each axis
            each = [_along(v, [k], [n]) for v, k, n in zip(value, keep, shape, strict=True)]
            if not any(v is None for v in each):
                return type(value)(each)
        found = value if not jax.tree.leaves(value) else _along(value, keep, shape)
        if found is None and np.size(value) > 1:
            raise ValueError(f"{path} of shape {np.shape(value)} is no slice by slice state of {of} of shape {shape}")
        return value if found is None else found

    return structure.unflatten(map(part, parts, keeps, shapes))


def _left_out(entry: Any) -> bool:
    """Tells whether a mask has left a parameter out, as optax says by an empty tuple of a class of its own."""
    return isinstance(entry, tuple) and not entry and type(entry) is not tuple


def _keep(places: np.ndarray, shape: tuple[int, ...]) -> list[list[int] | None]:
    """Returns what stays along each axis of an array of `shape`, given the places of its entries that do."""
    along = [np.unique(index).tolist() for index in np.unravel_index(places.reshape(-1), shape)] if shape else []
    return [None if len(entries) == n else entries for entries, n in zip(along, shape, strict=True)]


def _along(value: Any, keep: Sequence[Sequence[int] | None], shape: Sequence[int]) -> Any:
    """Returns the entries of an array that stay; along axes of one entry it stands for all. None for another shape."""
    if np.ndim(value) != len(shape) or any(n not in (1, size) for n, size in zip(np.shape(value), shape, strict=True)):
        return None
    for axis, entries in enumerate(keep):
        if entries is not None and value.shape[axis] > 1:
            value = jnp.take(value, np.array(entries), axis=axis, mode="clip")
    return value
