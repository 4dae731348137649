"""What need not be computed since one operand is known to be zero all over: a `Spread` of the number zero.

As with removed channels, a zero stays zero whatever it is multiplied with, infinities included.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.extend.core import primitives as prim

from jaxcompress.interpreters.base import Reading
from jaxcompress.interpreters.slices import Spread, number

Rule = Callable[..., Any]


def is_zero(value: Any) -> bool:
    """Tells whether a value is known to be zero all over."""
    return isinstance(value, Spread) and number(value) == 0


def without_zeros(primitive: core.Primitive, then: Rule) -> Rule:
    """Returns the rule of a primitive that looks for zeros first, where they matter, and goes on to `then`."""
    if primitive in (prim.add_p, prim.sub_p):
        look = _sum
    elif primitive in (prim.mul_p, prim.dot_general_p, prim.conv_general_dilated_p):
        look = _product
    elif primitive is prim.transpose_p:
        look = _transpose
    else:
        return then

    def rule(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        out = look(primitive, values, params)
        return then(reading, values, params) if out is NotImplemented else out

    return rule


def _sum(primitive: core.Primitive, values: Sequence[Any], params: dict[str, Any]) -> Any:
    """Returns what a zero is added to, or is taken from, as it is."""
    left, right = values
    if is_zero(right) and np.shape(left) == right.shape:
        return left
    if primitive is prim.add_p and is_zero(left) and np.shape(right) == left.shape:
        return right
    return NotImplemented


def _product(primitive: core.Primitive, values: Sequence[Any], params: dict[str, Any]) -> Any:
    if not any(map(is_zero, values)):
        return NotImplemented
    whole = [jax.ShapeDtypeStruct(np.shape(value), value.dtype) for value in values]
    out = jax.eval_shape(lambda a, b: primitive.bind(a, b, **params), *whole)
    return Spread(0.0, out.shape, out.dtype)


def _transpose(primitive: core.Primitive, values: Sequence[Any], params: dict[str, Any]) -> Any:
    (x,) = values
    return Spread(0.0, [x.shape[i] for i in params["permutation"]], x.dtype) if is_zero(x) else NotImplemented
