"""How each primitive ties the labels of the entries along the axes of its operands."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend import core
from jax.extend.core import primitives as prim

from jaxcompress.interpreters.atoms import CONSTANT, FIXED, Atoms, Axis, Labels, labels_of
from jaxcompress.interpreters.base import INLINE, Reading, evaluate
from jaxcompress.interpreters.loops import scan_operands
from jaxcompress.interpreters.primitives import ELEMENTWISE, matched


class Splits:
    """Chooses, each time an axis is taken apart, which of its parts goes on to have channels.

    Parts are tried from the `first` or the `last` on: `advance` goes on to the next part wherever the channels of the
    chosen one turned out to be pinned, as those of an axis of queries, keys and values are.
    """

    def __init__(self, split: Literal["first", "last"]) -> None:
        self.split = split
        self.tried: list[int] = []  # by the order of the program, how many parts were given up
        self.chosen: list[tuple[int, Axis]] = []  # how many parts there were, and the labels of the chosen one

    def choose(self, parts: Sequence[int]) -> int:
        """Returns which of the `parts` has the channels; they stand in the order of their axes."""
        place = len(self.chosen)
        self.tried += [0] * (place + 1 - len(self.tried))
        ordered = parts if self.split == "first" else parts[::-1]
        return ordered[self.tried[place] % len(parts)]

    def advance(self, atoms: Atoms) -> bool:
        """Gives up parts that were pinned; tells whether the program has to be read again."""
        again = False
        for place, (count, labels) in enumerate(self.chosen):
            if self.tried[place] < count and not atoms.free(labels):
                self.tried[place] += 1  # once all are given up it is the first again
                again = True
        self.chosen.clear()
        return again


def reading(atoms: Atoms, splits: Splits, pinned: dict[str, int], summed: list[Axis]) -> Reading:
    """Returns the reading of a program by labels.

    `pinned` counts, by primitive, what no rule knew; `summed` collects the axes that are summed over.
    """
    rules = _Rules(atoms, splits, summed)

    def pin(equation: core.JaxprEqn, values: Sequence[Any]) -> list[Labels]:
        axes = [along for value in values for along in labels_of(value)]
        if all(np.all(along == CONSTANT) for along in axes):  # as noise from a key is
            return [Labels.constant(out.aval.shape) for out in equation.outvars]  # pyright: ignore (all are arrays)
        if any(map(atoms.free, axes)):
            pinned[equation.primitive.name] = pinned.get(equation.primitive.name, 0) + 1
        atoms.fix(axes)
        return [Labels.fixed(out.aval.shape) for out in equation.outvars]  # pyright: ignore (all of them are arrays)

    of_arrays: dict[core.Primitive, Callable[..., Any]] = dict.fromkeys(ELEMENTWISE, rules.elementwise)
    of_arrays |= dict.fromkeys(_SUMS, rules.summed) | dict.fromkeys(_EXTREMES, rules.reduced)
    of_arrays |= dict.fromkeys(_WINDOWS, rules.windowed)
    of_arrays |= {
        prim.dot_general_p: rules.product,
        prim.conv_general_dilated_p: rules.convolution,
        prim.transpose_p: lambda _, values, params: Labels(values[0][axis] for axis in params["permutation"]),
        prim.broadcast_in_dim_p: rules.broadcast,
        prim.squeeze_p: rules.squeezed,
        prim.reshape_p: rules.reshaped,
        prim.concatenate_p: rules.concatenated,
        prim.slice_p: rules.sliced,
        prim.pad_p: rules.padded,
        prim.gather_p: rules.gathered,
        lax.tile_p: rules.tiled,
        lax.stack_p: rules.piled,
    }
    calls = INLINE | {
        lax.split_p: rules.split_up,
        lax.unstack_p: rules.unpiled,
        lax.optimization_barrier_p: lambda reading, params, values: list(values),
        prim.scan_p: rules.scanned,
        prim.cond_p: rules.branched,
    }
    return Reading(
        rules=of_arrays,
        concerns=lambda values: any(isinstance(value, Labels) for value in values),
        lower=lambda value: value,
        stacked=lambda value: value,
        calls=calls,
        otherwise=pin,
    )


_SUMS = [prim.reduce_sum_p]
_EXTREMES = [
    *(prim.reduce_max_p, prim.reduce_min_p, prim.reduce_prod_p, prim.argmax_p, prim.argmin_p),
    *(prim.reduce_and_p, prim.reduce_or_p),
]
_WINDOWS = [prim.reduce_window_max_p, prim.reduce_window_sum_p, prim.reduce_window_min_p]


class _Rules:
    """Holds the rules, which share the atoms and the choice of what a taken apart axis is split into."""

    def __init__(self, atoms: Atoms, splits: Splits, summed: list[Axis]) -> None:
        self.atoms, self.splits, self.sums = atoms, splits, summed

    def elementwise(self, _: Reading, values: Sequence[Any], params: dict[str, Any]) -> Labels:
        found = [labels_of(value) for value in values]
        shape = np.broadcast_shapes(*(labels.shape for labels in found))
        return self._tied(found, shape)

    def _tied(self, found: Sequence[Labels], shape: Sequence[int]) -> Labels:
        """Ties values of one shape entry by entry; scalars and axes of one entry stand against all."""
        out = []
        for axis, size in enumerate(shape):
            along = [labels[axis] for labels in found if len(labels) == len(shape) and len(labels[axis]) == size]
            along = along or [np.full(size, CONSTANT)]
            for other in along[1:]:
                self.atoms.tie(along[0], other)
            merged = along[0]
            for other in along[1:]:
                merged = np.where(merged == CONSTANT, other, merged)
            out.append(merged)
        return Labels(out)

    def product(self, _: Reading, values: Sequence[Any], params: dict[str, Any]) -> Labels:
        left, right = map(labels_of, values)
        (left_sum, right_sum), (left_batch, right_batch) = params["dimension_numbers"]
        for i, j in [*zip(left_sum, right_sum, strict=True), *zip(left_batch, right_batch, strict=True)]:
            self.atoms.tie(left[i], right[j])
        free = [left[i] for i in range(len(left)) if i not in (*left_sum, *left_batch)]
        free += [right[j] for j in range(len(right)) if j not in (*right_sum, *right_batch)]
        return Labels([*(left[i] for i in left_batch), *free])

    def convolution(self, _: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        x, kernel = map(labels_of, values)
        numbers, groups = params["dimension_numbers"], params["feature_group_count"]
        if params["batch_group_count"] != 1:
            return NotImplemented
        (batch, channel, *places), (output, given, *window) = numbers.lhs_spec, numbers.rhs_spec
        self.atoms.fix([*(x[axis] for axis in places), *(kernel[axis] for axis in window)])
        inputs, outputs = x[channel], kernel[output]
        if groups == 1:
            self.atoms.tie(inputs, kernel[given])
        elif groups == len(inputs):  # depthwise
            self.atoms.fix([kernel[given]])
            self.atoms.tie(np.repeat(inputs, len(outputs) // groups), outputs)
        else:  # every group keeps as many: its j-th input and k-th output go with the others'
            self.atoms.tie(inputs, np.tile(kernel[given], groups))
            self.atoms.tie(outputs, np.tile(outputs[: len(outputs) // groups], groups))
        shape = dict(zip(numbers.out_spec, (x[batch], outputs), strict=False))
        sizes = _convolved(x, kernel, params)
        return Labels(shape.get(axis, np.full(sizes[axis], FIXED)) for axis in range(len(x)))

    def broadcast(self, _: Reading, values: Sequence[Any], params: dict[str, Any]) -> Labels:
        out, placed = list(Labels.constant(params["shape"])), labels_of(values[0])
        for along, axis in zip(placed, params["broadcast_dimensions"], strict=True):
            if len(along) == len(out[axis]):
                out[axis] = along
        return Labels(out)

    def squeezed(self, _: Reading, values: Sequence[Any], params: dict[str, Any]) -> Labels:
        """Drops axes of one entry; without it nothing of the value would be left."""
        self.atoms.fix([values[0][axis] for axis in params["dimensions"]])
        return Labels(along for axis, along in enumerate(values[0]) if axis not in params["dimensions"])

    def summed(self, _: Reading, values: Sequence[Any], params: dict[str, Any]) -> Labels:
        """Leaves an axis out: what is removed from it adds what a zero adds, behind all that was done to it."""
        self.sums.extend(values[0][axis] for axis in params["axes"])
        return Labels(along for axis, along in enumerate(values[0]) if axis not in params["axes"])

    def reduced(self, _: Reading, values: Sequence[Any], params: dict[str, Any]) -> Labels:
        """Leaves an axis out that must stay whole: a zero may be the largest."""
        self.atoms.fix([values[0][axis] for axis in params["axes"]])
        return Labels(along for axis, along in enumerate(values[0]) if axis not in params["axes"])

    def windowed(self, _: Reading, values: Sequence[Any], params: dict[str, Any]) -> Labels:
        (x,) = values
        out = []
        for axis, along in enumerate(x):
            size = params["window_dimensions"][axis]
            if size == 1 and params["window_strides"][axis] == 1 and params["padding"][axis] == (0, 0):
                out.append(along)
                continue
            self.atoms.fix([along])
            spread = (size - 1) * params["window_dilation"][axis] + 1
            padded = (len(along) - 1) * params["base_dilation"][axis] + 1 + sum(params["padding"][axis])
            out.append(np.full((padded - spread) // params["window_strides"][axis] + 1, FIXED))
        return Labels(out)

    def concatenated(self, _: Reading, values: Sequence[Any], params: dict[str, Any]) -> Labels:
        found, joined = [labels_of(value) for value in values], params["dimension"]
        shape = [0 if axis == joined else size for axis, size in enumerate(found[0].shape)]
        others = [Labels(np.full(0, FIXED) if i == joined else along for i, along in enumerate(v)) for v in found]
        out = list(self._tied(others, shape))
        out[joined] = np.concatenate([labels[joined] for labels in found])
        return Labels(out)

    def tiled(self, _: Reading, values: Sequence[Any], params: dict[str, Any]) -> Labels:
        """Repeats the labels along each axis: what is made of one entry goes with it. One entry stands for all."""
        return Labels(
            np.full(times, CONSTANT) if len(along) == 1 != times else np.tile(along, times)
            for along, times in zip(labels_of(values[0]), params["reps"], strict=True)
        )

    def piled(self, _: Reading, values: Sequence[Any], params: dict[str, Any]) -> Labels:
        """Ties the values of a stack entry by entry; those along the new axis stay."""
        found = [labels_of(value) for value in values]
        out = list(self._tied(found, found[0].shape))
        out.insert(params["axis"], np.full(len(found), FIXED))
        return Labels(out)

    def unpiled(self, _: Reading, params: dict[str, Any], values: Sequence[Any]) -> list[Labels]:
        """Takes a stack apart along an axis that stays: without one of its entries nothing of a value would be left."""
        (x,), gone = values, params["axis"]
        self.atoms.fix([x[gone]])
        return [Labels(along for axis, along in enumerate(x) if axis != gone)] * len(x[gone])

    def sliced(self, _: Reading, values: Sequence[Any], params: dict[str, Any]) -> Labels:
        strides = params["strides"] or (1,) * len(values[0])
        cuts = zip(values[0], params["start_indices"], params["limit_indices"], strides, strict=True)
        return Labels(along[start:limit:stride] for along, start, limit, stride in cuts)

    def split_up(self, _: Reading, params: dict[str, Any], values: Sequence[Any]) -> list[Labels]:
        ends = np.cumsum(params["sizes"])[:-1]
        parts = np.split(values[0][params["axis"]], ends)
        return [Labels(p if i == params["axis"] else along for i, along in enumerate(values[0])) for p in parts]

    def padded(self, _: Reading, values: Sequence[Any], params: dict[str, Any]) -> Labels:
        """Appends entries: zeros may go with whatever they meet, as the channels that a shortcut appends."""
        x, edge = labels_of(values[0]), values[1]
        zero = not isinstance(edge, Labels | Tracer) and not np.any(np.asarray(edge))
        out = []
        for along, (low, high, inside) in zip(x, params["padding_config"], strict=True):
            if inside or low < 0 or high < 0:
                self.atoms.fix([along])
                length = len(along) + low + high + inside * max(0, len(along) - 1)
                out.append(np.full(length, FIXED))
            else:
                beside = CONSTANT if zero else FIXED
                out.append(np.concatenate([np.full(low, beside), along, np.full(high, beside)]))
        return Labels(out)

    def gathered(self, _: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        """Keeps the axes of the operand that are taken whole, as the features of an embedding."""
        operand, indices = map(labels_of, values)
        numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
        self.atoms.fix(indices)
        gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
        whole = [size == len(operand[i]) and i not in numbers.start_index_map for i, size in enumerate(sizes)]
        self.atoms.fix([operand[i] for i, kept in enumerate(whole) if not kept])
        kept_axes = [i for i in range(len(operand)) if i not in gone]
        rank = len(indices) - 1 + len(numbers.offset_dims)
        out: list[Axis | None] = [None] * rank
        for axis, i in zip(numbers.offset_dims, kept_axes, strict=True):
            out[axis] = operand[i] if whole[i] else np.full(sizes[i], FIXED)
        rest = iter(indices[:-1])
        return Labels(np.full(len(next(rest)), FIXED) if along is None else along for along in out)

    def reshaped(self, _: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        if params.get("dimensions") is not None:
            return NotImplemented
        axes, sizes = list(labels_of(values[0])), list(params["new_sizes"])
        if 0 in sizes:
            return NotImplemented
        out: list[Axis] = []
        for before, after in matched([len(along) for along in axes], sizes):
            out.extend(self._regrouped([axes[i] for i in before], [sizes[j] for j in after]))
        return Labels(out)

    def _regrouped(self, axes: list[Axis], sizes: list[int]) -> list[Axis]:
        """Relabels axes that become others of as many entries in all.

        One of `axes` goes on to be free, and one of those it becomes: entries that share a label are tied.
        """
        axes = [along for along in axes if len(along) > 1]
        if all(np.all(along == CONSTANT) for along in axes):
            return list(Labels.constant(sizes))
        free = [i for i, along in enumerate(axes) if self.atoms.free(along)]
        kept = None if not free else free[0] if self.splits.split == "first" else free[-1]
        self.atoms.fix([axes[i] for i in free if i != kept])
        if kept is None:
            return list(Labels.fixed(sizes))
        lengths = [len(along) for along in axes]
        along = axes[kept].reshape([-1 if i == kept else 1 for i in range(len(axes))])
        spread = np.broadcast_to(along, lengths).reshape(sizes)
        varies = [j for j, size in enumerate(sizes) if size > 1 and np.any(spread != np.take(spread, [0], j))]
        chosen = self.splits.choose(varies) if len(varies) > 1 else varies[0]
        rows = np.array(np.moveaxis(spread, chosen, 0).reshape(sizes[chosen], -1))
        for row in rows if len(varies) > 1 else ():
            if np.any(row == CONSTANT) and np.any(row != CONSTANT):
                self.atoms.fix([row])  # constants cannot follow what is removed
                row[:] = FIXED
            self.atoms.tie(np.full(len(row) - 1, row[0]), row[1:])
        if len(varies) > 1:
            self.splits.chosen.append((len(varies), rows[:, 0]))
        return [rows[:, 0].copy() if j == chosen else np.full(size, FIXED) for j, size in enumerate(sizes)]

    def scanned(self, reading: Reading, params: dict[str, Any], values: Sequence[Any]) -> list[Labels]:
        """Reads the body once: layers in a stack lose the same channels.

        A carry that starts as a constant does not stay one, and what it meets in the body would not be tied to it.
        """
        consts, initial, stacked = scan_operands(params, [labels_of(value) for value in values])
        carried = [Labels(_changing(along) for along in labels) for labels in initial]
        carries = len(carried)
        self.atoms.fix([labels[0] for labels in stacked])
        inner = [*consts, *carried, *(Labels(labels[1:]) for labels in stacked)]
        out = [labels_of(value) for value in evaluate(reading, params["jaxpr"], inner)]
        for before, after in zip(carried, out[:carries], strict=True):
            self._met(before, after)
        layers = np.full(params["length"], FIXED)
        return [*carried, *(Labels([layers, *labels]) for labels in out[carries:])]

    def branched(self, reading: Reading, params: dict[str, Any], values: Sequence[Any]) -> list[Labels]:
        first, *others = (evaluate(reading, branch, values[1:]) for branch in params["branches"])
        first = [labels_of(value) for value in first]
        for other in others:
            for one, two in zip(first, other, strict=True):
                self._met(one, labels_of(two))
        return first

    def _met(self, one: Labels, other: Labels) -> None:
        """Ties what is one value at different times; a constant cannot follow what is removed."""
        for a, b in zip(one, other, strict=True):
            if np.any(a == CONSTANT) or np.any(b == CONSTANT):
                self.atoms.fix([a, b])
            else:
                self.atoms.tie(a, b)


def _changing(along: Axis) -> Axis:
    """Returns the labels of an axis whose constant entries change from turn to turn of a loop."""
    return np.where(along == CONSTANT, FIXED, along) if len(along) > 1 else along


def _convolved(x: Labels, kernel: Labels, params: dict[str, Any]) -> tuple[int, ...]:
    """Returns the shape of a convolution's output."""
    arrays = (jax.ShapeDtypeStruct(labels.shape, np.float32) for labels in (x, kernel))
    params = params | {"preferred_element_type": None}
    return jax.eval_shape(lambda x, k: prim.conv_general_dilated_p.bind(x, k, **params), *arrays).shape
