"""Where the batch of a model goes: which axis of an activation it is, known for certain from sizes.

A model is traced with as many examples as a prime number that divides no size of the model. Of the axes of an
activation the batch is then the one, and the only one, whose size that number divides.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jax.extend import core

from jaxcompress.interpreters.base import nested

INFERENCE = "read a model in inference (model.eval() of NNX, use_running_average=True and deterministic=True of Linen)"


class Tensor(NamedTuple):
    """Stands for an activation while a model is read: the output of a node, its shape, and which axis is the batch.

    That axis may hold other ones behind the batch, as after ``x.reshape(-1, features)``.
    """

    name: str
    shape: tuple[int, ...]
    batch: int = 0


def examples(jaxpr: core.Jaxpr) -> int:
    """Returns a prime number of examples that divides no size in the program of a batch of one."""
    sizes = {size for size in _sizes(jaxpr) if size}
    return next(prime for prime in _primes(5) if all(size % prime for size in sizes))


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
