"""Names the leaves of a parameter tree and rewrites those that a pattern selects.

The path of a leaf is its keys joined by ``/`` (``conv1/kernel``). Inside a compressed leaf the path goes on with the
names of its fields (``conv1/kernel/u``), so that a pattern reaches into the factors of a factorized weight, but not
into what no training moves: masks, codes and scales. What is
left of a `Sliced` weight has the path of the whole; `Zeros`, of which nothing is left, are selected by no pattern.
"""

import difflib
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax

from jaxcompress.arrays import CompressedArray, Sliced, Zeros, data_fields, field_kinds, is_compressed

Params = Any  # a pytree of arrays and CompressedArrays


def path_text(keys: tuple[Any, ...]) -> str:
    """Prints a JAX key path as ``conv1/kernel``.

    The attribute ``value`` of a box around an array, such as the variables in an `nnx.State`, is left out.
    """
    keys = tuple(key for key in keys if key != jax.tree_util.GetAttrKey("value"))
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def flatten(params: Params) -> dict[str, Any]:
    """Lists the leaves of `params` by path; a compressed leaf is one entry."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_compressed)
    return {path_text(keys): leaf for keys, leaf in leaves}


def names(params: Params) -> list[str]:
    """Lists every path that a pattern may select: leaves, and the arrays inside compressed leaves that are trained."""
    found: list[str] = []

    def visit(path: str, leaf: Any) -> Any:
        if isinstance(leaf, Zeros):
            return leaf
        if isinstance(leaf, Sliced):
            return visit(path, leaf.weight)
        found.append(path)
        if isinstance(leaf, CompressedArray):
            _map_trained(leaf, lambda field, inner: visit(f"{path}/{field}", inner))
        return leaf

    for path, leaf in flatten(params).items():
        visit(path, leaf)
    return found


def rewrite(params: Params, pattern: str, function: Callable[[str, Any], Any]) -> Params:
    """Replaces each leaf whose path matches `pattern` by ``function(path, leaf)``.

    `pattern` is a regular expression that must match the whole path (`re.fullmatch`). The outermost match wins: a leaf
    that was handed to `function` is not searched again for matches inside it. Of a `Sliced` leaf `function` gets what
    is left, and what it makes of that stays inside. Fields that no training moves (masks, codes, scales) are not
    searched.

    Raises ValueError if `pattern` is not a regular expression or matches nothing; the message lists the paths. Also
    where `function` makes a compressed leaf inside another that takes an array alone, such as of centroids or steps.
    """
    selects = compiled(pattern)
    matched = False

    def visit(path: str, leaf: Any) -> Any:
        nonlocal matched
        if isinstance(leaf, Zeros):
            return leaf
        if isinstance(leaf, Sliced):
            return replace(leaf, weight=visit(path, leaf.weight))
        if selects.fullmatch(path):
            matched = True
            return function(path, leaf)
        if isinstance(leaf, CompressedArray):
            return _map_trained(leaf, lambda field, inner: _fitting(leaf, field, visit(f"{path}/{field}", inner), path))
        return leaf

    rewritten = jax.tree_util.tree_map_with_path(
        lambda keys, leaf: visit(path_text(keys), leaf), params, is_leaf=is_compressed
    )
    if not matched:
        raise ValueError(_no_match(pattern, names(params)))
    return rewritten


def select(params: Params, pattern: str) -> dict[str, Any]:
    """Lists the leaves whose path matches `pattern`, by path; raises as `rewrite` does."""
    found: dict[str, Any] = {}

    def keep(path: str, leaf: Any) -> Any:
        found[path] = leaf
        return leaf

    rewrite(params, pattern, keep)
    return found


def replaced(params: Params, leaves: Mapping[str, Any]) -> Params:
    """Puts other leaves in the places of those at the paths given; raises ValueError for a path that is not there."""
    missing = sorted(leaves.keys() - flatten(params).keys())
    if missing:
        raise ValueError(f"there is no parameter {missing[0]!r}{did_you_mean(missing[0], list(flatten(params)))}")
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: leaves.get(path_text(keys), leaf), params, is_leaf=is_compressed
    )


def named_key(key: jax.Array, name: str) -> jax.Array:
    """Returns the random key that belongs to `name` (the path of a leaf, a purpose), independent of all others."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def did_you_mean(word: str, allowed: list[str]) -> str:
    """Returns `` (did you mean 'x'?)`` for the closest of `allowed`, or nothing when none is close."""
    close = difflib.get_close_matches(word, allowed, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def compiled(pattern: str) -> re.Pattern[str]:
    """Compiles a pattern; raises ValueError if it is not a regular expression."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern {pattern!r} is not a regular expression: {error}") from error


def _map_trained(leaf: CompressedArray, function: Callable[[str, Any], Any]) -> CompressedArray:
    """Replaces the data fields of a leaf as `map_arrays` does, but those that are fixed."""
    fixed = data_fields(type(leaf))
    return leaf.map_arrays(lambda field, inner: inner if fixed[field.partition("/")[0]] else function(field, inner))


def _fitting(leaf: CompressedArray, field: str, part: Any, path: str) -> Any:
    """Returns what is to stand in a field of a leaf; raises ValueError if it is compressed and the field takes none."""
    kinds = field_kinds(type(leaf))[field.partition("/")[0]]
    if isinstance(part, CompressedArray) and not isinstance(part, kinds):
        raise ValueError(
            f"{path}/{field} stands in a {type(leaf).__name__}, which takes no {type(part).__name__} there"
        )
    return part


def _no_match(pattern: str, paths: list[str]) -> str:
    listed = "\n  ".join(paths) or "(the tree is empty)"
    return f"pattern {pattern!r} matches no parameter{did_you_mean(pattern, paths)}; there are:\n  {listed}"
