"""Products with a factorized weight, as the products of its factors."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import primitives as prim

from jaxcompress.arrays import Factored, LowRank, Reshaped, dense
from jaxcompress.interpreters.base import Reading, bind
from jaxcompress.interpreters.factored_convolutions import convolved


class NoThinForm(Exception):
    """Says, within a rule, that a product has no form that its factors run as."""


class Pairs(NamedTuple):
    """Holds the axes of x and of a kernel that a product sums over, and those that it runs along side by side."""

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    x_batch: tuple[int, ...]
    kernel_batch: tuple[int, ...]

    @property
    def taken(self) -> tuple[int, ...]:
        """The axes of the kernel that are not those of the result alone."""
        return (*self.kernel, *self.kernel_batch)


def product(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    """Runs a product with a factorized weight, on either side, as the products of its factors."""
    left, right = values
    (left_axes, right_axes), (left_batch, right_batch) = params["dimension_numbers"]
    multiply = partial(_multiplied, reading, params)
    try:
        if isinstance(right, Factored):
            return multiply(left, right, Pairs(left_axes, right_axes, left_batch, right_batch))
        if isinstance(left, Factored):
            out = multiply(right, left, Pairs(right_axes, left_axes, right_batch, left_batch))
            batch = len(left_batch)  # the kernel stood first, so its axes come first behind those of the batch
            free = right.ndim - len(right_axes)
            return jax.lax.transpose(out, [*range(batch), *range(free, out.ndim), *range(batch, free)])
    except NoThinForm:
        pass
    return NotImplemented


def _multiplied(reading: Reading, params: dict[str, Any], x: Any, kernel: Factored, pairs: Pairs) -> Any:
    """Returns the product, its axes those of the batch, then what is left of x, then what is left of the kernel."""
    for place, axis in enumerate(pairs.kernel_batch):
        layers = kernel.layers(axis)
        if layers is not None:
            return _layer_by_layer(reading, params, dense(x), layers, pairs, place)
    if kernel.stack_axes:
        raise NoThinForm
    match kernel:
        case LowRank():
            return _through_rank(reading, params, x, kernel, pairs)
        case Reshaped() if kernel.is_permutation:
            return _permuted(reading, params, x, kernel, pairs)
        case Reshaped():
            return _as_matrix(reading, params, dense(x), kernel, pairs)
        case _ if kernel.ndim == 2 and not pairs.kernel_batch:
            return _matrix(reading, params, dense(x), kernel, pairs)
        case _ if not pairs.kernel_batch and sorted(pairs.kernel) == list(range(kernel.ndim - 1)):
            return _all_places(reading, params, dense(x), kernel, pairs)
    raise NoThinForm


def _layer_by_layer(
    reading: Reading, params: dict[str, Any], x: Any, layers: Factored, pairs: Pairs, place: int
) -> Any:
    """Runs a product along an axis of layers with the factors of each."""
    x_axis, kernel_axis = pairs.x_batch[place], pairs.kernel_batch[place]

    def without(axes: Sequence[int], taken: int) -> tuple[int, ...]:
        return tuple(axis - (axis > taken) for axis in axes if axis != taken)

    inner = Pairs(
        without(pairs.x, x_axis),
        without(pairs.kernel, kernel_axis),
        without(pairs.x_batch, x_axis),
        without(pairs.kernel_batch, kernel_axis),
    )
    layer = lambda x, kernel: _multiplied(reading, params, x, kernel, inner)
    return jax.vmap(layer, in_axes=(x_axis, 0), out_axes=place)(x, layers)


def _dot(reading: Reading, params: dict[str, Any], a: Any, b: Any, pairs: Pairs) -> Any:
    numbers = ((pairs.x, pairs.kernel), (pairs.x_batch, pairs.kernel_batch))
    return bind(reading, prim.dot_general_p, a, b, **{**params, "dimension_numbers": numbers})


def _through_rank(reading: Reading, params: dict[str, Any], x: Any, kernel: LowRank, pairs: Pairs) -> Any:
    """Multiplies by the factor of the axes that are summed over, and then by the other."""
    kernel = _bordered(reading, kernel, pairs.taken)
    border = kernel.input_axes
    if not pairs.kernel:
        raise NoThinForm
    if sorted(pairs.taken) == list(range(border)):
        thin = _dot(reading, params, x, kernel.u, pairs)
        return _dot(reading, params, thin, kernel.v, Pairs((thin.ndim - 1,), (0,), (), ()))
    if sorted(pairs.taken) != list(range(border, kernel.ndim)):
        raise NoThinForm
    shifted = [tuple(axis - border + 1 for axis in axes) for axes in (pairs.kernel, pairs.kernel_batch)]
    thin = _dot(reading, params, x, kernel.v, pairs._replace(kernel=shifted[0], kernel_batch=shifted[1]))
    # The rank is the first axis of this factor, so it is the first behind those of the batch and of x.
    rank = x.ndim - len(pairs.x)
    return _dot(reading, params, thin, kernel.u, Pairs((rank,), (border,), (), ()))


def _bordered(reading: Reading, kernel: LowRank, taken: Sequence[int]) -> LowRank:
    """Moves axes of one entry from one factor to the other where only they keep these from being the sides."""
    count = len(taken)
    sides = sorted(taken) == list(range(count)), sorted(taken) == list(range(kernel.ndim - count, kernel.ndim))
    border = count if sides[0] else kernel.ndim - count
    between = kernel.shape[min(border, kernel.input_axes) : max(border, kernel.input_axes)]
    if not any(sides) or border in (0, kernel.ndim, kernel.input_axes) or any(size != 1 for size in between):
        return kernel
    shape = kernel.shape

    def shaped(factor: Any, sizes: Sequence[int]) -> Any:
        return bind(reading, prim.reshape_p, factor, new_sizes=tuple(sizes), dimensions=None, sharding=None)

    u, v = shaped(kernel.u, (*shape[:border], kernel.rank)), shaped(kernel.v, (kernel.rank, *shape[border:]))
    return replace(kernel, u=u, v=v, input_axes=border, output_axes=kernel.ndim - border)


def _permuted(reading: Reading, params: dict[str, Any], x: Any, kernel: Reshaped, pairs: Pairs) -> Any:
    """Multiplies by a weight whose axes are permuted by multiplying by itself."""
    order, weight = kernel.axes, kernel.weight
    inner = pairs._replace(
        kernel=tuple(order[axis] for axis in pairs.kernel),
        kernel_batch=tuple(order[axis] for axis in pairs.kernel_batch),
    )
    out = _multiplied(reading, params, x, weight, inner)  # pyright: ignore (a Factored)
    left = [order[axis] for axis in range(kernel.ndim) if axis not in pairs.taken]
    return _reordered(out, left)


def _as_matrix(reading: Reading, params: dict[str, Any], x: Any, kernel: Reshaped, pairs: Pairs) -> Any:
    """Multiplies by a matrix whose rows, or columns, are the axes that are summed over."""
    order, sizes, weight = kernel.axes, kernel.sizes, kernel.weight
    summed = [order[axis] for axis in pairs.kernel]
    rows, sides = 1, [axis for axis, size in enumerate(sizes) if size > 1]
    border = next((n for n, axis in enumerate(sides) if (rows := rows * sizes[axis]) == weight.shape[0]), len(sides))
    inputs, outputs = sides[: border + 1], sides[border + 1 :]
    wanted = sorted(axis for axis in summed if sizes[axis] > 1)
    if pairs.kernel_batch or weight.ndim != 2 or wanted not in (inputs, outputs):
        raise NoThinForm
    in_order = [axis for _, axis in sorted(zip(summed, pairs.x, strict=True))]
    x = jnp.moveaxis(x, in_order, range(x.ndim - len(in_order), x.ndim))
    x = x.reshape(*x.shape[: x.ndim - len(in_order)], -1)
    side = 0 if wanted == inputs else 1
    out = _multiplied(reading, params, x, weight, Pairs((x.ndim - 1,), (side,), (), ()))  # pyright: ignore
    left = [order[axis] for axis in range(kernel.ndim) if axis not in pairs.kernel]
    return _reordered(out.reshape(*out.shape[:-1], *(sizes[axis] for axis in sorted(left))), left)


def _reordered(out: Any, order: Sequence[int]) -> Any:
    """Transposes the last axes of a result, which stand in rising order, to `order`."""
    before = out.ndim - len(order)
    ranks = sorted(order)
    return jax.lax.transpose(out, [*range(before), *(before + ranks.index(axis) for axis in order)])


def _matrix(reading: Reading, params: dict[str, Any], x: Any, kernel: Factored, pairs: Pairs) -> Any:
    def multiply(a: Any, b: Any, a_axes: Sequence[int], b_axes: Sequence[int]) -> Any:
        return _dot(reading, params, a, b, Pairs(tuple(a_axes), tuple(b_axes), (), ()))

    def permuted(part: Any, order: Sequence[int]) -> Any:
        return bind(reading, prim.transpose_p, part, permutation=tuple(order))

    along = kernel if pairs.kernel == (0,) else kernel.transposed(permuted) if pairs.kernel == (1,) else None
    out = None if along is None else along.multiply(jnp.moveaxis(x, pairs.x[0], -1), multiply)
    if out is None:
        raise NoThinForm
    return out


def _all_places(reading: Reading, params: dict[str, Any], x: Any, kernel: Factored, pairs: Pairs) -> Any:
    """Sums over all but the outputs of a convolution kernel: the convolution at the one place where it covers x."""
    in_order = [axis for _, axis in sorted(zip(pairs.kernel, pairs.x, strict=True))]
    x = jnp.moveaxis(x, in_order, range(x.ndim - len(in_order), x.ndim))
    batch, places = x.shape[: x.ndim - len(in_order)], x.shape[x.ndim - len(in_order) :]
    options = {name: params[name] for name in ("precision", "preferred_element_type")}
    out = convolved(reading, x.reshape(-1, *places), kernel, options)
    if out is NotImplemented:
        raise NoThinForm
    return out.reshape(*batch, out.shape[-1])
