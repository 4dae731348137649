"""The structure of a parameter tree as JSON, beside arrays that are stored elsewhere.

A checkpoint holds arrays; which class stood where, and its static fields, would be lost without this.
"""

from collections.abc import Iterator
from typing import Any

from jaxcompress.arrays.base import CompressedArray, data_fields, kinds, static_fields


def describe(params: Any) -> Any:
    """Writes down the structure of nested dicts of arrays and compressed leaves, in plain JSON types."""
    if isinstance(params, CompressedArray):
        return {
            "kind": type(params).__name__,
            "static": {name: getattr(params, name) for name in static_fields(type(params))},
            "data": {name: describe(getattr(params, name)) for name in data_fields(type(params))},
        }
    if isinstance(params, tuple):
        return {"items": [describe(value) for value in params]}
    if isinstance(params, dict):
        return {"tree": {key: describe(value) for key, value in params.items()}}
    return "array"


def rebuild(description: Any, arrays: list[Any]) -> Any:
    """Builds the tree that was described from its arrays, in the order of `jax.tree.leaves`.

    Raises ValueError if the description is not one, or the number of arrays is another.
    """
    source = iter(arrays)
    params = _rebuild(description, source)
    left = sum(1 for _ in source)
    if left:
        raise ValueError(f"{left} arrays are left over; the description is of another tree")
    return params


def _rebuild(description: Any, source: Iterator[Any]) -> Any:
    match description:
        case "array":
            try:
                return next(source)
            except StopIteration:
                raise ValueError("the description names more arrays than there are") from None
        case {"tree": dict(children)}:
            return {key: _rebuild(children[key], source) for key in sorted(children)}
        case {"items": list(items)}:
            return tuple(_rebuild(item, source) for item in items)
        case {"kind": str(kind), "static": dict(static), "data": dict(data)} if kind in kinds():
            cls = kinds()[kind]
            if set(data) != set(data_fields(cls)) or set(static) != set(static_fields(cls)):
                raise ValueError(f"{sorted([*data, *static])} are not the fields of {kind}")
            fields = {name: _rebuild(data[name], source) for name in data_fields(cls)}
            return cls(**fields, **{name: _as_tuples(value) for name, value in static.items()})
        case _:
            raise ValueError(f"{str(description)[:80]!r} does not describe a tree")


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
