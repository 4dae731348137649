"""Counts the memory that a program takes for activations by reading its jaxpr."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core
from jax.extend.core import primitives as prim

from jaxcompress.interpreters.base import INLINE, nested
from jaxcompress.interpreters.loops import scan_operands
from jaxcompress.interpreters.primitives import ELEMENTWISE

_IN_PLACE = frozenset([*ELEMENTWISE, prim.reshape_p, prim.squeeze_p, prim.broadcast_in_dim_p])


def memory(apply: Callable[..., Any], params: Any, *example: Any) -> list[int]:
    """Lists the bytes of activations that are alive during each operation of ``apply(params, *example)``.

    An activation is what depends on the `example`: arrays or `jax.ShapeDtypeStruct`s, of a batch of one to read the
    memory of one input. It is alive from the operation that makes it to the last that reads it, the example itself from
    the start and the outputs to the end. An elementwise operation, or one that reshapes, writes over an operand of its
    size that is read no more, others into memory of their own. A device needs as much at least that keeps weights apart
    and runs the operations in this order. Weights, and what is computed from weights alone, are not counted. Compressed
    leaves count as what they run as if `apply` is lifted. Of a loop one turn is listed, operation by operation, of a
    conditional every branch.
    """
    closed = jax.make_jaxpr(apply)(params, *example)
    jaxpr, weights = closed.jaxpr, len(jax.tree.leaves(params))
    return _alive(jaxpr, [None] * weights + [_size(var) for var in jaxpr.invars[weights:]])


def peak_memory(apply: Callable[..., Any], params: Any, *example: Any) -> int:
    """Returns the bytes of activations that are alive at once at most, as `memory` counts them; 0 for no operations."""
    return max(memory(apply, params, *example), default=0)


class _Operation(NamedTuple):
    """Records what an operation reads and makes, as numbers of buffers, and the bytes at each operation `within` it."""

    reads: tuple[int, ...]
    makes: tuple[int, ...]
    in_place: bool
    within: tuple[int, ...]


class _Buffers:
    """Holds the bytes of every buffer, and the operations on them in order."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.operations: list[_Operation] = []

    def new(self, size: int) -> int:
        self.sizes.append(size)
        return len(self.sizes) - 1

    def run(self, jaxpr: core.Jaxpr, given: Sequence[int | None]) -> list[int | None]:
        """Lists the operations of a program; of what it is given and returns, the buffer, or None if no activation."""
        env: dict[core.Var, int | None] = dict(zip(jaxpr.invars, given, strict=True))

        def read(atom: Any) -> int | None:
            return None if isinstance(atom, core.Literal) else env.get(atom)

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            if all(operand is None for operand in operands):
                continue  # of weights alone
            if eqn.primitive in INLINE:
                (body, *_) = nested(eqn)
                made = self.run(body, operands)
            else:
                made = self._operation(eqn, operands)
            env.update(zip(eqn.outvars, made, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _operation(self, eqn: core.JaxprEqn, operands: Sequence[int | None]) -> list[int]:
        made = [self.new(_size(var)) for var in eqn.outvars]
        reads = tuple(dict.fromkeys(operand for operand in operands if operand is not None))
        within = [alive for body, given in _bodies(eqn, operands) for alive in _alive(body, given)]
        self.operations.append(_Operation(reads, tuple(made), eqn.primitive in _IN_PLACE, tuple(within or (0,))))
        return made


def _bodies(eqn: core.JaxprEqn, operands: Sequence[int | None]) -> list[tuple[core.Jaxpr, list[int | None]]]:
    """Lists the programs inside a loop or a conditional, with what each is given: None for weights, and else no bytes.

    What they are given is counted outside. Carries may become activations with a turn. Of other operations, such as a
    scatter, the program inside combines two numbers.
    """
    given = [None if operand is None else 0 for operand in operands]
    params = eqn.params
    if eqn.primitive is prim.scan_p:
        scanned = scan_operands(params, given)
        inner = [*scanned.consts, *[0] * len(scanned.carries), *scanned.stacked]
        return [(body, inner) for body in nested(eqn)]
    if eqn.primitive is prim.while_p:
        first, after = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        carries: list[int | None] = [0] * (len(given) - after)
        asks, turns = params["cond_jaxpr"].jaxpr, params["body_jaxpr"].jaxpr
        return [(asks, given[:first] + carries), (turns, given[first:after] + carries)]
    if eqn.primitive is prim.cond_p:
        return [(branch, given[1:]) for branch in nested(eqn)]
    return []


def _alive(jaxpr: core.Jaxpr, given: Iterable[int | None]) -> list[int]:
    """Returns the bytes alive at each operation of a program that is `given` buffers of these sizes, or weights."""
    buffers = _Buffers()
    first = [None if size is None else buffers.new(size) for size in given]
    kept = {buffer for buffer in buffers.run(jaxpr, first) if buffer is not None}
    last = {buffer: i for i, operation in enumerate(buffers.operations) for buffer in operation.reads}
    alive = {buffer for buffer in first if buffer is not None} & (last.keys() | kept)
    found = []
    for i, operation in enumerate(buffers.operations):
        over = {buffer for buffer in operation.reads if last[buffer] == i and buffer not in kept}
        taken = _overwritten(operation, over, buffers.sizes)
        around = sum(buffers.sizes[b] for b in (alive - taken) | set(operation.makes))
        found.extend(around + within for within in operation.within)
        alive = (alive - over) | {b for b in operation.makes if b in last or b in kept}
    return found


def _overwritten(operation: _Operation, over: set[int], sizes: Sequence[int]) -> set[int]:
    """Returns the operand, if any, that the result of an operation is written over."""
    if not operation.in_place:
        return set()
    (made,) = operation.makes
    return set([buffer for buffer in sorted(over) if sizes[buffer] == sizes[made]][:1])


def _size(var: Any) -> int:
    return math.prod(var.aval.shape) * var.aval.dtype.itemsize
