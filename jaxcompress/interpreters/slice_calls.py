"""How `Slices` go through loops, rematerialised blocks, and functions with a derivative of their own."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import eval_jaxpr
from jax.extend import core
from jax.extend.core import primitives as prim

from jaxcompress.interpreters.base import CALLS, Reading, Rule, evaluate
from jaxcompress.interpreters.loops import scan_operands
from jaxcompress.interpreters.slice_moves import window
from jaxcompress.interpreters.slice_stacks import unstack
from jaxcompress.interpreters.slices import Slices, is_known, lowered, narrowed, sliceable


def _split(reading: Reading, params: dict[str, Any], values: Sequence[Any]) -> list[Any]:
    (x,), axis, start, out = values, params["axis"], 0, []
    if not isinstance(x, Slices):
        return list(lax.split_p.bind(lowered(x), **params))
    for size in params["sizes"]:
        cuts = [(0, n, 1) for n in x.shape]
        cuts[axis] = (start, start + size, 1)
        out.append(window(x, cuts))
        start += size
    return out


def _remat(reading: Reading, params: dict[str, Any], values: Sequence[Any]) -> list[Any]:
    body = lambda *values: evaluate(reading, core.ClosedJaxpr(params["jaxpr"], ()), values)
    return jax.checkpoint(body, policy=params["policy"], prevent_cse=params["prevent_cse"])(*values)


def _scan(reading: Reading, params: dict[str, Any], values: Sequence[Any]) -> list[Any]:
    """Carries `Slices` of a known fill from turn to turn where every turn leaves them cut alike."""
    fixed, initial, stacked = scan_operands(params, values)
    initial, stacked = [_carried(value) for value in initial], [sliceable(value) for value in stacked]
    carries = len(initial)
    options = {name: params[name] for name in ("length", "reverse", "unroll")}

    def turn(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        out = evaluate(reading, params["jaxpr"], [*fixed, *carry, *x])
        kept = [_like(value, before) for value, before in zip(out[:carries], carry, strict=True)]
        return kept, [_carried(value) for value in out[carries:]]

    while any(isinstance(value, Slices) for value in initial):
        once = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), stacked)
        after, _ = jax.eval_shape(
            lambda carry, x: (evaluate(reading, params["jaxpr"], [*fixed, *carry, *x])[:carries], ()), initial, once
        )
        unlike = [
            i for i, (a, b) in enumerate(zip(initial, after, strict=True)) if isinstance(a, Slices) and not _alike(a, b)
        ]
        if not unlike:
            break
        for i in unlike:
            initial[i] = initial[i].dense()
    final, outputs = lax.scan(turn, initial, stacked, **options)
    return [*final, *(_restacked(value, params["length"]) for value in outputs)]


def _carried(value: Any) -> Any:
    return value if isinstance(value, Slices) and is_known(value.fill) else lowered(value)


def _alike(one: Slices, other: Any) -> bool:
    return isinstance(other, Slices) and (one.keep, one.fill) == (other.keep, other.fill)


def _like(value: Any, before: Any) -> Any:
    """Returns a value in the form of the one it follows."""
    return value if isinstance(before, Slices) else lowered(value)


def _restacked(value: Any, length: int) -> Any:
    """Returns what a scan stacked as one value."""
    if not isinstance(value, Slices):
        return value
    return Slices(value.value, (length, *value.shape), (None, *value.keep), value.fill)


def custom_jvp(reading: Reading, equation: core.JaxprEqn, values: Sequence[Any]) -> list[Any] | None:
    """Runs a function with a derivative of its own on what is left of its operands, and derives it by its own rule.

    Both programs, of the function and of its derivative, were written for whole operands; both are read again. None
    for other equations, and without operands that are cut.
    """
    floats = all(jnp.issubdtype(value.dtype, jnp.floating) for value in values)
    if equation.primitive is not prim.custom_jvp_call_p or not floats or not any(isinstance(v, Slices) for v in values):
        return None
    values = [value if isinstance(value, Slices) else lowered(value) for value in values]
    values = [Slices(lowered(v.value), v.shape, v.keep, v.fill) if isinstance(v, Slices) else v for v in values]
    derivative = _derivative(equation, values)
    parts, structure = jax.tree.flatten(values)
    outputs: list[Any] = []

    @jax.custom_jvp
    def function(*parts: Any) -> list[Any]:
        outputs[:] = evaluate(reading, equation.params["call_jaxpr"], jax.tree.unflatten(structure, parts))
        outputs[:] = [value if isinstance(value, Slices) else lowered(value) for value in outputs]
        return jax.tree.leaves(outputs)

    @function.defjvp
    def _(primals: Any, tangents: Any) -> tuple[Any, Any]:
        out = function(*primals)
        moved = [_tangent(v) for v in jax.tree.unflatten(structure, tangents)]
        found = evaluate(reading, derivative, [*jax.tree.unflatten(structure, primals), *moved])
        return out, [
            part for value, like in zip(found[len(outputs) :], outputs, strict=True) for part in _parts(value, like)
        ]

    flat = function(*parts)
    return jax.tree.unflatten(jax.tree.structure(outputs), flat)


def _derivative(equation: core.JaxprEqn, values: Sequence[Any]) -> core.ClosedJaxpr:
    """Writes down what the derivative of a function computes from whole operands and their tangents."""
    inner = equation.params["call_jaxpr"].jaxpr  # its inputs are distinct, where operands may be one variable twice
    alone = equation.replace(invars=list(inner.invars))
    program = inner.replace(constvars=(), outvars=alone.outvars, eqns=[alone], effects=alone.effects)

    def whole(*operands: Any) -> list[Any]:
        return eval_jaxpr(program, (), *operands)

    like = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in values]
    return jax.make_jaxpr(lambda primals, tangents: jax.jvp(whole, primals, tangents))(tuple(like), tuple(like))


def _tangent(value: Any) -> Any:
    """Returns a tangent that is zero wherever the fill is a known number."""
    if not isinstance(value, Slices):
        return value
    return Slices(value.value, value.shape, value.keep, 0.0 if is_known(value.fill) else value.fill)


def _parts(tangent: Any, like: Any) -> list[Any]:
    """Returns a tangent in the form of the value it belongs to."""
    if not isinstance(like, Slices):
        return [lowered(tangent)]
    part = narrowed(tangent, like.keep, like.shape)
    if is_known(like.fill):
        return [part]
    return [part, jnp.broadcast_to(_fill_of(tangent, like), like.fill.shape)]


def _fill_of(tangent: Any, like: Slices) -> Any:
    """Returns what a tangent is at the entries that the value it belongs to has lost."""
    if isinstance(tangent, Slices) and tangent.cut == like.cut:
        return jnp.asarray(tangent.fill, like.dtype)
    array = lowered(tangent)
    for axis in like.cut:
        if like.fill.shape[axis] == 1:
            lost = next(entry for entry in range(like.shape[axis]) if entry not in set(like.keep[axis] or ()))
            array = lax.slice_in_dim(array, lost, lost + 1, axis=axis)
    return array


SLICE_CALLS: dict[core.Primitive, Rule] = CALLS | {
    prim.remat_p: _remat,
    prim.scan_p: _scan,
    lax.split_p: _split,
    lax.unstack_p: unstack,
    lax.optimization_barrier_p: lambda reading, params, values: list(values),
}
