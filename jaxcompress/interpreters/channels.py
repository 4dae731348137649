"""Finds the channels of a model: the slices of its parameters that live and die together.

A convolution's output channel is a slice of its kernel and bias, of the norm's scale, bias, mean and variance, and of
every kernel that reads it; a residual sum ties channels of several layers. All of that is in the model's jaxpr. Every
axis of every value is given labels, one an entry, and each primitive ties, permutes or joins them (Fang et al. 2023,
arXiv:2301.12900, group by layers and their types; here it is by entries and primitives, so any model will do).
"""

from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxcompress.arrays import Sliced, densify, is_compressed
from jaxcompress.interpreters.atoms import FIXED, Atoms, Axis, Labels, labels_of
from jaxcompress.interpreters.base import Program, evaluate, live, trace
from jaxcompress.interpreters.labels import Splits, reading
from jaxcompress.interpreters.states import last_name, later_states
from jaxcompress.paths import Params, flatten

Split = Literal["first", "last"]


class Member(NamedTuple):
    """Names the slices of one parameter that belong to a group: row c of `indices` are channel c's along `axis`."""

    path: str
    axis: int
    indices: np.ndarray


class Group(NamedTuple):
    """Lists what the channels of a group consist of; all of its channels are alike.

    `summed` tells whether the model sums over them other than in a product, as a normalisation does: a model that is
    built anew with fewer channels then divides by another number than the model of which they are removed. `left` has
    bools [channels], of which those that were removed before are false; it is None where none was.
    """

    members: tuple[Member, ...]
    summed: bool = False
    left: np.ndarray | None = None

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
    operation without a rule: it is pinned, never cut wrongly, and the operation is reported. An output that is a later
    state of a leaf of `params`, as the new statistics of a call in training are, pins nothing: it has the name (the
    last key of its path) and the shape of the leaf, and is computed from it entry by entry. Arrays that the model
    closes over go with the channels that they meet. Where a reshape takes an
    axis apart (into heads and their dimensions) the channels are the `first` or the `last` of its parts that may go,
    each taken whole. A parameter that the model does not use has no channels. Compressed leaves stand for the dense
    arrays that they mean: channels that were removed before are among those of their group, marked as `Group.left`
    says; `jaxcompress.smaller` gives a model without them.

    A normalisation over channels (of layers, of groups) does not pin them: what is removed is a zero in its sums, which
    the model goes on to divide by the number of channels that there were (`Group.summed`). Raises ValueError for
    another `split`.
    """
    if split not in ("first", "last"):
        raise ValueError(f"split {split!r} is not 'first' or 'last'")
    leaves = flatten(params)
    program, splits, paths = trace(apply, (densify(params), *example), {}), Splits(split), list(leaves)
    keys = [keys for keys, _ in jax.tree_util.tree_flatten_with_path(params, is_leaf=is_compressed)[0]]
    states = later_states(program, {i: last_name(path) for i, path in enumerate(keys)})
    while True:
        atoms, pinned = Atoms(), {}
        labels, summed = _read(program, len(paths), states, atoms, splits, pinned)
        if not splits.advance(atoms):
            found = _groups(atoms, dict(zip(paths, labels, strict=True)), summed)
            return Channels(tuple(group._replace(left=_left(group, leaves)) for group in found), pinned)


def _read(
    program: Program, count: int, states: Collection[int], atoms: Atoms, splits: Splits, pinned: dict[str, int]
) -> tuple[list[Labels], set[int]]:
    """Reads a program by labels; returns those of its first `count` inputs, the parameters, and what is summed over.

    `states` are the places of outputs that are later states of parameters.
    """
    summed: list[Axis] = []
    used = {id(atom) for equation in live(program.closed.jaxpr) for atom in equation.invars}
    labels = [
        atoms.new(np.shape(value)) if id(var) in used else Labels.fixed(np.shape(value))
        for var, value in zip(program.closed.jaxpr.invars[:count], program.values, strict=False)
    ]
    given = [Labels.fixed(np.shape(value)) for value in program.values[count:]]
    outputs = evaluate(reading(atoms, splits, pinned, summed), program.closed, [*labels, *given])
    for place, out in enumerate(outputs):
        if place not in states:
            atoms.fix(labels_of(out))
    return labels, {atoms.root(atom) for along in summed for atom in along.tolist() if atom > FIXED}


def _groups(atoms: Atoms, labels: dict[str, Labels], summed: set[int]) -> tuple[Group, ...]:
    """Gathers the entries of each channel, and the channels that are alike; `summed` are roots of atoms."""
    entries: dict[int, dict[tuple[str, int], list[int]]] = defaultdict(lambda: defaultdict(list))
    for path, axes in labels.items():
        for axis, along in enumerate(axes):
            for index, atom in enumerate(along.tolist()):
                root = atoms.root(atom) if atom > FIXED else FIXED
                if root > FIXED:
                    entries[root][path, axis].append(index)
    alike: dict[Any, list[dict[tuple[str, int], list[int]]]] = defaultdict(list)
    for root, channel in entries.items():
        places = tuple((place, len(indices)) for place, indices in channel.items())
        alike[places, root in summed].append(channel)
    return tuple(
        Group(
            tuple(
                Member(path, axis, np.array([channel[path, axis] for channel in found])) for (path, axis), _ in places
            ),
            sums,
        )
        for (places, sums), found in alike.items()
    )


def _left(group: Group, leaves: dict[str, Any]) -> np.ndarray | None:
    """Returns the channels of which every slice is left, None if all are."""
    left = np.ones(group.channels, bool)
    for path, axis, indices in group.members:
        leaf = leaves[path]
        if isinstance(leaf, Sliced):
            keep = ((None,) * leaf.stack_axes + leaf.keep)[axis]
            left &= True if keep is None else np.isin(indices, keep).all(axis=1)
    return None if left.all() else left
