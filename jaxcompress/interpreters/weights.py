"""A weight on its way through a program: which entries of the leaf stand where, and how it came there."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend import core
from jax.extend.core import primitives as prim

from jaxcompress.interpreters.axes import Axes

Rest = Callable[[Any], Any]  # what is done with a weight after a move


class Atom(NamedTuple):
    """Describes an axis of a leaf, or a part of one: its entries, how far apart, and whether the last comes first."""

    axis: int
    size: int
    stride: int = 1
    backwards: bool = False


Atoms = tuple[tuple[Atom, ...], ...]  # for each axis of a weight as it stands, what it runs over, slowest first


class Weight(NamedTuple):
    """Marks a value that comes from a leaf of the parameters.

    `atoms` are None where they are not known, `stack` are those of the loops that it was sliced in, and
    ``within(rest)`` is the function of the whole leaf that does with it all that was done, and then the rest.
    """

    path: str
    value: jax.Array
    shape: tuple[int, ...]
    atoms: Atoms | None
    stack: tuple[Atom, ...] = ()
    within: Callable[[Rest], Rest] = lambda rest: rest

    def moved(self, primitive: core.Primitive, params: dict[str, Any]) -> "Weight":
        """Returns the weight behind a transpose, a reshape, a reversal or a conversion."""
        move = lambda value: primitive.bind(value, **params)
        within = lambda rest, before=self.within: before(lambda weight: rest(move(weight)))
        atoms = None if self.atoms is None else _moved(self.atoms, primitive, params)
        return self._replace(value=move(self.value), atoms=atoms, within=within)

    def sliced(self, value: jax.Array, length: int) -> "Weight":
        """Returns the slice that one turn of a loop has of this stack."""

        def in_turns(rest: Rest) -> Rest:
            return lambda weight: lax.scan(lambda _, one: (None, rest(one)), None, weight, length)[1]

        within = lambda rest, before=self.within: before(in_turns(rest))
        stack = self.stack if self.atoms is None else (*self.stack, *self.atoms[0])
        atoms = None if self.atoms is None else self.atoms[1:]
        return self._replace(value=value, atoms=atoms, stack=stack, within=within)

    def repeated(self, length: int) -> "Weight":
        """Returns the weight inside of a loop that has all of it in every turn."""

        def in_turns(rest: Rest) -> Rest:
            return lambda weight: lax.scan(lambda _, __: (None, rest(weight)), None, None, length)[1]

        return self._replace(within=lambda rest, before=self.within: before(in_turns(rest)))

    def axes(self, primitive: core.Primitive, params: dict[str, Any], count: Callable[[Any], int]) -> Axes | None:
        """Returns the parts that the axes of the leaf play where it stands second in a product or a convolution.

        None where parts of one axis play several.
        """
        if self.atoms is None:
            return None
        roles = _roles(primitive, params, len(self.atoms))
        of_axis: dict[int, set[str]] = {axis: set() for axis in range(len(self.shape))}
        for role, atoms in (*zip(roles, self.atoms, strict=True), ("stack", self.stack)):
            for atom in atoms:
                of_axis[atom.axis].add(role)
        if any(len(found) > 1 for found in of_axis.values()):
            return None
        last = next((role for found in of_axis.values() for role in found), "inputs")
        by_role: dict[str, list[int]] = {role: [] for role in ("stack", "window", "inputs", "outputs")}
        for axis, found in of_axis.items():  # an axis of one entry that a reshape lost goes with the one before it
            last = next(iter(found), last)
            by_role[last].append(axis)
        looped = [atom.axis for atom in self.stack]
        by_role["stack"].sort(key=lambda axis: (axis not in looped, looped.index(axis) if axis in looped else axis))
        if by_role["window"]:
            places = [self.atoms[axis] for axis in params["dimension_numbers"].rhs_spec[2:]]
            if any(len(atoms) > 1 for atoms in places):
                return None
            seen = [atom.axis for atoms in places for atom in atoms]
            by_role["window"].sort(key=lambda axis: seen.index(axis) if axis in seen else len(seen))
        if not by_role["inputs"] or not by_role["outputs"]:
            return None
        groups = params["feature_group_count"] if primitive is prim.conv_general_dilated_p else 1
        return Axes(**{role: tuple(axes) for role, axes in by_role.items()}, groups=groups, counts=(count,))


def weight(path: str, value: Any) -> Weight:
    """Marks a leaf."""
    return Weight(path, value, value.shape, tuple((Atom(axis, size),) for axis, size in enumerate(value.shape)))


def _roles(primitive: core.Primitive, params: dict[str, Any], ndim: int) -> list[str]:
    if primitive is prim.dot_general_p:
        (_, summed), (_, batched) = params["dimension_numbers"]
        return ["inputs" if a in summed else "stack" if a in batched else "outputs" for a in range(ndim)]
    output, given, *_ = params["dimension_numbers"].rhs_spec
    return ["outputs" if a == output else "inputs" if a == given else "window" for a in range(ndim)]


def _moved(atoms: Atoms, primitive: core.Primitive, params: dict[str, Any]) -> Atoms | None:
    if primitive is prim.transpose_p:
        return tuple(atoms[axis] for axis in params["permutation"])
    if primitive is prim.reshape_p:
        return _regrouped([atom for group in atoms for atom in group], params["new_sizes"])
    if primitive is prim.rev_p:
        turned = params["dimensions"]
        back = lambda group: tuple(atom._replace(backwards=not atom.backwards) for atom in group)
        return tuple(back(group) if axis in turned else group for axis, group in enumerate(atoms))
    return atoms


def _regrouped(atoms: Sequence[Atom], sizes: Sequence[int]) -> Atoms | None:
    """Deals atoms out to axes of other sizes, split where need be; None if the sizes do not divide them."""
    waiting = [atom for atom in atoms if atom.size > 1]
    groups: list[tuple[Atom, ...]] = []
    for size in sizes:
        group: list[Atom] = []
        while size > 1:
            atom = waiting.pop(0)
            part = min(atom.size, size)
            if atom.size % part or size % part:
                return None
            group.append(atom._replace(size=part, stride=atom.stride * (atom.size // part)))
            if part < atom.size:
                waiting.insert(0, atom._replace(size=atom.size // part))
            size //= part
        groups.append(tuple(group))
    return tuple(groups)
