"""Counts the multiply-adds of a program by reading its jaxpr."""

import math
from collections.abc import Callable, Sequence
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


def multiply_adds(
    primitive: core.Primitive, inputs: Sequence[tuple[int, ...]], output: tuple[int, ...], params: dict[str, Any]
) -> int:
    """Counts the multiply-adds of one product or convolution from its shapes."""
    left, right = inputs
    if primitive is prim.dot_general_p:
        (contracting, _), _ = params["dimension_numbers"]
        return math.prod(output) * math.prod(left[axis] for axis in contracting)
    features = right[params["dimension_numbers"].rhs_spec[0]]
    return math.prod(output) * (math.prod(right) // features)  # each output sums over all entries of one feature


def _operations(jaxpr: core.Jaxpr, repeats: int) -> list[Operation]:
    found: list[Operation] = []
    for eqn in jaxpr.eqns:
        if eqn.primitive in (prim.dot_general_p, prim.conv_general_dilated_p):
            inputs, output = tuple(_shape(v) for v in eqn.invars), _shape(eqn.outvars[0])
            count = repeats * multiply_adds(eqn.primitive, inputs, output, eqn.params)
            found.append(Operation(eqn.primitive.name, inputs, output, count))
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
