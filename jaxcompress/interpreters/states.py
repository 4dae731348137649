"""Finds the outputs of a program that are later states of its inputs: new statistics, new parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.extend import core
from jax.extend.core import primitives as prim

from jaxcompress.interpreters.base import Program
from jaxcompress.interpreters.primitives import ELEMENTWISE
from jaxcompress.paths import path_text


def later_states(program: Program, names: Mapping[int, str]) -> dict[int, int]:
    """Returns, by the place of an output, the place of the input that it is a later state of.

    `names` has the name of every input in question, by its place: the last key of its path. An output is a later state
    of an input of the same name and shape from which it is computed entry by entry, as a running mean is from the one
    before. Names that only count (of a list, of a tuple) say nothing, so these are none.
    """
    closed = program.closed.jaxpr
    outputs = jax.tree.unflatten(program.outputs, range(len(closed.outvars)))
    found: dict[int, int] = {}
    for keys, place in jax.tree_util.tree_flatten_with_path(outputs)[0]:
        name, shape = last_name(keys), closed.outvars[place].aval.shape  # pyright: ignore (all of them are arrays)
        alike = [i for i, other in names.items() if name and name == other and closed.invars[i].aval.shape == shape]  # pyright: ignore
        made_of = _made_of(closed, closed.outvars[place]) if alike else set[int]()
        for i in alike:
            if i in made_of:
                found[place] = i
    return found


def last_name(keys: Sequence[Any]) -> str:
    """Returns the last key of a path as text; empty where it only counts."""
    named = [key for key in keys if path_text((key,))]
    counts = jax.tree_util.SequenceKey | jax.tree_util.FlattenedIndexKey
    return path_text((named[-1],)) if named and not isinstance(named[-1], counts) else ""


def _made_of(jaxpr: core.Jaxpr, output: Any) -> set[int]:
    """Returns the places of the inputs of a program from which an output of it is computed entry by entry."""
    places = {var: i for i, var in enumerate(jaxpr.invars)}
    equations = {var: equation for equation in jaxpr.eqns for var in equation.outvars}
    found, seen, open_ends = set[int](), set[Any](), [output]
    while open_ends:
        var = open_ends.pop()
        if isinstance(var, core.Literal) or var in seen:
            continue
        seen.add(var)
        if var in places:
            found.add(places[var])
        elif var in equations:
            operands = _operands(equations[var], var)
            open_ends += [operand for operand in operands if operand.aval.shape == var.aval.shape]
    return found


def _operands(equation: core.JaxprEqn, output: Any) -> list[Any]:
    """Returns the operands of an equation from which one of its outputs may be computed entry by entry."""
    if equation.primitive in ELEMENTWISE:
        return list(equation.invars)
    bodies, first = _bodies(equation)
    place = equation.outvars.index(output)
    inputs = set[int]().union(*(_made_of(body, body.outvars[place]) for body in bodies))
    return [equation.invars[first + i] for i in sorted(inputs)]


def _bodies(equation: core.JaxprEqn) -> tuple[list[core.Jaxpr], int]:
    """Returns the programs of a call, a scan or a branch, and the place of the operand that is their first input."""
    params = equation.params
    match equation.primitive:
        case prim.jit_p | prim.closed_call_p | prim.remat_p | prim.scan_p:
            programs, first = [params["call_jaxpr"] if "call_jaxpr" in params else params["jaxpr"]], 0
        case prim.custom_jvp_call_p | prim.custom_vjp_call_p:
            programs, first = [params["call_jaxpr"]], 0
        case prim.cond_p:
            programs, first = list(params["branches"]), 1
        case _:
            programs, first = [], 0
    return [program.jaxpr if isinstance(program, core.ClosedJaxpr) else program for program in programs], first
