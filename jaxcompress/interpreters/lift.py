"""Runs an unmodified model on compressed weights."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import primitives as prim

from jaxcompress.arrays import Factored, LowRank, Masked, Sliced, Zeros, dense, is_compressed, stacked
from jaxcompress.arrays.factored import Product, Stage
from jaxcompress.arrays.sliced import shrunk
from jaxcompress.interpreters.base import Reading, bind, evaluate, trace
from jaxcompress.interpreters.slice_calls import SLICE_CALLS, custom_jvp
from jaxcompress.interpreters.slice_rules import rules
from jaxcompress.interpreters.slices import lowered, narrowed, of_constant, of_leaf, sliceable
from jaxcompress.interpreters.states import last_name, later_states
from jaxcompress.interpreters.zeros import without_zeros
from jaxcompress.paths import Params


def lift(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Makes `apply` accept compressed leaves anywhere among its arguments.

    The model is traced on the dense shapes that the leaves stand for, and its program is then evaluated on the leaves:
    a product or convolution with a `Factored` kernel runs as those of its factors, and an operation without a rule gets
    the dense array. With `Sliced` weights, of which channels are removed, every operation runs on what is left of its
    operands where its rule can (see `jaxcompress.interpreters.slices`), and the results are whole again; with `Zeros`
    nothing is multiplied. Works for Linen, NNX and plain functions, under jit, grad, vmap, scan and jax.export.
    Arguments that are no arrays (bools, strings, None, Python numbers) stay what they are.

    An output that is a later state of a `Sliced` leaf (`jaxcompress.interpreters.states`), as the new statistics of a
    call in training are, is `Sliced` too: the same is removed from it, so that the next call takes it.

    >>> import jax, jax.numpy as jnp, optax, jaxcompress as jc
    >>> from flax import linen as nn
    >>> class Net(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         x = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Dense(8)(x)))
    ...         return nn.Dense(1)(x)
    >>> model, x = Net(), jnp.linspace(-1, 1, 12).reshape(6, 2)
    >>> variables, optimiser = model.init(jax.random.key(0), x), optax.adam(0.1)
    >>> state = optimiser.init(variables["params"])
    >>> apply = lambda variables, x: model.apply(variables, x, mutable=["batch_stats"])
    >>> found = jc.channels(apply, variables, x)
    >>> kept = jc.prune.select(jc.prune.importance.l2(variables, found), found, 0.5)
    >>> state = jc.prune.remove_from_state(state, variables, found, kept)
    >>> variables = jc.prune.remove(variables, found, kept)
    >>> params, statistics = variables["params"], variables["batch_stats"]
    >>> @jax.jit
    ... def step(params, statistics, state):
    ...     def loss(params):
    ...         y, new = jc.lift(apply)({"params": params, "batch_stats": statistics}, x)
    ...         return jnp.mean(y**2), new["batch_stats"]
    ...     grads, statistics = jax.grad(loss, has_aux=True)(params)
    ...     updates, state = optimiser.update(grads, state, params)
    ...     return optax.apply_updates(params, updates), statistics, state
    >>> for _ in range(3):
    ...     params, statistics, state = step(params, statistics, state)
    >>> statistics["BatchNorm_0"]["mean"].weight.shape, statistics["BatchNorm_0"]["mean"].shape
    ((4,), (8,))

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
        states = later_states(program, _names_of_sliced(args, kwargs, program.values))
        outputs = [
            _cut_as(out, program.values[states[place]]) if place in states else lowered(out)
            for place, out in enumerate(outputs)
        ]
        return jax.tree.unflatten(program.outputs, outputs)

    return lifted


def _names_of_sliced(args: Any, kwargs: Any, values: Sequence[Any]) -> dict[int, str]:
    """Returns the last keys of the paths of `Sliced` arguments, by their place among the `values` of the program."""
    names: dict[int, str] = {}
    place = 0
    for keys, leaf in jax.tree_util.tree_flatten_with_path((args, kwargs), is_leaf=is_compressed)[0]:
        if place < len(values) and leaf is values[place]:
            if isinstance(leaf, Sliced):
                names[place] = last_name(keys)
            place += 1
    return names


def _cut_as(value: Any, leaf: Sliced) -> Sliced:
    """Returns a later state of a leaf, of which the same is removed."""
    return replace(leaf, weight=narrowed(value, (None,) * leaf.stack_axes + leaf.keep, leaf.shape))


def smaller(apply: Callable[..., Any], params: Params) -> tuple[Callable[..., Any], Params]:
    """Returns the model of which channels are removed as a function of its smaller weights, and these weights.

    ``smaller(apply, params)`` gives ``(function, weights)`` with ``function(weights, *args)`` equal to the lifted
    ``apply(params, *args)``; in `weights`, and in outputs that are later states of these, what is left of a `Sliced`
    leaf stands by itself, so that whatever is done to the weights of a dense model can be done to these; `Zeros` are
    not looked at there. Without `Sliced` leaves and `Zeros` both are what they were.
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
        return shrunk(lift(apply)(jax.tree.unflatten(structure, params), *args, **kwargs))

    return function, shrunk(params)


