"""Labels of the entries along every axis of a value.

A label is `FIXED` (an entry of the inputs, the outputs, or one that no rule knows), `CONSTANT` (the same all along the
axis, or a constant, which may go with whatever it meets), or a positive atom. Atoms that must live and die together are
tied; whatever is tied to `FIXED` stays.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

FIXED, CONSTANT = 0, -1
Axis = np.ndarray  # the labels along one axis, int64


class Labels(tuple[Axis, ...]):
    """Holds the labels along each axis of a value."""

    @classmethod
    def fixed(cls, shape: Sequence[int]) -> "Labels":
        """Returns the labels of a value of which no entry may go."""
        return cls(np.full(n, FIXED) for n in shape)

    @classmethod
    def constant(cls, shape: Sequence[int]) -> "Labels":
        """Returns the labels of a constant."""
        return cls(np.full(n, CONSTANT) for n in shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return tuple(map(len, self))


class Atoms:
    """Ties atoms into sets (a union-find); a set that holds `FIXED` has it as its root."""

    def __init__(self) -> None:
        self.parents = [FIXED]

    def new(self, shape: Sequence[int]) -> Labels:
        """Returns the labels of a value all of whose entries are free; an axis of one entry is constant."""
        return Labels(self._axis(n) for n in shape)

    def _axis(self, size: int) -> Axis:
        if size == 1:
            return np.full(1, CONSTANT)
        first = len(self.parents)
        self.parents.extend(range(first, first + size))
        return np.arange(first, first + size)

    def root(self, atom: int) -> int:
        """Returns the atom that stands for all that `atom` is tied to."""
        parents = self.parents
        while parents[atom] != atom:
            parents[atom] = parents[parents[atom]]
            atom = parents[atom]
        return atom

    def tie(self, one: Axis, other: Axis) -> None:
        """Ties entry by entry, constants left out."""
        if one is not other:
            for a, b in zip(one.tolist(), other.tolist(), strict=True):
                if a >= FIXED and b >= FIXED:
                    self._unite(a, b)

    def _unite(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        self.parents[max(a, b)] = min(a, b)

    def fix(self, axes: Sequence[Axis]) -> None:
        """Fixes every atom along all of `axes`."""
        for along in axes:
            for atom in set(along.tolist()):
                if atom > FIXED:
                    self._unite(atom, FIXED)

    def free(self, along: Axis) -> bool:
        """Tells whether any entry along an axis may go."""
        return any(atom > FIXED and self.root(atom) > FIXED for atom in along.tolist())


def labels_of(value: Any) -> Labels:
    """Returns the labels of a value of a reading; a plain array is a constant."""
    return value if isinstance(value, Labels) else Labels.constant(np.shape(value))
