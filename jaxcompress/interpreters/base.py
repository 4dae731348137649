"""The jaxpr interpreter: one evaluator, into which each reading of a model brings its own rules.

A model is never edited. ``jax.make_jaxpr`` writes down what it computes; `evaluate` runs that program with a table of
rules, a rule for each primitive that the reading sees differently. Everything else runs as it stands. Only public JAX
is used: `jax.make_jaxpr`, `jax.extend.core`, and `jax.core.eval_jaxpr` on a program of one equation, which keeps name
stacks, effects and custom derivatives.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.core import eval_jaxpr
from jax.extend import core
from jax.extend.core import primitives as prim

from jaxcompress.interpreters.loops import scan_operands

Rule = Callable[..., Any]  # (reading, values, params) -> one value, or NotImplemented to decline


class Reading(NamedTuple):
    """Describes how a program is read.

    `rules` maps a primitive to its rule. `concerns(values)` tells whether an equation on these operands is of interest;
    if not, it runs as it stands, nested programs included. `lower(value)` turns a value of the reading into an array,
    where only arrays may go: operands without a rule, carries and outputs of loops. `stacked(value)` returns a value to
    scan over in a form that a scan may slice, part by part, along its first axis. `calls`, when given, maps the calls
    and loops whose programs are read too to their rules, of ``(reading, params, values) -> values``. An equation that
    concerns the reading and has no rule goes to ``otherwise(equation, values)``, which may raise or return its outputs;
    for None, as by default, it runs as it stands. `constant(value)` turns an array that a program closes over into a
    value of the reading; by default it stays what it is.
    """

    rules: dict[core.Primitive, Rule]
    concerns: Callable[[Sequence[Any]], bool]
    lower: Callable[[Any], Any]
    stacked: Callable[[Any], Any]
    calls: dict[core.Primitive, Rule] | None = None
    otherwise: Callable[[core.JaxprEqn, Sequence[Any]], list[Any] | None] = lambda equation, values: None
    constant: Callable[[Any], Any] = lambda value: value


class Program(NamedTuple):
    """Holds what a call computes: its jaxpr, the values that go in, and the structure of what comes out."""

    closed: core.ClosedJaxpr
    values: list[Any]
    outputs: Any


def trace(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    is_leaf: Callable[[Any], bool] = lambda _: False,
) -> Program:
    """Writes down what ``function(*args, **kwargs)`` computes.

    A leaf for which `is_leaf` holds stands for one array of its shape and dtype. Arguments that are no arrays (bools,
    strings, None, Python numbers) stay what they are.
    """
    leaves, structure = jax.tree.flatten((args, kwargs), is_leaf=is_leaf)
    moves = [is_leaf(x) or isinstance(x, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct) for x in leaves]

    def on_arrays(*arrays: Any) -> Any:
        source = iter(arrays)
        filled = [next(source) if move else leaf for leaf, move in zip(leaves, moves, strict=True)]
        inner_args, inner_kwargs = jax.tree.unflatten(structure, filled)
        return function(*inner_args, **inner_kwargs)

    values = [leaf for leaf, move in zip(leaves, moves, strict=True) if move]
    abstract = [jax.ShapeDtypeStruct(v.shape, v.dtype) if is_leaf(v) else v for v in values]
    closed, shape = jax.make_jaxpr(on_arrays, return_shape=True)(*abstract)
    return Program(closed, values, jax.tree.structure(shape))


def evaluate(reading: Reading, closed: core.ClosedJaxpr, values: Sequence[Any]) -> list[Any]:
    """Evaluates a program on `values`, some of which may be of the reading's own types.

    Equations whose results nothing uses are left out, so that they concern no reading, as they concern no compiler.
    """
    jaxpr = closed.jaxpr
    env: dict[core.Var, Any] = dict(zip(jaxpr.constvars, map(reading.constant, closed.consts), strict=True))
    env.update(zip(jaxpr.invars, values, strict=True))

    def read(atom: Any) -> Any:
        return _literal(atom) if isinstance(atom, core.Literal) else env[atom]

    for eqn in live(jaxpr):
        env.update(zip(eqn.outvars, _step(reading, jaxpr, eqn, [read(v) for v in eqn.invars]), strict=True))
    return [read(v) for v in jaxpr.outvars]


def live(jaxpr: core.Jaxpr) -> list[core.JaxprEqn]:
    """Lists the equations on which the outputs of a program depend, and those that have effects."""
    needed = {atom for atom in jaxpr.outvars if isinstance(atom, core.Var)}
    backwards: list[core.JaxprEqn] = []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not needed.isdisjoint(equation.outvars):
            needed.update(atom for atom in equation.invars if isinstance(atom, core.Var))
            backwards.append(equation)
    return backwards[::-1]


def _literal(atom: core.Literal) -> Any:
    """Returns the value of a literal with its dtype: JAX writes booleans into programs as Python's own."""
    return atom.val if hasattr(atom.val, "dtype") else np.asarray(atom.val, atom.aval.dtype)  # pyright: ignore


