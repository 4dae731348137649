"""Finds where a model multiplies by each of its weights, and what it multiplies them with."""

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend import core
from jax.extend.core import primitives as prim

from jaxcompress.arrays import densify
from jaxcompress.interpreters.axes import Axes
from jaxcompress.interpreters.base import CALLS, INLINE, Reading, evaluate, trace
from jaxcompress.interpreters.cost import macs, multiply_adds
from jaxcompress.interpreters.lift import lift, smaller
from jaxcompress.interpreters.loops import scan_operands
from jaxcompress.interpreters.weights import Atoms, Weight, weight
from jaxcompress.paths import Params, flatten, select


class Use(NamedTuple):
    """Describes one product or convolution with a weight, as the program writes it, the weight second.

    `input` is the other operand, `weight` the weight as it stands there (transposed, reshaped or converted, if the
    model does so), `output` the result, and `params` are those of the `primitive`. `axes` are the parts that the axes
    of the leaf play in it, None if one plays several, and `atoms` tell what each axis of `weight` is of the leaf.
    """

    input: jax.Array
    weight: jax.Array
    output: jax.Array
    primitive: core.Primitive
    params: dict[str, Any]
    axes: Axes | None = None
    atoms: Atoms | None = None

    @property
    def macs(self) -> int:
        """The multiply-adds of the operation, zeros included."""
        shapes = (self.input.shape, self.weight.shape)
        return multiply_adds(self.primitive, shapes, self.output.shape, self.params)


def uses(apply: Callable[..., Any], measure: Callable[[Use], Any]) -> Callable[..., dict[str, list[Any]]]:
    """Makes ``apply(params, *args)`` return ``measure(use)`` of every use of every weight, by the weight's path.

    Uses stand in the order of the program. `measure` runs inside the same jit as the model, so that only what it
    returns is kept: a mean, a range, a second moment. The weight must be an operand of a product, or the second of a
    convolution, straight from `params` but for transposes, reshapes, reversals and conversions. A weight that a scan
    has in every turn is used once a turn; of one that it slices the arrays that `measure` returns are stacked, a layer
    for each turn. Other loops and branches run as they stand, unseen. Compressed leaves stand for the dense array that
    they mean, `Sliced` ones for what is left: uses are those of the smaller model.
    """

    @functools.wraps(apply)
    def measured(params: Any, *args: Any, **kwargs: Any) -> dict[str, list[Any]]:
        found: defaultdict[str, list[Any]] = defaultdict(list)
        function, params = smaller(apply, params)
        params = densify(params)
        program = trace(function, (params, *args), kwargs)
        paths = list(flatten(params))
        marked = [weight(path, value) for path, value in zip(paths, program.values, strict=False)]
        evaluate(_reading(measure, found), program.closed, [*marked, *program.values[len(paths) :]])
        return dict(found)

    return measured


def axes(apply: Callable[..., Any], params: Params, pattern: str, *args: Any, **kwargs: Any) -> dict[str, Axes]:
    """Returns the parts that the axes of each kernel that matches `pattern` play in ``apply(params, *args)``, by path.

    Nothing is computed: `args` may be `jax.ShapeDtypeStruct`s. Of a kernel that is used several times, all uses must
    have the same two sides; the first says which is that of the inputs.

    Raises ValueError for a pattern without a match, and, with the path, for a kernel that no product or convolution
    has as it stands, transposed or reshaped, or of which uses differ.
    """
    found: dict[str, list[Axes | None]] = {}

    def look(params: Params, *args: Any) -> None:
        found.update(uses(apply, lambda use: use.axes)(params, *args, **kwargs))

    jax.eval_shape(look, densify(params), *args)
    table: dict[str, Axes] = {}
    for path in select(params, pattern):
        each = list({id(one): one for one in found.get(path, ())}.values())
        known = [one for one in each if one is not None]
        if not known or len(known) < len(each) or len({one.sides for one in known}) > 1:
            raise ValueError(
                f"{path} is not multiplied as it stands, nor transposed or reshaped, as one and the same matrix: there"
                f" are {len(each)} products and convolutions with it, and {len({one.sides for one in known})} matrices"
            )
        table[path] = replace(known[0], counts=tuple(count for one in known for count in one.counts))
    return table


