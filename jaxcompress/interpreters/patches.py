"""Runs convolutions as patches and one product, or depthwise as a few of them, for CPUs."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import primitives as prim

from jaxcompress.interpreters.base import Reading, evaluate, trace


def patches(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes `function` compute its convolutions as a product with patches of the input (im2col).

    Depthwise ones, with a group for each channel, become sums of shifted inputs times the entries of their window. All
    are the same sums in another order. XLA's convolutions on CPU leave their fast path inside `lax.scan` and loops,
    where this form is many times faster (``scripts/benchmark.py train-step`` prints the ratio); on accelerators leave
    it out.
    Other grouped and transposed convolutions stay native. Apply it to the lifted model: ``patches(lift(model.apply))``.
    """

    @functools.wraps(function)
    def on_patches(*args: Any, **kwargs: Any) -> Any:
        program = trace(function, args, kwargs)
        return jax.tree.unflatten(program.outputs, evaluate(_PATCHES, program.closed, program.values))

    return on_patches


def columns(
    x: Array,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> Array:
    """Gathers what lies under the window at each place: (batch, *places, entries of the window * channels).

    `x` is (batch, *spatial, channels); entries stand in the order of a kernel (*window, channels, outputs).
    """
    return jnp.concatenate(_shifted(x, window, strides, padding, dilation), axis=-1)


def _shifted(
    x: Array,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> list[Array]:
    """Lists what lies under each entry of the window at all places: (batch, *places, channels)."""
    edges = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), edges)  # unlike jnp.pad it takes off too
    reach = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    places = [(n - r) // s + 1 for n, r, s in zip(x.shape[1:-1], reach, strides, strict=True)]

    def under(offset: tuple[int, ...]) -> Array:
        start = [o * d for o, d in zip(offset, dilation, strict=True)]
        stop = [a + (p - 1) * s + 1 for a, p, s in zip(start, places, strides, strict=True)]
        return lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1))

    return [under(offset) for offset in itertools.product(*map(range, window))]


def _conv(reading: Reading, values: Sequence[Array], params: dict[str, Any]) -> Any:
    x, kernel = values
    spatial = x.ndim - 2
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    depthwise = groups == x.shape[numbers.lhs_spec[1]] and params["preferred_element_type"] in (None, x.dtype)
    if params["batch_group_count"] != 1 or params["lhs_dilation"] != (1,) * spatial or (groups > 1 and not depthwise):
        return NotImplemented
    x = lax.transpose(x, _channels_last(numbers.lhs_spec))
    kernel = lax.transpose(kernel, (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0]))
    place = (kernel.shape[:spatial], params["window_strides"], params["padding"], params["rhs_dilation"])
    if groups > 1:
        return lax.transpose(_depthwise(_shifted(x, *place), kernel), _inverse(_channels_last(numbers.out_spec)))
    taken = columns(x, *place)
    flat = kernel.reshape(-1, kernel.shape[-1])
    options = {"precision": params["precision"], "preferred_element_type": params["preferred_element_type"]}
    out = lax.dot_general(taken, flat, (((taken.ndim - 1,), (0,)), ((), ())), **options)
    return lax.transpose(out, _inverse(_channels_last(numbers.out_spec)))


def _depthwise(shifted: list[Array], kernel: Array) -> Array:
    """Sums what lies under the entries of the window, channel by channel times that entry of the channel's kernels."""
    channels = shifted[0].shape[-1]
    entries = kernel.reshape(len(shifted), channels, -1)  # the last axis has the kernels of a channel
    places = shifted[0].shape[:-1]
    total = shifted[0][..., None] * entries[0].reshape((1,) * len(places) + entries[0].shape)
    for under, entry in zip(shifted[1:], entries[1:], strict=True):
        total = total + under[..., None] * entry.reshape((1,) * len(places) + entry.shape)
    return total.reshape(*places, -1)


def _channels_last(spec: Sequence[int]) -> tuple[int, ...]:
    batch, channel, *spatial = spec
    return (batch, *spatial, channel)


def _inverse(permutation: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(permutation)), key=permutation.__getitem__))


def _same(value: Array) -> Array:
    return value


_PATCHES = Reading(rules={prim.conv_general_dilated_p: _conv}, concerns=lambda _: True, lower=_same, stacked=_same)
