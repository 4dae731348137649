"""Where the values of an experiment stand, and what they are to the program that trains its last stage."""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

from experiments.config.experiment import Experiment

Place = tuple[str | int, ...]  # the way from an experiment down to one of its values: names of fields, places in lists


def values(experiment: Experiment) -> dict[Place, Any]:
    """Lists the values of an experiment by their place; experiments within it (teachers, sources) are one each."""
    return {place: value for place, value, _ in _walk(experiment, (), None)}


def roles(experiment: Experiment) -> dict[Place, str | None]:
    """Lists what each value is to the program of the last stage: ``traced``, ``initial``, or None for a part of it.

    What earlier stages do tells only what the last begins with.
    """
    last = len(experiment.stages) - 1
    earlier = lambda place: place[0] == "stages" and place[1] != last
    return {place: "initial" if earlier(place) else role for place, _, role in _walk(experiment, (), None)}


def with_values(node: Any, changes: dict[Place, Any]) -> Any:
    """Returns an experiment, or a part of one, with other values at some places, which are not checked.

    So a value may be traced, or one that was checked before.
    """
    for (key, *rest), value in changes.items():
        if isinstance(node, tuple):
            assert isinstance(key, int)
            child = with_values(node[key], {tuple(rest): value}) if rest else value
            node = (*node[:key], child, *node[key + 1 :])
        else:
            child = with_values(getattr(node, str(key)), {tuple(rest): value}) if rest else value
            node = copy.copy(node)
            object.__setattr__(node, str(key), child)  # frozen, and checked when it was made
    return node


def _walk(node: Any, above: Place, role: str | None) -> Iterator[tuple[Place, Any, str | None]]:
    if dataclasses.is_dataclass(node) and not (above and isinstance(node, Experiment)):
        for field in dataclasses.fields(node):
            yield from _walk(getattr(node, field.name), (*above, field.name), role or field.metadata.get("role"))
    elif isinstance(node, tuple) and any(map(dataclasses.is_dataclass, node)):
        for index, child in enumerate(node):
            yield from _walk(child, (*above, index), role)
    else:
        yield above, node, role
