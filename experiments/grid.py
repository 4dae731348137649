"""The points of a sweep: an experiment once for every combination of values along some axes."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import yaml

from experiments import config
from experiments.config import Place
from jaxcompress.paths import did_you_mean


class Axis(NamedTuple):
    """Holds the values of one setting: `key` is the name of a field, or the way to it with points between."""

    key: str
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> "Axis":
        """Reads an axis: ``key=a,b,c``, ``key=first:end`` of integers without the end, ``key=first:last:count``.

        With a count the values lie evenly from the first to the last, both among them, on a logarithmic scale if
        ``:log`` follows. Raises ValueError, naming the text, for any other form and for an axis without values.
        """
        key, sign, listed = text.partition("=")
        if not (key and sign and listed):
            raise ValueError(f"--over {text!r} is not of the form key=first:last:count or key=a,b,c")
        values = _range(text, listed.split(":")) if ":" in listed else list(map(_scalar, listed.split(",")))
        if len(set(map(str, values))) < len(values) or not values:
            raise ValueError(
                f"--over {text!r} has {len(values)} values, {len(set(map(str, values)))} of them different"
            )
        return cls(key, tuple(values))


class Point(NamedTuple):
    """Holds one combination: the `values` by the key of their axis, and the experiment that has them."""

    values: dict[str, Any]
    experiment: config.Experiment

    def __str__(self) -> str:
        return ", ".join(
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in self.values.items()
        )


def points(experiment: config.Experiment, axes: Sequence[Axis]) -> list[Point]:
    """Lists the points of a grid, the last axis running fastest.

    Raises ValueError for a key that names nothing, or that two axes have, and for a value that its field refuses.
    """
    keys = [axis.key for axis in axes]
    found = [places(experiment, key) for key in keys]
    for (first, one), (second, other) in itertools.combinations(zip(keys, found, strict=True), 2):
        if shared := set(one) & set(other):
            raise ValueError(f"--over {first} and {second} both set {written(min(shared, key=str))}")
    made = []
    for values in itertools.product(*(axis.values for axis in axes)):
        plain = config.to_plain(experiment)
        for where, value in zip(found, values, strict=True):
            for place in where:
                _put(plain, place, _fitting(experiment, place, value))
        named = dict(zip(keys, values, strict=True))
        made.append(Point(named, config.structure(plain, config.Experiment, f"--over {named}")))
    return made


def places(experiment: config.Experiment, key: str) -> list[Place]:
    """Lists where an experiment has what a key names, by a field's name alone or by a way with ``*`` for any part.

    A stage may be named by its name. Raises ValueError, with the names there are, if it names nothing.
    """
    every = [place for place, value in config.values(experiment).items() if not isinstance(value, config.Experiment)]
    parts = key.split(".")
    found = [place for place in every if (place[-1] == key if len(parts) == 1 else _matches(experiment, place, parts))]
    if not found:
        names = sorted({str(place[-1]) for place in every})
        raise ValueError(f"--over {key}: there is nothing of that name{did_you_mean(key, names)}; there are {names}")
    return found


def written(place: Place) -> str:
    """Returns the way to a value as text."""
    return ".".join(map(str, place))


def _matches(experiment: config.Experiment, place: Place, parts: Sequence[str]) -> bool:
    if len(place) != len(parts):
        return False
    names = list(map(str, place))
    if place[0] == "stages":
        names[1] = experiment.stages[int(place[1])].name if parts[1] not in ("*", names[1]) else names[1]
    return all(part in ("*", name) for part, name in zip(parts, names, strict=True))


def _fitting(experiment: config.Experiment, place: Place, value: Any) -> Any:
    """Returns a value as the field takes it: a whole number where there are whole numbers."""
    now = config.values(experiment)[place]
    whole = isinstance(now, int) and not isinstance(now, bool)
    if whole and isinstance(value, float) and value != round(value):
        raise ValueError(f"--over {written(place)}: {value:g} is no whole number")
    return round(value) if whole and isinstance(value, float) else value


def _put(plain: Any, place: Place, value: Any) -> None:
    """Sets a value in the plain form of an experiment, where fields that have their default are left out."""
    *way, last = place
    for key in way:
        plain = plain[key] if isinstance(key, int) else plain.setdefault(key, {})
    plain[last] = value


def _scalar(text: str) -> Any:
    value = yaml.safe_load(text)
    try:
        return float(value) if isinstance(value, str) else value  # YAML 1.1 reads 1e-3, without a point, as text
    except ValueError:
        return value


def _range(text: str, parts: Sequence[str]) -> list[Any]:
    try:
        if len(parts) == 2:
            return list(range(int(parts[0]), int(parts[1])))
        first, last, count, *scale = parts
        spaced = {"": np.linspace, "log": np.geomspace}[scale[0] if scale else ""]
        if len(scale) < 2 and int(count) > 0:
            return [float(f"{value:.12g}") for value in spaced(float(first), float(last), int(count))]
    except (ValueError, KeyError):
        pass
    raise ValueError(
        f"--over {text!r}: a range is first:end of integers, or first:last:count, perhaps with :log for one of numbers "
        "above 0"
    )


def shard(points: Sequence[Point], text: str | None) -> list[Point]:
    """Returns the part ``i/n`` of a sweep, every n-th point from the i-th on, counted from 0; all of them without one.

    Raises ValueError for what is no such part.
    """
    if text is None:
        return list(points)
    index, sign, count = text.partition("/")
    if not (sign and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"--shard {text!r} is not of the form i/n with i from 0 to n - 1")
    return list(points[int(index) :: int(count)])