def _dot(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    """Runs a product with a factorized kernel, on either side, as the products of its factors."""
    left, right = values
    (left_axes, right_axes), (left_batch, right_batch) = params["dimension_numbers"]
    if left_batch or right_batch or (isinstance(left, Factored) and isinstance(right, Factored)):
        return NotImplemented

    def product(a: Any, b: Any, a_axes: Sequence[int], b_axes: Sequence[int]) -> Any:
        numbers = ((tuple(a_axes), tuple(b_axes)), ((), ()))
        return bind(reading, prim.dot_general_p, a, b, **{**params, "dimension_numbers": numbers})

    if isinstance(right, Factored):
        return _thin_products(left, right, left_axes, right_axes, product)
    if isinstance(left, Factored):
        out = _thin_products(right, left, right_axes, left_axes, product)
        if out is NotImplemented:
            return out
        kept = out.ndim - (left.ndim - len(left_axes))  # the kernel stood first, so its axes come first
        return jax.lax.transpose(out, [*range(kept, out.ndim), *range(kept)])
    return NotImplemented


def _thin_products(x: Any, kernel: Factored, x_axes: Sequence[int], axes: Sequence[int], product: Product) -> Any:
    if isinstance(kernel, LowRank):
        if kernel.stack_axes or sorted(axes) != list(range(kernel.input_axes)):
            return NotImplemented
        thin = product(x, kernel.u, x_axes, axes)
        return product(thin, kernel.v, (thin.ndim - 1,), (0,))
    if kernel.ndim != 2 or tuple(axes) != (0,):
        return NotImplemented
    out = kernel.multiply(jnp.moveaxis(dense(x), x_axes[0], -1), product)
    return NotImplemented if out is None else out


def _conv(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    """Runs a convolution by a factorized kernel as the convolutions of its factors."""
    x, kernel = values
    if not isinstance(kernel, Factored) or is_compressed(x) or params["batch_group_count"] != 1:
        return NotImplemented
    spatial, numbers = len(params["window_strides"]), params["dimension_numbers"]
    height_first = (spatial + 1, spatial, *range(spatial))  # (out, in, *spatial) stored as (*spatial, in, out)
    if kernel.ndim != spatial + 2 or numbers.rhs_spec != height_first:
        return NotImplemented
    stages = kernel.stages()
    if stages is not None:
        return _staged(reading, x, stages, params)
    if params["feature_group_count"] != 1:
        raise ValueError(
            f"a {type(kernel).__name__} of shape {kernel.shape} stands in a convolution of"
            f" {params['feature_group_count']} groups, for which it has no meaning (made by {kernel.owner!r})"
        )
    return _by_planes(reading, x, kernel, params)


def _staged(reading: Reading, x: Any, stages: Sequence[Stage], params: dict[str, Any]) -> Any:
    """Runs one convolution after the other; of a grouped one all but the last have the same kernel in every group."""
    spatial, groups = len(params["window_strides"]), params["feature_group_count"]
    for stage in stages:
        here = [axis in stage.axes for axis in range(spatial)]
        kernel = stage.kernel
        if groups > 1 and stage is not stages[-1]:
            kernel = jnp.tile(dense(kernel), groups)
        own = {
            "window_strides": tuple(n if held else 1 for n, held in zip(params["window_strides"], here, strict=True)),
            "padding": tuple(n if held else (0, 0) for n, held in zip(params["padding"], here, strict=True)),
            "lhs_dilation": tuple(n if held else 1 for n, held in zip(params["lhs_dilation"], here, strict=True)),
            "rhs_dilation": tuple(n if held else 1 for n, held in zip(params["rhs_dilation"], here, strict=True)),
            "feature_group_count": groups * stage.kernel.shape[-1] if stage.depthwise else groups,
        }
        x = bind(reading, prim.conv_general_dilated_p, x, kernel, **{**params, **own})
    return x


def _by_planes(reading: Reading, x: Any, kernel: Factored, params: dict[str, Any]) -> Any:
    """Runs a convolution in the way that the kernel has of its own, channels last."""
    spatial, numbers = len(params["window_strides"]), params["dimension_numbers"]
    last = (0, spatial + 1, *range(1, spatial + 1))
    options = {**params, "dimension_numbers": numbers._replace(lhs_spec=last, out_spec=last)}

    def convolution(x: Array, kernel: Array) -> Array:
        return bind(reading, prim.conv_general_dilated_p, x, kernel, **options)

    def product(a: Any, b: Any, a_axes: Sequence[int], b_axes: Sequence[int]) -> Any:
        own = {"precision": params["precision"], "preferred_element_type": params["preferred_element_type"]}
        return jax.lax.dot_general(dense(a), dense(b), ((tuple(a_axes), tuple(b_axes)), ((), ())), **own)

    batch, channel, *places = numbers.lhs_spec
    out = kernel.convolve(jax.lax.transpose(x, (batch, *places, channel)), convolution, product)
    if out is None:
        return NotImplemented
    batch, channel, *places = numbers.out_spec
    order = [0] * out.ndim
    for axis, place in enumerate((batch, *places, channel)):
        order[place] = axis
    return jax.lax.transpose(out, order)


def _transpose(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    """Transposes a matrix of two factors by swapping them."""
    (leaf,) = values
    if not isinstance(leaf, LowRank) or leaf.ndim != 2 or tuple(params["permutation"]) != (1, 0):
        return NotImplemented
    u, v = (bind(reading, prim.transpose_p, factor, permutation=(1, 0)) for factor in (leaf.u, leaf.v))
    return replace(leaf, u=v, v=u)


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


_LIFT = Reading(
    rules={
        prim.dot_general_p: _dot,
        prim.conv_general_dilated_p: _conv,
        prim.transpose_p: _transpose,
        prim.convert_element_type_p: _convert,
    },
    concerns=lambda values: any(map(is_compressed, values)),
    lower=dense,
    stacked=stacked,
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
        otherwise=lambda equation, values: custom_jvp(_ON_SLICES, equation, values),
        constant=of_constant,
    )


def _unsliced(value: Any) -> Any:
    return value if is_compressed(value) else lowered(value)


_ON_SLICES = _on_slices()
