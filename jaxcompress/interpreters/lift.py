"""Runs an unmodified model on compressed weights."""

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
from jax import lax
from jax.extend import core
from jax.extend.core import primitives as prim

from jaxcompress.arrays import Factored, Masked, Sliced, Zeros, dense, is_compressed, stacked
from jaxcompress.arrays.sliced import shrunk
from jaxcompress.interpreters.base import Reading, bind, evaluate, trace
from jaxcompress.interpreters.factored_convolutions import convolution
from jaxcompress.interpreters.factored_moves import gather, reshape, reverse, transpose
from jaxcompress.interpreters.factored_products import product
from jaxcompress.interpreters.slice_calls import SLICE_CALLS, custom_jvp
from jaxcompress.interpreters.slice_rules import rules
from jaxcompress.interpreters.slices import lowered, of_leaf, sliceable
from jaxcompress.interpreters.zeros import without_zeros
from jaxcompress.paths import Params


class Rebuilt(UserWarning):
    """Says that a factorized weight is multiplied out where it is used, so that its factors make a model dearer."""


def lift(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Makes `apply` accept compressed leaves anywhere among its arguments.

    The model is traced on the dense shapes that the leaves stand for, and its program is then evaluated on the leaves:
    a product or convolution with a `Factored` kernel runs as those of its factors, behind transposes and reshapes too,
    and an operation without a rule gets the dense array. Where factors have to be multiplied out for a product, a
    convolution, or a move of axes on the way to one, a `Rebuilt` warning says so while the model is traced. With
    `Sliced` weights, of which channels are removed, every operation runs on what is left of its operands where its rule
    can (see `jaxcompress.interpreters.slices`), and the results are whole again; with `Zeros`
    nothing is multiplied. Works for Linen, NNX and plain functions, under jit, grad, vmap, scan and jax.export.
    Arguments that are no arrays (bools, strings, None, Python numbers) stay what they are.

    Without a compressed leaf among the arguments `apply` is called directly.
    """

    @functools.wraps(apply)
    def lifted(*args: Any, **kwargs: Any) -> Any:
        leaves = [leaf for leaf in jax.tree.leaves((args, kwargs), is_leaf=is_compressed) if is_compressed(leaf)]
        if not leaves:
            return apply(*args, **kwargs)
        program = trace(apply, args, kwargs, is_compressed)
        reading = _ON_SLICES if any(isinstance(leaf, Sliced | Zeros) for leaf in leaves) else _LIFT
        outputs = evaluate(reading, program.closed, [of_leaf(value) for value in program.values])
        return jax.tree.unflatten(program.outputs, [lowered(out) for out in outputs])

    return lifted


def smaller(apply: Callable[..., Any], params: Params) -> tuple[Callable[..., Any], Params]:
    """Returns the model of which channels are removed as a function of its smaller weights, and these weights.

    ``smaller(apply, params)`` gives ``(function, weights)`` with ``function(weights, *args)`` equal to the lifted
    ``apply(params, *args)``; in `weights` what is left of a `Sliced` leaf stands by itself, so that whatever is done to
    the weights of a dense model can be done to these; `Zeros` are not looked at there. Without `Sliced` leaves and
    `Zeros` both are what they were.
    """
    leaves, structure = jax.tree.flatten(params, is_leaf=is_compressed)
    if not any(isinstance(leaf, Sliced | Zeros) for leaf in leaves):
        return apply, params

    def whole(leaf: Any, value: Any) -> Any:
        match leaf:
            case Zeros():
                return leaf
            case Sliced():
                return replace(leaf, weight=value)
            case _:
                return value

    @functools.wraps(apply)
    def function(weights: Params, *args: Any, **kwargs: Any) -> Any:
        values = structure.flatten_up_to(weights)
        params = [whole(leaf, value) for leaf, value in zip(leaves, values, strict=True)]
        return lift(apply)(jax.tree.unflatten(structure, params), *args, **kwargs)

    return function, shrunk(params)


def _convert(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    """Converts the dtype of a leaf inside it, so that mixed precision keeps it compressed."""
    (leaf,) = values

    def convert(part: Any) -> Any:
        return bind(reading, prim.convert_element_type_p, part, **params)

    match leaf:
        case Factored():
            return leaf.map_arrays(lambda _, factor: convert(factor))
        case Masked():
            return replace(leaf, weight=convert(leaf.weight))
        case _:
            return NotImplemented


# Whose result is as large as a factorized operand, or larger, and goes on to be multiplied, or is a product itself.
_THIN = (
    *(prim.dot_general_p, prim.conv_general_dilated_p, prim.transpose_p, prim.reshape_p, prim.rev_p),
    *(lax.slice_p, lax.squeeze_p, lax.broadcast_in_dim_p, lax.concatenate_p),
)


def _rebuilt(equation: core.JaxprEqn, values: Sequence[Any]) -> None:
    for leaf in values:
        if isinstance(leaf, Factored) and equation.primitive in _THIN:
            others = ", ".join(str(value.shape) for value in values if value is not leaf) or "itself"
            made = f", made by {leaf.owner!r}," if leaf.owner else ""
            warnings.warn(
                f"a {type(leaf).__name__} of shape {leaf.shape}{made} is multiplied out in every call: the model takes"
                f" it to a {equation.primitive.name} with {others}, which its factors cannot run as; factorize the"
                f" matrix that the model contracts (axes=jaxcompress.factorize.axes(...)), or keep this kernel whole",
                Rebuilt,
                stacklevel=2,
            )


_LIFT = Reading(
    rules={
        prim.dot_general_p: product,
        prim.conv_general_dilated_p: convolution,
        prim.transpose_p: transpose,
        prim.reshape_p: reshape,
        prim.rev_p: reverse,
        prim.gather_p: gather,
        prim.convert_element_type_p: _convert,
    },
    concerns=lambda values: any(map(is_compressed, values)),
    lower=dense,
    stacked=stacked,
    otherwise=_rebuilt,
)


def _on_slices() -> Reading:
    """Returns the reading for `Sliced` and `Zeros` among the arguments; what is not cut is read as by `_LIFT`."""

    def first(rule: Callable[..., Any], then: Callable[..., Any] | None) -> Callable[..., Any]:
        def both(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
            out = rule(reading, values, params)
            if out is not NotImplemented or then is None:
                return out
            return then(reading, list(map(_unsliced, values)), params)

        return both

    return Reading(
        rules={p: without_zeros(p, first(rule, _LIFT.rules.get(p))) for p, rule in rules().items()},
        concerns=lambda values: True,  # constants too: it counts what they are where others are cut
        lower=lowered,
        stacked=sliceable,
        calls=SLICE_CALLS,
        otherwise=lambda equation, values: _rebuilt(equation, values) or custom_jvp(_ON_SLICES, equation, values),
    )


def _unsliced(value: Any) -> Any:
    return value if is_compressed(value) else lowered(value)


_ON_SLICES = _on_slices()
