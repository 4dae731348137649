"""Parameter trees as a packed file holds them: nested dicts with text keys, and arrays that lose no bit."""

import unicodedata
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, tree_flatten_with_path, treedef_is_leaf

from jaxcompress import arrays
from jaxcompress.arrays import is_compressed
from jaxcompress.paths import Params, flatten, path_text

MOST_KEYS = 64  # in the path of a leaf

# Controls, halves of surrogate pairs, and ends of lines: what would change the screen that a path is printed on, or
# has no place in UTF-8.
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")


def packed_tree(params: Params) -> dict[str, Any]:
    """Returns the tree that a file holds: nested dicts with text keys, and every leaf in its storage form.

    Any mapping of mappings is such a tree. Keys of mappings other than a dict, as an ``nnx.State`` or a ``FrozenDict``,
    may be integers, which become text; a node of one attribute, as the variables in an ``nnx.State``, is what it holds.
    None and empty mappings hold nothing and are left out. Raises ValueError, with the path, for other trees, for keys
    and depths that `check_path` refuses, for two keys of the same text, and for numbers that JAX would narrow: int64
    and float64 without ``jax_enable_x64`` where the narrower type does not hold every value.
    """
    if is_compressed(params) or not isinstance(params, Mapping):
        raise ValueError(f"a {type(params).__name__}: a packed tree is nested dicts with text keys")
    return _plain(params, ())


def check_path(keys: tuple[str, ...]) -> None:
    """Raises ValueError for the path of a leaf that is empty, too long, or would not print as it is.

    It has at most 64 keys, none of which holds control characters, surrogates or ends of lines.
    """
    if not keys:
        raise ValueError("a leaf has no path")
    if len(keys) > MOST_KEYS:
        raise ValueError(f"the path {ascii('/'.join(keys[:3]))}… has more than {MOST_KEYS} keys")
    for key in keys:
        if any(unicodedata.category(character) in _UNPRINTABLE for character in key):
            raise ValueError(f"the key {ascii(key)} holds a control character or half of a surrogate pair")


def check_same(stored: Params, restored: Params) -> None:
    """Raises ValueError, with the path, where what was read back differs in a bit from what was stored."""
    ours, theirs = flatten(stored), flatten(restored)
    if list(ours) != list(theirs):
        raise ValueError(f"the paths {list(theirs)} would be read where {list(ours)} were written")
    for path, leaf in ours.items():
        parts, others = jax.tree.leaves(leaf), jax.tree.leaves(theirs[path])
        same = jax.tree.structure(leaf) == jax.tree.structure(theirs[path])
        if not same or not all(map(_same_bits, parts, others)):
            raise ValueError(f"{path} would not be read as it was written: {type(theirs[path]).__name__}")


def _same_bits(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _plain(tree: Mapping[Any, Any], above: tuple[str, ...]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, node in tree.items():
        if not isinstance(key, str) and (isinstance(tree, dict) or type(key) is not int):
            raise ValueError(f"{'/'.join((*above, repr(key)))}: a packed tree is nested dicts with text keys")
        path = (*above, str(key))
        check_path(path)
        if str(key) in plain:
            raise ValueError(f"{'/'.join(path)}: two keys of a mapping are the same text")
        node = _unwrapped(node)
        if isinstance(node, Mapping):
            children = _plain(node, path)
            if children:
                plain[str(key)] = children
        elif node is not None:
            plain[str(key)] = _leaf("/".join(path), node)
    return plain


def _unwrapped(node: Any) -> Any:
    """Returns what a node of one attribute holds, and anything else as it is."""
    while not (is_compressed(node) or isinstance(node, Mapping | tuple)):
        inside, _ = tree_flatten_with_path(node, is_leaf=lambda below, node=node: below is not node)
        if len(inside) != 1 or len(inside[0][0]) != 1 or not isinstance(inside[0][0][0], GetAttrKey):
            break
        node = inside[0][1]
    return node


def _leaf(path: str, leaf: Any) -> Any:
    if not is_compressed(leaf) and not treedef_is_leaf(jax.tree.structure(leaf)):
        raise ValueError(f"{path}: a packed tree is nested dicts with text keys, and this is a {type(leaf).__name__}")
    for keys, part in tree_flatten_with_path(leaf)[0]:
        _check_whole("/".join(filter(None, (path, path_text(keys)))), part)
    try:
        return arrays.pack(leaf)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_whole(path: str, part: Any) -> None:
    """Raises ValueError for what JAX cannot hold, or not without losing bits."""
    if isinstance(part, jax.Array):
        return
    try:
        with np.errstate(all="ignore"):  # what overflows is found below
            given, held = np.asarray(part), jnp.asarray(part)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: a {type(part).__name__} is no array of numbers: {error}") from error
    if given.dtype != held.dtype and not _holds(np.asarray(held), given):
        raise ValueError(
            f"{path} of dtype {given.dtype} holds values that {held.dtype} does not, and without jax_enable_x64 would"
            f" be narrowed; make it an array of dtype {held.dtype} first"
        )


def _holds(narrow: np.ndarray, wide: np.ndarray) -> bool:
    return np.array_equal(narrow.astype(wide.dtype), wide, equal_nan=wide.dtype.kind in "fc")
