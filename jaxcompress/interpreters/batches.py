"""Where the batch of a model goes: which axis of an activation it is, known for certain from sizes.

A model is traced with as many examples as a prime number that divides no size of the model. Of the axes of an
activation the batch is then the one, and the only one, whose size that number divides.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.core import Tracer
from jax.extend import core

from jaxcompress.interpreters.base import live, nested

INFERENCE = "read a model in inference (model.eval() of NNX, use_running_average=True and deterministic=True of Linen)"


class Tensor(NamedTuple):
    """Stands for an activation while a model is read: the output of a node, its shape, and which axis is the batch.

    That axis may hold other ones behind the batch, as after ``x.reshape(-1, features)``.
    """

    name: str
    shape: tuple[int, ...]
    batch: int = 0


def examples(jaxpr: core.Jaxpr) -> tuple[int, int]:
    """Returns two prime numbers of examples that divide no size in the program of a batch of one."""
    sizes = {size for size in _sizes(jaxpr) if size}
    apart = (prime for prime in _primes(5) if all(size % prime for size in sizes))
    return next(apart), next(apart)


def for_one(tensor: Tensor, count: int) -> tuple[int, ...]:
    """Returns the shape of an activation for a batch of one, from that for `count` examples."""
    return tuple(n // count if axis == tensor.batch else n for axis, n in enumerate(tensor.shape))


def check_first(tensor: Tensor, what: str) -> None:
    """Raises ValueError unless the batch is the first axis."""
    if tensor.batch != 0:
        raise ValueError(
            f"{what} meets an activation of shape {tensor.shape} whose axis {tensor.batch} is the batch; a graph has "
            "the batch first, so move it there before"
        )


def check_apart(what: str, axes: Sequence[int]) -> None:
    """Raises ValueError for an operation along axis 0, the batch; sums there are those of a model in training."""
    if 0 in axes:
        hint = f"; batch normalization in training computes it: {INFERENCE}" if what == "a sum" else ""
        raise ValueError(f"{what} goes along axis 0, the batch; a graph computes each example by itself{hint}")


def check_kept(shape: Sequence[int], given: Tensor, count: int) -> None:
    """Raises ValueError unless a reshape to `shape` leaves the batch first, by itself or with axes behind it."""
    if not shape or shape[0] % count:
        raise ValueError(
            f"a reshape from {given.shape} to {tuple(shape)}, of {count} examples, leaves the batch no longer first; a "
            "graph has the batch first"
        )


def check_size_unused(programs: Sequence[core.ClosedJaxpr], counts: Sequence[int]) -> None:
    """Raises ValueError if a model computes with the size of its batch, as ``x * x.shape[0]`` does.

    `programs` are those of the model for `counts` examples. A size that is a number in a program differs between them;
    one that comes from counting, as in ``jnp.ones(x.shape[0]).sum()``, shows as a reduction along the batch.
    """
    numbers = [list(_numbers(program)) for program in programs]
    if len(numbers[0]) != len(numbers[1]):
        raise ValueError(
            f"the model computes otherwise for {counts[0]} examples than for {counts[1]}; a graph is of batches of any "
            "size"
        )
    for first, second in zip(*numbers, strict=True):
        if first.value.shape == second.value.shape and not np.array_equal(first.value, second.value, equal_nan=True):
            raise ValueError(
                f"{first.place} of the model takes {first.value} for {counts[0]} examples, and {second.value} for "
                f"{counts[1]}; a graph is of batches of any size, so it cannot compute with that size"
            )
    for name, sizes in _reductions(programs[0].jaxpr):
        if any(size and size % counts[0] == 0 for size in sizes):
            raise ValueError(
                f"a {name} of the model goes along the batch of a constant, so its value may depend on the size of the "
                "batch; a graph is of batches of any size"
            )


class _Number(NamedTuple):
    """Holds a number that stands in a program, and what takes it."""

    place: str
    value: np.ndarray


def _numbers(program: core.ClosedJaxpr) -> Iterator[_Number]:
    """Yields the arrays that a program closes over, and the literals on which its outputs depend."""
    for value in program.consts:
        yield _Number("a constant", _array(value))
    yield from _literals(program.jaxpr)


def _literals(jaxpr: core.Jaxpr) -> Iterator[_Number]:
    for equation in live(jaxpr):
        for atom in equation.invars:
            if isinstance(atom, core.Literal):
                yield _Number(f"a {equation.primitive.name}", _array(atom.val))
        for program in nested(equation):
            yield from _literals(program)


def _reductions(jaxpr: core.Jaxpr) -> Iterator[tuple[str, list[int]]]:
    """Yields the name of each reduction and the sizes of the axes that it goes along."""
    for equation in live(jaxpr):
        if equation.primitive.name.startswith(("reduce_", "arg")) and "axes" in equation.params:
            shape = equation.invars[0].aval.shape  # pyright: ignore[reportAttributeAccessIssue]
            yield equation.primitive.name, [shape[axis] for axis in equation.params["axes"]]
        for program in nested(equation):
            yield from _reductions(program)


def _array(value: Any) -> np.ndarray:
    """Returns the value of a constant, or nothing of its shape for one that a transformation traces."""
    return np.zeros(np.shape(value)) if isinstance(value, Tracer) else np.asarray(value)


def _sizes(jaxpr: core.Jaxpr) -> Iterator[int]:
    for variable in (*jaxpr.invars, *jaxpr.constvars):
        yield from getattr(variable.aval, "shape", ())
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield from getattr(variable.aval, "shape", ())
        for program in nested(equation):
            yield from _sizes(program)


def _primes(start: int) -> Iterator[int]:
    number = start
    while True:
        if all(number % divisor for divisor in range(2, int(number**0.5) + 1)):
            yield number
        number += 1
