"""Counts the multiply-adds of a program by reading its jaxpr."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend import core
from jax.extend.core import primitives as prim

from jaxcompress.interpreters.base import nested


class Operation(NamedTuple):
    """Records one product or convolution: its primitive, the shapes it reads and writes, its multiply-adds."""

    name: str
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    macs: int


def cost(apply: Callable[..., Any], *args: Any) -> list[Operation]:
    """Lists the products and convolutions that ``apply(*args)`` runs, with their multiply-adds.

    `args` may be arrays or `jax.ShapeDtypeStruct`s, compressed leaves included if `apply` is lifted: thin factors then
    count as the thin operations they run as. A masked weight counts in full, since a dense kernel multiplies its zeros.
    The body of a scan counts once for each of its turns, of a conditional the dearer branch counts, and the body of a
    while loop, whose turns are unknown, counts once.
    """
    return _operations(jax.make_jaxpr(apply)(*args).jaxpr, 1)


def macs(apply: Callable[..., Any], *args: Any) -> int:
    """Returns the multiply-adds of ``apply(*args)``, as `cost` counts them."""
    return _total(cost(apply, *args))


def _operations(jaxpr: core.Jaxpr, repeats: int) -> list[Operation]:
    found: list[Operation] = []
    for eqn in jaxpr.eqns:
        if eqn.primitive in _COUNTS:
            inputs = tuple(_shape(v) for v in eqn.invars)
            count = repeats * _COUNTS[eqn.primitive](eqn)
            found.append(Operation(eqn.primitive.name, inputs, _shape(eqn.outvars[0]), count))
        bodies = [_operations(body, repeats * eqn.params.get("length", 1)) for body in nested(eqn)]
        if eqn.primitive is prim.cond_p:
            bodies = [max(bodies, key=_total)]
        for body in bodies:
            found.extend(body)
    return found


def _total(operations: list[Operation]) -> int:
    return sum(operation.macs for operation in operations)


def _shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape


def _dot_macs(eqn: core.JaxprEqn) -> int:
    (contracting, _), _ = eqn.params["dimension_numbers"]
    summed = math.prod(_shape(eqn.invars[0])[axis] for axis in contracting)
    return math.prod(_shape(eqn.outvars[0])) * summed


def _conv_macs(eqn: core.JaxprEqn) -> int:
    kernel, numbers = _shape(eqn.invars[1]), eqn.params["dimension_numbers"]
    window = math.prod(kernel) // kernel[numbers.rhs_spec[0]]  # entries that one output sums over
    return math.prod(_shape(eqn.outvars[0])) * window


_COUNTS = {prim.dot_general_p: _dot_macs, prim.conv_general_dilated_p: _conv_macs}
