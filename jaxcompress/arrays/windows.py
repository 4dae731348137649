"""A factor for every axis of a window: what they are called in files, and how they are reversed."""

from collections.abc import Sequence
from typing import Any

from jaxcompress.arrays.base import data_fields
from jaxcompress.arrays.factored import Move
from jaxcompress.coding import Coded

_NAMES = {"window/0": "height", "window/1": "width"}  # in a file, of a window of two axes


def filed(coded: Coded) -> Coded:
    """Returns a leaf laid out with its factors of a window under the names that they have in a file.

    Those of a window of two axes are ``height`` and ``width``, those of others ``window/0`` and so on.
    """
    names = _NAMES if sum(name.startswith("window/") for name in coded.parts) == 2 else {}
    return coded._replace(parts={names.get(name, name): part for name, part in coded.parts.items()})


def of_window(cls: type, parts: dict[str, Any]) -> dict[str, Any]:
    """Returns the data fields of a leaf with a `window` of factors from the parts of a file.

    Raises ValueError if some are missing, or there are others.
    """
    rest = [name for name in data_fields(cls) if name != "window"]
    axes = len(parts) - len(rest)
    names = list(_NAMES.values()) if axes == 2 else [f"window/{i}" for i in range(axes)]
    if axes < 1 or sorted(parts) != sorted([*names, *rest]):
        wanted = ", ".join(["height, width (or window/0, …)", *rest])
        raise ValueError(f"a {cls.__name__} has the parts {wanted}, not {', '.join(parts)}")
    return {"window": tuple(parts[name] for name in names), **{name: parts[name] for name in rest}}


def reversed_factors(factors: tuple[Any, ...], axes: Sequence[int], reverse: Move) -> tuple[Any, ...] | None:
    """Returns the factors with those of some axes of the window reversed; None for other axes."""
    if max(axes) >= len(factors):
        return None
    return tuple(reverse(factor, (0,)) if axis in axes else factor for axis, factor in enumerate(factors))
