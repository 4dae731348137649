"""Finds the channels of a model: the slices of its parameters that live and die together.

A convolution's output channel is a slice of its kernel and bias, of the norm's scale, bias, mean and variance, and of
every kernel that reads it; a residual sum ties channels of several layers. All of that is in the model's jaxpr. Every
axis of every value is given labels, one an entry, and each primitive ties, permutes or joins them (Fang et al. 2023,
arXiv:2301.12900, group by layers and their types; here it is by entries and primitives, so any model will do).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jax.extend import core

from jaxcompress.arrays import densify
from jaxcompress.interpreters.atoms import FIXED, Atoms, Labels, labels_of
from jaxcompress.interpreters.base import evaluate, trace
from jaxcompress.interpreters.labels import reading
from jaxcompress.paths import Params, flatten

Split = Literal["first", "last"]


class Member(NamedTuple):
    """Names the slices of one parameter that belong to a group: row c of `indices` are channel c's along `axis`."""

    path: str
    axis: int
    indices: np.ndarray


class Group(NamedTuple):
    """Lists what the channels of a group consist of; all of its channels are alike."""

    members: tuple[Member, ...]

    @property
    def channels(self) -> int:
        """The number of channels."""
        return len(self.members[0].indices)

    @property
    def name(self) -> str:
        """The path of the first parameter of which a channel is a slice, and the axis."""
        return f"{self.members[0].path}:{self.members[0].axis}"


class Channels(NamedTuple):
    """Holds the groups of a model, and by primitive how often channels were pinned since it has no rule."""

    groups: tuple[Group, ...]
    pinned: dict[str, int]


def channels(apply: Callable[..., Any], params: Params, *example: Any, split: Split = "first") -> Channels:
    """Finds the groups of coupled channels of ``apply(params, *example)``.

    `params` is all that the model is made of, batch statistics included; `example` are arrays or
    `jax.ShapeDtypeStruct`s. What reaches the inputs or the outputs is no channel, and neither is what meets an
    operation without a rule: it is pinned, never cut wrongly, and the operation is reported. Where a reshape takes an
    axis apart (into heads and their dimensions) the channels are the `first` or the `last` of its parts, each taken
    whole. A parameter that the model does not use has no channels. Compressed leaves stand for the dense arrays that
    they mean. Raises ValueError for another `split`.
    """
    if split not in ("first", "last"):
        raise ValueError(f"split {split!r} is not 'first' or 'last'")
    params = densify(params)
    program, atoms, pinned = trace(apply, (params, *example), {}), Atoms(), defaultdict(int)
    paths = list(flatten(params))
    used = {id(atom) for equation in program.closed.jaxpr.eqns for atom in equation.invars}
    labels = [
        atoms.new(np.shape(value)) if id(var) in used else Labels.fixed(np.shape(value))
        for var, value in zip(program.closed.jaxpr.invars[: len(paths)], program.values, strict=False)
    ]
    given = [Labels.fixed(np.shape(value)) for value in program.values[len(paths) :]]
    for out in _read(program.closed, [*labels, *given], atoms, split, pinned):
        atoms.fix(out)
    return Channels(_groups(atoms, dict(zip(paths, labels, strict=True))), dict(pinned))


def _read(
    closed: core.ClosedJaxpr, values: Sequence[Labels], atoms: Atoms, split: Split, pinned: dict[str, int]
) -> list[Labels]:
    return [labels_of(out) for out in evaluate(reading(atoms, split, pinned), closed, values)]


def _groups(atoms: Atoms, labels: dict[str, Labels]) -> tuple[Group, ...]:
    """Gathers the entries of each channel, and the channels that are alike."""
    entries: dict[int, dict[tuple[str, int], list[int]]] = defaultdict(lambda: defaultdict(list))
    for path, axes in labels.items():
        for axis, along in enumerate(axes):
            for index, atom in enumerate(along.tolist()):
                root = atoms.root(atom) if atom > FIXED else FIXED
                if root > FIXED:
                    entries[root][path, axis].append(index)
    alike: dict[Any, list[dict[tuple[str, int], list[int]]]] = defaultdict(list)
    for channel in entries.values():
        alike[tuple((place, len(indices)) for place, indices in channel.items())].append(channel)
    return tuple(
        Group(
            tuple(
                Member(path, axis, np.array([channel[path, axis] for channel in found])) for (path, axis), _ in places
            )
        )
        for places, found in alike.items()
    )
