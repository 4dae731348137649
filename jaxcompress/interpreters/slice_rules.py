"""How each primitive computes with `Slices`: what is left of its operands, and the fill of its result.

Every rule is exact: what it returns means what the primitive computes from the whole operands, but that a removed zero
stays zero whatever it is multiplied with or divided by, infinities included. A rule that would have to compute more
declines, and the whole operands are put together.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jax.extend.core import primitives as prim

from jaxcompress.arrays import dense, is_compressed
from jaxcompress.interpreters.base import Reading, Rule, bind
from jaxcompress.interpreters.primitives import ELEMENTWISE
from jaxcompress.interpreters.slice_moves import MOVES
from jaxcompress.interpreters.slice_stacks import STACKS
from jaxcompress.interpreters.slices import (
    Slices,
    Spread,
    apply_to_fills,
    at_once,
    count,
    is_known,
    keep_of,
    made,
    narrowed,
    narrowed_fill,
    number,
    outside,
    united,
    whole_fill,
    zero_outside,
)


def rules() -> dict[core.Primitive, Rule]:
    """Returns the rules by primitive; each declines, by NotImplemented, where no operand is cut."""
    found: dict[core.Primitive, Rule] = {primitive: _elementwise(primitive) for primitive in ELEMENTWISE}
    found |= {p: _reduced(p) for p in (prim.reduce_sum_p, prim.reduce_max_p, prim.reduce_min_p)}
    found |= {p: _window(p) for p in (prim.reduce_window_max_p, prim.reduce_window_sum_p, prim.reduce_window_min_p)}
    return found | MOVES | STACKS | {prim.dot_general_p: _dot, prim.conv_general_dilated_p: _conv}


# Elementwise operations


def _elementwise(primitive: core.Primitive) -> Rule:
    def rule(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        operation = lambda *parts: primitive.bind(*parts, **params)
        dtypes = [value.dtype for value in values]
        if not any(isinstance(value, Slices) for value in values):
            return _of_spreads(operation, values, dtypes)
        shape = np.broadcast_shapes(*(np.shape(value) for value in values))
        keep = united(values, shape)
        cut = [axis for axis, entries in enumerate(keep) if entries is not None]
        fills = [outside(value, cut, shape) for value in values] if cut else []
        fill = _absorbed(primitive, values, fills)
        if cut and fill is None:
            if any(fill is None for fill in fills):
                return NotImplemented
            fill = apply_to_fills(operation, fills, dtypes, shape)
        parts = [narrowed(value, keep, shape) for value in values]
        out = bind(reading, primitive, *parts, **params) if any(map(is_compressed, parts)) else operation(*parts)
        return made(out, shape, keep, fill)

    return rule


def _of_spreads(operation: Callable[..., Any], values: Sequence[Any], dtypes: Sequence[Any]) -> Any:
    """Computes an operation on values that are the same along some axes once for all of these."""
    numbers = [number(value) for value in values]
    spreads = [value for value in values if isinstance(value, Spread)]
    if not spreads and any(found is None for found in numbers):
        return NotImplemented
    if any(not isinstance(v, Spread) and found is None for v, found in zip(values, numbers, strict=True)):
        return NotImplemented
    shape = np.broadcast_shapes(*(np.shape(value) for value in values))
    fills = [v.value if n is None and isinstance(v, Spread) else n for v, n in zip(values, numbers, strict=True)]
    out = apply_to_fills(operation, fills, dtypes, shape)
    return Spread(out, shape, np.dtype(_dtype(operation, dtypes)))


def _dtype(operation: Callable[..., Any], dtypes: Sequence[Any]) -> Any:
    return jax.eval_shape(operation, *(jax.ShapeDtypeStruct((), dtype) for dtype in dtypes)).dtype


def _absorbed(primitive: core.Primitive, values: Sequence[Any], fills: Sequence[Any]) -> float | None:
    """Returns the fill that some operands decide alone, whatever the others are there; None where none do."""
    known = [fill if is_known(fill) else None for fill in fills]
    if primitive is prim.mul_p:
        cut = [value for value in values if isinstance(value, Slices)]
        return 0.0 if all(map(zero_outside, cut)) or 0 in known else None
    if primitive is prim.div_p:
        return 0.0 if known and known[0] == 0 and isinstance(values[0], Slices) else None
    if primitive is prim.select_n_p:
        return known[1] if known and len(set(known[1:])) == 1 else None
    return None


# Sums


def _reduced(primitive: core.Primitive) -> Rule:
    combine = {prim.reduce_sum_p: lax.add, prim.reduce_max_p: lax.max, prim.reduce_min_p: lax.min}[primitive]

    def rule(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        (x,), axes = values, params["axes"]
        if not isinstance(x, Slices):
            return NotImplemented
        out = primitive.bind(dense(x.value), **params)
        left = [axis for axis in range(x.ndim) if axis not in axes]
        shape, keep = [x.shape[axis] for axis in left], [x.keep[axis] for axis in left]
        lost = [axis for axis in x.cut if axis in axes]
        if zero_outside(x) and primitive is prim.reduce_sum_p:
            return made(out, shape, keep, 0.0)
        whole = whole_fill(x, axes)
        for part, sizes in _removed(whole, x, lost):
            rest = narrowed_fill(_reduced_fill(primitive, params, part, sizes), keep)
            out = combine(out, jnp.broadcast_to(rest, out.shape))
        if is_known(x.fill) or all(entries is None for entries in keep):
            return made(out, shape, keep, _known_sum(primitive, x, axes) if is_known(x.fill) else 0.0)
        return made(out, shape, keep, _reduced_fill(primitive, params, whole, x.shape))

    return rule


def _removed(fill: Any, x: Slices, lost: Sequence[int]) -> list[tuple[Any, list[int]]]:
    """Returns the fill at all that is removed along the axes `lost`, in parts, and how many entries each has."""
    parts = []
    for i, axis in enumerate(lost):
        chosen: list[Sequence[int] | None] = [None] * x.ndim
        for before in lost[:i]:
            chosen[before] = x.keep[before]
        chosen[axis] = np.setdiff1d(np.arange(x.shape[axis]), x.keep[axis] or ()).tolist()
        sizes = [n if entries is None else len(entries) for n, entries in zip(x.shape, chosen, strict=True)]
        parts.append((narrowed_fill(fill, chosen), sizes))
    return parts


def _reduced_fill(primitive: core.Primitive, params: dict[str, Any], fill: Any, sizes: Sequence[int]) -> Any:
    """Reduces a fill that stands for an array of `sizes`."""
    times = count(sizes, [axis for axis in params["axes"] if fill.shape[axis] == 1])

    def reduced(fill: Any) -> Any:
        out = primitive.bind(fill, **params)
        return out * np.asarray(times, out.dtype) if primitive is prim.reduce_sum_p and times > 1 else out

    return at_once(reduced, fill)


def _known_sum(primitive: core.Primitive, x: Slices, axes: Sequence[int]) -> Any:
    return x.fill * count(x.shape, axes) if primitive is prim.reduce_sum_p else x.fill


def _window(primitive: core.Primitive) -> Rule:
    def rule(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        (x,) = values
        if not isinstance(x, Slices):
            return NotImplemented
        window, edges = params["window_dimensions"], params["padding"]
        still = {"window_strides": 1, "base_dilation": 1, "window_dilation": 1}
        if any(window[axis] != 1 or edges[axis] != (0, 0) for axis in x.cut):
            return NotImplemented
        if any(params[name][axis] != one for axis in x.cut for name, one in still.items()):
            return NotImplemented
        out = primitive.bind(dense(x.value), **params)
        sums = primitive is prim.reduce_window_sum_p
        always = all(max(e) < n for n, e in zip(window, edges, strict=True)) and not any(
            d > 1 for d in params["base_dilation"]
        )
        fill = x.fill
        if not is_known(fill) or (fill != 0 if sums else not always):
            fill = primitive.bind(whole_fill(x, range(x.ndim)), **params)
        shape = [x.shape[axis] if axis in x.cut else n for axis, n in enumerate(out.shape)]
        return made(out, shape, x.keep, fill)

    return rule


# Products


def _dot(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    left, right = values
    if not any(isinstance(value, Slices) for value in values):
        return NotImplemented
    (left_sum, right_sum), (left_batch, right_batch) = params["dimension_numbers"]
    keep_left, keep_right = list(keep_of(left)), list(keep_of(right))
    zero_left, zero_right = zero_outside(left), zero_outside(right)
    for i, j in zip(left_sum, right_sum, strict=True):
        if not _vanishes(left.shape[i], (keep_left[i], zero_left), (keep_right[j], zero_right)):
            return NotImplemented
        keep_left[i] = keep_right[j] = _both(keep_left[i], keep_right[j])
    for i, j in zip(left_batch, right_batch, strict=True):
        if not _vanishes(left.shape[i], (keep_left[i], zero_left), (keep_right[j], zero_right)):
            return NotImplemented
        keep_left[i] = keep_right[j] = _both(keep_left[i], keep_right[j])
    free_left = [i for i in range(np.ndim(left)) if i not in (*left_sum, *left_batch)]
    free_right = [j for j in range(np.ndim(right)) if j not in (*right_sum, *right_batch)]
    if not zero_left and any(keep_left[i] is not None for i in free_left):
        return NotImplemented
    if not zero_right and any(keep_right[j] is not None for j in free_right):
        return NotImplemented
    keep = [keep_left[i] for i in (*left_batch, *free_left)] + [keep_right[j] for j in free_right]
    shape = [left.shape[i] for i in (*left_batch, *free_left)] + [right.shape[j] for j in free_right]
    if any(entries == () for entries in (*keep_left, *keep_right)):
        return NotImplemented
    parts = narrowed(left, tuple(keep_left), left.shape), narrowed(right, tuple(keep_right), right.shape)
    return made(bind(reading, prim.dot_general_p, *parts, **params), shape, keep, 0.0)


def _both(one: Sequence[int] | None, other: Sequence[int] | None) -> tuple[int, ...] | None:
    """Returns the entries that are left of both operands."""
    if one is None or other is None:
        return other if one is None else one  # pyright: ignore
    return tuple(entry for entry in one if entry in set(other))


def _vanishes(size: int, one: Any, other: Any) -> bool:
    """Tells whether each product at an entry that either operand has lost is zero; operands are ``(keep, is zero)``."""
    kept = [set(range(size)) if entries is None else set(entries) for entries, _ in (one, other)]
    return all(
        any(entry not in left and zero for left, (_, zero) in zip(kept, (one, other), strict=True))
        for entry in range(size)
        if entry not in kept[0] or entry not in kept[1]
    )


def _conv(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    x, kernel = values
    if not any(isinstance(value, Slices) for value in values) or params["batch_group_count"] != 1:
        return NotImplemented
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    (batch, channel, *places), (output, given, *window) = numbers.lhs_spec, numbers.rhs_spec
    keep_x, keep_kernel = list(keep_of(x)), list(keep_of(kernel))
    moved = [keep_x[axis] for axis in (batch, *places)] + [keep_kernel[axis] for axis in window]
    if any(entries is not None for entries in moved) or not zero_outside(kernel):
        return NotImplemented
    if groups == 1:
        if not _vanishes(x.shape[channel], (keep_x[channel], zero_outside(x)), (keep_kernel[given], True)):
            return NotImplemented
        keep_x[channel] = keep_kernel[given] = _both(keep_x[channel], keep_kernel[given])
    else:
        found = _groups(x, kernel, channel, (output, given), groups)
        if found is None:
            return NotImplemented
        keep_x[channel], keep_kernel[given], keep_kernel[output], left = found
        params = params | {"feature_group_count": left}
    if keep_x[channel] == () or keep_kernel[output] == ():
        return NotImplemented
    parts = narrowed(x, tuple(keep_x), x.shape), narrowed(kernel, tuple(keep_kernel), kernel.shape)
    out = bind(reading, prim.conv_general_dilated_p, *parts, **params)
    shape, keep = list(out.shape), [None] * out.ndim
    shape[numbers.out_spec[1]], keep[numbers.out_spec[1]] = kernel.shape[output], keep_kernel[output]
    return made(out, shape, keep, 0.0)


def _groups(x: Any, kernel: Any, channel: int, axes: tuple[int, int], groups: int) -> Any:
    """Returns what is left of a grouped convolution: of its input, of the kernel's inputs and outputs, and the groups.

    None where what is left is no grouped convolution: other inputs or another number of outputs in every group.
    """
    output, given = axes
    inputs, outputs = x.shape[channel] // groups, kernel.shape[output] // groups
    kept_x = set(keep_of(x)[channel] or range(x.shape[channel]))
    kept_given = keep_of(kernel)[given] or tuple(range(inputs))
    by_group: dict[int, list[int]] = {}
    for entry in keep_of(kernel)[output] or range(kernel.shape[output]):
        by_group.setdefault(entry // outputs, []).append(entry)
    found = {group: tuple(i for i in kept_given if group * inputs + i in kept_x) for group in by_group}
    if not zero_outside(x) and any(len(entries) < len(kept_given) for entries in found.values()):
        return None
    left = [group for group in sorted(by_group) if found[group]]  # of no inputs the sum is zero
    if len({found[group] for group in left}) != 1 or len({len(by_group[group]) for group in left}) != 1:
        return None
    of_x = tuple(group * inputs + i for group in left for i in found[left[0]])
    of_outputs = tuple(entry for group in left for entry in by_group[group])
    whole = lambda entries, size: None if len(entries) == size else entries
    return (
        whole(of_x, x.shape[channel]),
        whole(found[left[0]], inputs),
        whole(of_outputs, kernel.shape[output]),
        len(left),
    )