def bind(reading: Reading, primitive: core.Primitive, *values: Any, **params: Any) -> Any:
    """Applies one primitive under the reading; by this a rule re-enters the dispatch, so that leaves nest."""
    if reading.concerns(values) and primitive in reading.rules:
        out = reading.rules[primitive](reading, values, params)
        if out is not NotImplemented:
            return out
    return primitive.bind(*map(reading.lower, values), **params)


def _step(reading: Reading, jaxpr: core.Jaxpr, eqn: core.JaxprEqn, values: list[Any]) -> list[Any]:
    if reading.concerns(values):
        calls = CALLS if reading.calls is None else reading.calls
        if eqn.primitive in calls:
            return calls[eqn.primitive](reading, eqn.params, values)
        if eqn.primitive in reading.rules:
            out = reading.rules[eqn.primitive](reading, values, eqn.params)
            if out is not NotImplemented:
                return [out]
        out = reading.otherwise(eqn, values)
        if out is not None:
            return out
    return _as_it_stands(reading, jaxpr, eqn, values)


def _as_it_stands(reading: Reading, jaxpr: core.Jaxpr, eqn: core.JaxprEqn, values: list[Any]) -> list[Any]:
    operands = {v: reading.lower(x) for v, x in zip(eqn.invars, values, strict=True) if not isinstance(v, core.Literal)}
    program = jaxpr.replace(constvars=(), invars=list(operands), outvars=eqn.outvars, eqns=[eqn], effects=eqn.effects)
    return eval_jaxpr(program, (), *operands.values())


# Nested programs, entered here once for all readings. custom_jvp and custom_vjp calls are absent from CALLS on purpose:
# entering them would lose the derivative that their author gave, so they run whole on lowered operands. INLINE enters
# them, for readings that compute nothing.


def _inline(reading: Reading, params: dict[str, Any], values: list[Any]) -> list[Any]:
    program = params["call_jaxpr"] if "call_jaxpr" in params else params["jaxpr"]
    closed = program if isinstance(program, core.ClosedJaxpr) else core.ClosedJaxpr(program, ())
    return evaluate(reading, closed, values)


def _remat(reading: Reading, params: dict[str, Any], values: list[Any]) -> list[Any]:
    body = _lowered(reading, core.ClosedJaxpr(params["jaxpr"], ()))
    return jax.checkpoint(body, policy=params["policy"], prevent_cse=params["prevent_cse"])(*values)


def _scan(reading: Reading, params: dict[str, Any], values: list[Any]) -> list[Any]:
    consts, initial, stacked = scan_operands(params, values)
    carries = len(initial)
    body = _lowered(reading, params["jaxpr"])

    def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        out = body(*consts, *carry, *x)
        return out[:carries], out[carries:]

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    final, outputs = lax.scan(step, [*map(reading.lower, initial)], [*map(reading.stacked, stacked)], **options)
    return [*final, *outputs]


def _while(reading: Reading, params: dict[str, Any], values: list[Any]) -> list[Any]:
    first = params["cond_nconsts"]
    second = first + params["body_nconsts"]
    going, body = _lowered(reading, params["cond_jaxpr"]), _lowered(reading, params["body_jaxpr"])
    return lax.while_loop(
        lambda carry: going(*values[:first], *carry)[0],
        lambda carry: body(*values[first:second], *carry),
        [reading.lower(v) for v in values[second:]],
    )


def _cond(reading: Reading, params: dict[str, Any], values: list[Any]) -> list[Any]:
    index, *operands = values
    bodies = [_lowered(reading, branch) for branch in params["branches"]]
    return lax.switch(reading.lower(index), [lambda body=body: body(*operands) for body in bodies])


def _lowered(reading: Reading, closed: core.ClosedJaxpr) -> Callable[..., list[Any]]:
    return lambda *values: [reading.lower(out) for out in evaluate(reading, closed, values)]


CALLS: dict[core.Primitive, Rule] = {
    prim.jit_p: _inline,
    prim.closed_call_p: _inline,
    prim.remat_p: _remat,
    prim.scan_p: _scan,
    prim.while_p: _while,
    prim.cond_p: _cond,
}
INLINE: dict[core.Primitive, Rule] = dict.fromkeys(
    [prim.jit_p, prim.closed_call_p, prim.remat_p, prim.custom_jvp_call_p, prim.custom_vjp_call_p], _inline
)


def nested(eqn: core.JaxprEqn) -> list[core.Jaxpr]:
    """Lists the programs inside an equation: the bodies of calls, loops and branches, custom derivatives left out."""
    found: list[core.Jaxpr] = []
    for name, value in eqn.params.items():
        if name in ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd"):
            continue
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, core.Jaxpr):
                found.append(item)
    return found