def _reading(measure: Callable[[Use], Any], found: defaultdict[str, list[Any]]) -> Reading:
    def used(primitive: core.Primitive) -> Callable[..., Any]:
        def rule(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
            x, kernel = values
            if isinstance(x, Weight) == isinstance(kernel, Weight):
                return NotImplemented
            if isinstance(x, Weight):
                return (
                    NotImplemented if primitive is not prim.dot_general_p else _turned(measure, found, values, params)
                )
            return _used(measure, found, primitive, x, kernel, params)

        return rule

    def moved(primitive: core.Primitive) -> Callable[..., Any]:
        def rule(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
            return values[0].moved(primitive, params)

        return rule

    operations = (prim.dot_general_p, prim.conv_general_dilated_p)
    moves = (prim.transpose_p, prim.reshape_p, prim.rev_p, prim.convert_element_type_p)
    loops = {prim.scan_p: lambda reading, params, values: _scan(measure, found, params, values)}
    return Reading(
        rules={p: used(p) for p in operations} | {p: moved(p) for p in moves},
        concerns=lambda values: any(isinstance(value, Weight) for value in values),
        lower=_value,
        stacked=_value,
        calls={p: CALLS[p] for p in (prim.jit_p, prim.closed_call_p)} | {prim.remat_p: INLINE[prim.remat_p]} | loops,
    )


def _used(
    measure: Callable[[Use], Any],
    found: defaultdict[str, list[Any]],
    primitive: core.Primitive,
    x: Any,
    kernel: Weight,
    params: dict[str, Any],
) -> Any:
    output = primitive.bind(x, kernel.value, **params)
    like = jax.ShapeDtypeStruct(x.shape, x.dtype)

    def count(leaf: Any) -> int:
        run = lambda leaf, x: kernel.within(lambda value: primitive.bind(x, value, **params))(leaf)
        return macs(lift(run), leaf, like)

    own = kernel.axes(primitive, params, count)
    found[kernel.path].append(measure(Use(x, kernel.value, output, primitive, params, own, kernel.atoms)))
    return output


def _turned(
    measure: Callable[[Use], Any], found: defaultdict[str, list[Any]], values: Sequence[Any], params: dict[str, Any]
) -> Any:
    """Reads a product whose first operand is the weight as the one with the weight second."""
    kernel, x = values
    (left, right), (left_batch, right_batch) = params["dimension_numbers"]
    numbers = ((right, left), (right_batch, left_batch))
    out = _used(measure, found, prim.dot_general_p, x, kernel, {**params, "dimension_numbers": numbers})
    batch, free = len(left_batch), x.ndim - len(right)
    return lax.transpose(out, [*range(batch), *range(free, out.ndim), *range(batch, free)])


def _scan(
    measure: Callable[[Use], Any],
    found: defaultdict[str, list[Any]],
    params: dict[str, Any],
    values: Sequence[Any],
) -> list[Any]:
    """Runs a scan, and gives out what is measured in its turns."""
    consts, initial, layers = scan_operands(params, values)
    carries, length = len(initial), params["length"]
    fixed = [value.repeated(length) if isinstance(value, Weight) else value for value in consts]
    kept: list[Any] = []  # what was measured in the turn that is traced: structure, and leaves

    def turn(carry: list[Any], slices: list[Any]) -> tuple[list[Any], tuple[list[Any], list[Any]]]:
        inside: defaultdict[str, list[Any]] = defaultdict(list)
        one = [w.sliced(x, length) if isinstance(w, Weight) else x for w, x in zip(layers, slices, strict=True)]
        out = list(map(_value, evaluate(_reading(measure, inside), params["jaxpr"], [*fixed, *carry, *one])))
        leaves, structure = jax.tree.flatten(dict(inside))
        kept[:] = [structure, leaves]
        return out[:carries], (out[carries:], [leaf for leaf in leaves if isinstance(leaf, jax.Array)])

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    final, (outputs, arrays) = lax.scan(turn, list(map(_value, initial)), list(map(_value, layers)), **options)
    structure, leaves = kept
    source = iter(arrays)
    whole = [next(source) if isinstance(leaf, jax.Array) else leaf for leaf in leaves]
    of_all = jax.tree.unflatten(structure, whole)
    sliced = {w.path for w in layers if isinstance(w, Weight)}
    for path, measured in of_all.items():
        if path in sliced:
            found[path] += measured
            continue
        for i in range(length):
            found[path] += jax.tree.map(lambda leaf, i=i: leaf[i] if isinstance(leaf, jax.Array) else leaf, measured)
    return [*final, *outputs]


def _value(value: Any) -> Any:
    return value.value if isinstance(value, Weight) else value
