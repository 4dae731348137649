"""Finds where a model multiplies by each of its weights, and what it multiplies them with."""

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core
from jax.extend.core import primitives as prim

from jaxcompress.arrays import densify
from jaxcompress.interpreters.base import CALLS, Reading, evaluate, trace
from jaxcompress.interpreters.cost import multiply_adds
from jaxcompress.interpreters.lift import smaller
from jaxcompress.paths import flatten


class Use(NamedTuple):
    """Describes one product or convolution with a weight, as the program writes it.

    `input` is the other operand, `weight` the weight as it stands there (transposed, reshaped or converted, if the
    model does so), `output` the result, and `params` are those of the `primitive`.
    """

    input: jax.Array
    weight: jax.Array
    output: jax.Array
    primitive: core.Primitive
    params: dict[str, Any]

    @property
    def macs(self) -> int:
        """The multiply-adds of the operation, zeros included."""
        shapes = (self.input.shape, self.weight.shape)
        return multiply_adds(self.primitive, shapes, self.output.shape, self.params)


def uses(apply: Callable[..., Any], measure: Callable[[Use], Any]) -> Callable[..., dict[str, list[Any]]]:
    """Makes ``apply(params, *args)`` return ``measure(use)`` of every use of every weight, by the weight's path.

    Uses stand in the order of the program. `measure` runs inside the same jit as the model, so that only what it
    returns is kept: a mean, a range, a second moment. The weight must be the second operand of a product or a
    convolution (``x @ w``), straight from `params` but for a transpose, reshape or conversion. Loops and rematerialised
    blocks run as they stand, unseen. Compressed leaves stand for the dense array that they mean, `Sliced` ones for what
    is left: uses are those of the smaller model.
    """

    @functools.wraps(apply)
    def measured(params: Any, *args: Any, **kwargs: Any) -> dict[str, list[Any]]:
        found: defaultdict[str, list[Any]] = defaultdict(list)
        function, params = smaller(apply, params)
        params = densify(params)
        program = trace(function, (params, *args), kwargs)
        paths = list(flatten(params))
        marked = [_Weight(path, value) for path, value in zip(paths, program.values, strict=False)]
        evaluate(_reading(measure, found), program.closed, [*marked, *program.values[len(paths) :]])
        return dict(found)

    return measured


class _Weight(NamedTuple):
    """Marks a value that comes from a leaf of the parameters."""

    path: str
    value: jax.Array


def _reading(measure: Callable[[Use], Any], found: defaultdict[str, list[Any]]) -> Reading:
    def used(primitive: core.Primitive) -> Callable[..., Any]:
        def rule(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
            x, weight = values
            if isinstance(x, _Weight) or not isinstance(weight, _Weight):
                return NotImplemented
            output = primitive.bind(x, weight.value, **params)
            found[weight.path].append(measure(Use(x, weight.value, output, primitive, params)))
            return output

        return rule

    def moved(primitive: core.Primitive) -> Callable[..., Any]:
        def rule(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
            (weight,) = values
            return weight._replace(value=primitive.bind(weight.value, **params))

        return rule

    operations = (prim.dot_general_p, prim.conv_general_dilated_p)
    moves = (prim.transpose_p, prim.reshape_p, prim.convert_element_type_p)
    return Reading(
        rules={p: used(p) for p in operations} | {p: moved(p) for p in moves},
        concerns=lambda values: any(isinstance(value, _Weight) for value in values),
        lower=_value,
        stacked=_value,
        calls={p: CALLS[p] for p in (prim.jit_p, prim.closed_call_p)},
    )


def _value(value: Any) -> Any:
    return value.value if isinstance(value, _Weight) else value
