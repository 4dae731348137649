"""Transposes, reshapes and reversals of a factorized weight, and rows taken from it, inside it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax.extend.core import primitives as prim

from jaxcompress.arrays import Factored, LowRank, Reshaped, dense
from jaxcompress.interpreters.base import Reading, bind


def transpose(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    """Transposes a factorized weight: by its factors where only inputs and outputs change places."""
    (leaf,), order = values, tuple(params["permutation"])
    if not isinstance(leaf, Factored):
        return NotImplemented
    rising = tuple(range(leaf.ndim))
    if order == rising:
        return leaf
    if order == (*rising[:-2], rising[-1], rising[-2]):
        turned = leaf.transposed(lambda part, axes: bind(reading, prim.transpose_p, part, permutation=tuple(axes)))
        if turned is not None:
            return turned
    if isinstance(leaf, Reshaped):
        moved = leaf.permuted(order)
        return moved.weight if moved.is_permutation and moved.axes == rising else moved
    return Reshaped(leaf, leaf.shape[leaf.stack_axes :], order, leaf.owner)


def reshape(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    """Reshapes a factorized matrix: by its two factors if inputs stay inputs, as they stand in memory otherwise."""
    (leaf,), sizes = values, tuple(params["new_sizes"])
    if not isinstance(leaf, Factored) or leaf.stack_axes:
        return NotImplemented
    if isinstance(leaf, LowRank):
        rows = math.prod(leaf.shape[: leaf.input_axes])
        border = next((n for n in range(1, len(sizes)) if math.prod(sizes[:n]) == rows), None)
        if border is None:
            return NotImplemented
        shaped = partial(bind, reading, prim.reshape_p, dimensions=None, sharding=None)
        u, v = (
            shaped(leaf.u, new_sizes=(*sizes[:border], leaf.rank)),
            shaped(leaf.v, new_sizes=(leaf.rank, *sizes[border:])),
        )
        return replace(leaf, u=u, v=v, input_axes=border, output_axes=len(sizes) - border)
    if isinstance(leaf, Reshaped) and leaf.axes == tuple(range(leaf.ndim)) and leaf.weight.ndim == 2:
        return leaf.weight if sizes == leaf.weight.shape else replace(leaf, sizes=sizes, order=tuple(range(len(sizes))))
    return Reshaped(leaf, sizes, tuple(range(len(sizes))), leaf.owner) if leaf.ndim == 2 else NotImplemented


def reverse(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    """Reverses axes of the window of a factorized convolution kernel in the factors that have them."""
    (leaf,) = values
    if not isinstance(leaf, Factored) or not params["dimensions"]:
        return NotImplemented
    turned = leaf.flipped(
        params["dimensions"], lambda part, axes: bind(reading, prim.rev_p, part, dimensions=tuple(axes))
    )
    return NotImplemented if turned is None else turned


def gather(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    """Takes rows of a matrix of two factors from the first of them, as an embedding does, if they are not too many."""
    leaf, indices = values
    if not isinstance(leaf, LowRank) or leaf.stack_axes or leaf.input_axes != 1:
        return NotImplemented
    numbers, before = params["dimension_numbers"], indices.ndim - 1
    whole_rows = params["slice_sizes"] == (1, *leaf.shape[1:]) and numbers.operand_batching_dims == ()
    last = numbers.offset_dims == tuple(range(before, before + leaf.ndim - 1))
    by_row = numbers.collapsed_slice_dims == numbers.start_index_map == (0,)
    if not (whole_rows and last and by_row) or math.prod(indices.shape[:-1]) >= leaf.shape[0]:
        return NotImplemented
    own = {"dimension_numbers": numbers._replace(offset_dims=(before,)), "slice_sizes": (1, leaf.rank)}
    rows = bind(reading, prim.gather_p, leaf.u, indices, **{**params, **own})
    return jnp.tensordot(rows, dense(leaf.v), 1)
