"""Finds the residual branches of a model: the f of ``x + f(x)``."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.extend import core
from jax.extend.core import primitives as prim

from jaxcompress.arrays import densify
from jaxcompress.interpreters.base import INLINE, Reading, evaluate, trace
from jaxcompress.interpreters.primitives import ELEMENTWISE
from jaxcompress.paths import Params, flatten


class Branch(NamedTuple):
    """Describes the f of one sum ``x + f(x)``.

    `parameters` are the paths of those that nothing else uses. The sum is the `addition`-th of the program, and `side`
    the operand of it that is f, 0 or 1.
    """

    parameters: tuple[str, ...]
    addition: int
    side: int

    @property
    def name(self) -> str:
        """The path of the first of the parameters."""
        return self.parameters[0]


def branches(apply: Callable[..., Any], params: Params, *example: Any) -> tuple[Branch, ...]:
    """Finds the residual branches of ``apply(params, *example)`` that can be dropped, in the order of the program.

    These are the sums of which one operand is computed from the other, as it stands: a shortcut with a projection, or
    one that changes the shape, is none. The branch has parameters of its own, and is zero where these are zero, which
    is proven from the program. `params` is all that the model is made of, batch statistics included; `example` are
    arrays or `jax.ShapeDtypeStruct`s. Branches within loops are not found. A branch inside another one is listed too.
    """
    params = densify(params)
    program, tape, paths = trace(apply, (params, *example), {}), _Tape(), list(flatten(params))
    inputs = [tape.new() for _ in program.values]
    outputs = [v for v in evaluate(tape.reading(), program.closed, inputs) if isinstance(v, _Value)]
    named = dict(zip((value.index for value in inputs), paths, strict=False))
    used, found = tape.needed(outputs), []
    for position, addition in enumerate(step for step in tape.steps if step.primitive is prim.add_p):
        for side, (branch, shortcut) in enumerate((addition.inputs, addition.inputs[::-1])):
            if not isinstance(branch, _Value) or not isinstance(shortcut, _Value):
                continue
            if addition.shapes[0] != addition.shapes[1] or shortcut.index not in tape.needed([branch]):
                continue
            own = (used & named.keys()) - tape.needed(outputs, {addition.outputs[0].index: shortcut})
            if own and tape.numbers(dict.fromkeys(own, 0.0)).get(branch.index) == 0:
                found.append(Branch(tuple(named[i] for i in sorted(own)), position, side))
    return tuple(found)


def sums(
    apply: Callable[..., Any], measure: Callable[[int, jax.Array, jax.Array], Any]
) -> Callable[..., dict[int, Any]]:
    """Makes ``apply(params, *args)`` return ``measure(position, left, right)`` of its additions, by position.

    Additions of other shapes than one, and those for which `measure` returns None, are left out. Compressed leaves
    stand for the dense arrays that they mean.
    """

    def measured(params: Params, *args: Any) -> dict[int, Any]:
        found, count = {}, 0

        def add(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
            nonlocal count
            left, right = values
            if np.shape(left) == np.shape(right) and (out := measure(count, left, right)) is not None:
                found[count] = out
            count += 1
            return NotImplemented

        program = trace(apply, (densify(params), *args), {})
        same = lambda value: value
        reading = Reading({prim.add_p: add}, lambda values: True, same, same, INLINE)
        evaluate(reading, program.closed, program.values)
        return found

    return measured


class _Value(NamedTuple):
    """Stands for a value of the program."""

    index: int


class _Step(NamedTuple):
    """Records one equation; inputs that are constants stand for themselves."""

    primitive: core.Primitive
    params: dict[str, Any]
    inputs: tuple[Any, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    outputs: tuple[_Value, ...]


class _Tape:
    """Records the equations of a program with its calls written out."""

    def __init__(self) -> None:
        self.count, self.steps = 0, list[_Step]()

    def new(self) -> _Value:
        self.count += 1
        return _Value(self.count)

    def reading(self) -> Reading:
        def record(equation: core.JaxprEqn, values: Sequence[Any]) -> list[Any]:
            made = tuple(self.new() for _ in equation.outvars)
            avals: list[Any] = [atom.aval for atom in equation.invars]
            shapes, dtypes = tuple(a.shape for a in avals), tuple(a.dtype for a in avals)
            self.steps.append(_Step(equation.primitive, equation.params, tuple(values), shapes, dtypes, made))
            return list(made)

        same = lambda value: value
        return Reading({}, lambda values: True, same, same, INLINE, record)

    def needed(self, outputs: Sequence[_Value], instead: dict[int, _Value] | None = None) -> set[int]:
        """Returns what `outputs` depend on, themselves included; `instead` replaces values by others."""
        instead = instead or {}
        live = {instead.get(value.index, value).index for value in outputs}
        for step in reversed(self.steps):
            if any(out.index in live for out in step.outputs):
                live |= {instead.get(v.index, v).index for v in step.inputs if isinstance(v, _Value)}
        return live

    def numbers(self, known: dict[int, float]) -> dict[int, float]:
        """Returns the values that are one number all over if those `known` are."""
        known = dict(known)

        def number(value: Any) -> float | None:
            if isinstance(value, _Value):
                return known.get(value.index)
            return np.asarray(value).item() if np.size(value) == 1 else None

        for step in self.steps:
            found = _number(step, [number(value) for value in step.inputs])
            if found is not None:
                known[step.outputs[0].index] = found
        return known


_PRODUCTS = (prim.mul_p, prim.dot_general_p, prim.conv_general_dilated_p)
_MOVES = (
    *(prim.broadcast_in_dim_p, prim.reshape_p, prim.transpose_p, prim.squeeze_p, prim.slice_p, lax.rev_p),
    lax.tile_p,
    *(prim.reduce_max_p, prim.reduce_min_p, prim.stop_gradient_p, prim.copy_p),
)
_SUMS = (prim.reduce_sum_p, prim.reduce_window_sum_p, prim.cumsum_p)


def _number(step: _Step, inputs: Sequence[float | None]) -> float | None:
    """Returns the number that the one output of a step is all over, if that is known."""
    if step.primitive in _PRODUCTS and 0 in inputs:
        return 0.0
    if step.primitive in _SUMS and inputs[0] == 0:
        return 0.0
    if any(value is None for value in inputs) or not inputs:
        return None
    if step.primitive in _MOVES and len(inputs) == 1:
        return inputs[0]
    if step.primitive in ELEMENTWISE:
        with jax.ensure_compile_time_eval():
            scalars = [np.asarray(value, dtype) for value, dtype in zip(inputs, step.dtypes, strict=True)]
            return np.asarray(step.primitive.bind(*map(jax.numpy.asarray, scalars), **step.params)).item()
    return None
