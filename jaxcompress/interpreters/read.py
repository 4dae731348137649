"""Reads the graph of a model from its jaxpr."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jax.extend.core import primitives as prim

from jaxcompress.arrays import dense, is_compressed
from jaxcompress.interpreters.base import INLINE, Program, Reading, evaluate, trace
from jaxcompress.interpreters.batches import (
    INFERENCE,
    Tensor,
    check_apart,
    check_first,
    check_kept,
    check_size_unused,
    examples,
    for_one,
)
from jaxcompress.interpreters.fusion import fuse, is_constant
from jaxcompress.interpreters.graph import INPUT, Graph, Window, convolve, pool
from jaxcompress.interpreters.lift import smaller
from jaxcompress.interpreters.nodes import Builder, Repeated, Weight, value_of
from jaxcompress.paths import Params, flatten


def read(apply: Callable[..., Any], params: Params, example: Any) -> tuple[Graph, Params]:
    """Reads the graph of ``apply(params, example)`` and the weights folded into it.

    `example` is one input of floats, or its `jax.ShapeDtypeStruct`, with a batch of one first and channels last.
    `params` is all that the model needs to run as in inference, batch statistics included. The weights are
    differentiable in `params`; compressed leaves stay what they are unless something has to be multiplied into them.
    Where channels are removed (`Sliced` leaves), or layers (`Zeros`), the graph is that of the smaller model.

    The graph is that of a batch of any size. The model is traced for several examples as well, which shows where each
    operation leaves the batch: it has to stay first, by itself or with axes behind it (``x.reshape(-1, features)``);
    only transposes may move it, to and fro. Nothing is run.

    Raises ValueError for an operation that has no place in the graph, for one that mixes examples or meets the batch
    on another axis than the first, for a model that takes no other batch than one or computes with its size
    (``x * x.shape[0]``), and for an example of integers.
    """
    if example.shape[0] != 1:
        raise ValueError(f"the example has shape {example.shape}; its first axis is a batch of one")
    if not jnp.issubdtype(example.dtype, jnp.floating):
        raise ValueError(
            f"the example has dtype {example.dtype}; the input of a graph is of floats, whose grid becomes the "
            "integers of the device: convert and scale outside of the model, as x.astype(float32) / 255"
        )
    apply, params = smaller(apply, params)
    program = trace(apply, (params, example), {}, is_compressed)
    if len(program.values) != len(flatten(params)) + 1 or len(program.closed.jaxpr.outvars) != 1:
        raise ValueError("a graph is of one input array and one output array")
    counts, (of_one,) = examples(program.closed.jaxpr), program.closed.out_avals
    program, other = (_traced(apply, params, example, count) for count in counts)
    builder, shape = Builder(counts[0]), (counts[0], *example.shape[1:])
    marked = [Weight(path, value) for path, value in zip(flatten(params), program.values, strict=False)]
    (output,) = evaluate(_reading(builder), program.closed, [*marked, Tensor(INPUT, shape)])
    if not isinstance(output, Tensor):
        raise ValueError("the output of the model does not depend on its input")
    check_first(output, "the output of the model")
    check_size_unused([program.closed, other.closed], counts)
    if for_one(output, builder.count) != of_one.shape:
        raise ValueError(
            f"the model returns the shape {of_one.shape} for a batch of one, and {output.shape} for {builder.count}; a "
            "graph is of batches of any size"
        )
    return fuse(builder.nodes, builder.constants, tuple(example.shape), output.name)


def _traced(apply: Callable[..., Any], params: Params, example: Any, count: int) -> Program:
    """Writes down what a model computes for `count` examples."""
    batch = jax.ShapeDtypeStruct((count, *example.shape[1:]), example.dtype)
    try:
        return trace(apply, (params, batch), {}, is_compressed)
    except Exception as error:
        raise ValueError(
            f"the model takes a batch of one, but not of {count}: {error}; a graph is of batches of any size"
        ) from error


# Every equation that meets an activation becomes a raw node; what belongs together is found by `fuse`.


def _reading(builder: Builder) -> Reading:
    def unary(
        primitive: core.Primitive, kind: str, shape: Callable[[Tensor, dict[str, Any]], Sequence[int]], axes: str = ""
    ) -> Callable[..., Any]:
        def rule(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
            x = values[0]
            if not isinstance(x, Tensor):
                return _moved(primitive, x, params)
            if kind in ("sum", "reduce_max"):
                check_first(x, f"the {kind} of the model")
                check_apart(f"a {kind}", params[axes])
            made = shape(x, params)
            if kind == "reshape":
                check_first(x, "a reshape")
                check_kept(made, x, builder.count)
            batch = params[axes].index(x.batch) if kind == "transpose" else x.batch
            return builder.add(kind, [x], made, batch=batch, axes=tuple(params[axes]) if axes else ())

        return rule

    def paired(kind: str, constant_right: str, constant_left: str | None) -> Callable[..., Any]:
        """Reads an operation on two activations as `kind`, on one and a constant to either side as the others."""

        def rule(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
            left, right = values
            if isinstance(left, Tensor) and isinstance(right, Tensor):
                return builder.add(kind, [left, right], np.broadcast_shapes(left.shape, right.shape))
            if isinstance(left, Tensor):
                return builder.add(constant_right, [left], left.shape, constant=right)
            if constant_left is None or not isinstance(right, Tensor):
                return NotImplemented
            return builder.add(constant_left, [right], right.shape, constant=left)

        return rule

    def product(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        x, kernel = values
        (contracted, axes), batched = params["dimension_numbers"]
        if not isinstance(x, Tensor) or isinstance(kernel, Tensor) or len(value_of(kernel).shape) != 2:
            return NotImplemented
        if tuple(map(tuple, batched)) != ((), ()) or tuple(contracted) != (len(x.shape) - 1,):
            return NotImplemented
        check_apart("a product", contracted)
        if tuple(axes) == (1,):
            kernel = _moved(prim.transpose_p, kernel, {"permutation": (1, 0)})
        value = value_of(kernel)
        return builder.add("dense", [x], (*x.shape[:-1], value.shape[1]), _layer(kernel), constant=value)

    def convolution(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        x, kernel = values
        numbers = params["dimension_numbers"]
        channels_last = (0, 3, 1, 2)
        if not isinstance(x, Tensor) or isinstance(kernel, Tensor) or len(x.shape) != 4:
            return NotImplemented
        if (numbers.lhs_spec, numbers.out_spec) != (channels_last, channels_last) or params["lhs_dilation"] != (1, 1):
            return NotImplemented
        if numbers.rhs_spec != (3, 2, 0, 1):
            order = (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])
            kernel = _moved(prim.transpose_p, kernel, {"permutation": order})
        value = value_of(kernel)
        x, padding = builder.cropped(x, params["padding"])
        window = Window(
            tuple(value.shape[:2]),
            tuple(params["window_strides"]),
            padding,
            tuple(params["rhs_dilation"]),
            params["feature_group_count"],
        )
        shape = jax.eval_shape(lambda x, k: convolve(x, k, window), _float(x.shape), _float(value.shape)).shape
        return builder.add("convolution", [x], shape, _layer(kernel), constant=value, window=window)

    def windowed(kind: str) -> Callable[..., Any]:
        def rule(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
            (x,) = values
            size, strides = params["window_dimensions"], params["window_strides"]
            dilated = {*params["base_dilation"], *params["window_dilation"]} != {1}
            if not isinstance(x, Tensor) or len(x.shape) != 4 or dilated:
                return NotImplemented
            if any((size[i], strides[i], *params["padding"][i]) != (1, 1, 0, 0) for i in (0, 3)):
                return NotImplemented
            x, padding = builder.cropped(x, params["padding"][1:3])
            window = Window(tuple(size[1:3]), tuple(strides[1:3]), padding)
            shape = jax.eval_shape(lambda x: pool(x, lax.add, 0.0, window), _float(x.shape)).shape
            return builder.add(kind, [x], shape, window=window)

        return rule

    def concatenated(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        if not all(isinstance(value, Tensor) for value in values):
            return NotImplemented
        axis = params["dimension"]
        check_apart("a concatenation", [axis])
        shape = list(values[0].shape)
        shape[axis] = sum(value.shape[axis] for value in values)
        return builder.add("concatenate", values, shape, axes=(axis,))

    def sliced(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        (x,) = values
        if not isinstance(x, Tensor):
            return NotImplemented
        strides = params["strides"] or (1,) * len(x.shape)
        return builder.sliced(x, tuple(zip(params["start_indices"], params["limit_indices"], strides, strict=True)))

    def padded(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        x, fill = values
        edges = params["padding_config"]
        if not isinstance(x, Tensor) or not is_constant(fill, 0) or any(min(e) < 0 or e[2] for e in edges):
            return NotImplemented
        extents = tuple((low, high) for low, high, _ in edges)
        check_first(x, "a pad")
        check_apart("a pad", [axis for axis, of in enumerate(extents) if of != (0, 0)])
        return builder.add("pad", [x], [n + sum(e) for n, e in zip(x.shape, extents, strict=True)], extents=extents)

    def clamp(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        low, x, high = values
        if not isinstance(x, Tensor):
            return NotImplemented
        return builder.add("min", [builder.add("max", [x], x.shape, constant=low)], x.shape, constant=high)

    def converted(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        (x,) = values
        if not isinstance(x, Tensor):
            return _moved(prim.convert_element_type_p, x, params)
        if not jnp.issubdtype(params["new_dtype"], jnp.floating):
            return NotImplemented
        return builder.add("identity", [x], x.shape, batch=x.batch)

    def broadcast(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        x = values[0]
        if not isinstance(x, Tensor):
            return _broadcast(x, builder.count, params)
        if math.prod(params["shape"]) != math.prod(x.shape):
            return NotImplemented
        check_first(x, "a reshape")
        check_kept(params["shape"], x, builder.count)
        return builder.add("reshape", [x], params["shape"])

    same = lambda x, params: x.shape
    reduced = lambda x, params: [n for axis, n in enumerate(x.shape) if axis not in params["axes"]]
    unaries = [
        (prim.exp_p, "exp", same),
        (prim.copy_p, "identity", same),
        (prim.stop_gradient_p, "identity", same),
        (prim.reshape_p, "reshape", lambda x, params: params["new_sizes"]),
        (
            prim.squeeze_p,
            "reshape",
            lambda x, params: [n for i, n in enumerate(x.shape) if i not in params["dimensions"]],
        ),
        (prim.transpose_p, "transpose", lambda x, params: [x.shape[i] for i in params["permutation"]], "permutation"),
        (prim.reduce_sum_p, "sum", reduced, "axes"),
        (prim.reduce_max_p, "reduce_max", reduced, "axes"),
    ]
    rules = {
        prim.dot_general_p: product,
        prim.conv_general_dilated_p: convolution,
        prim.concatenate_p: concatenated,
        prim.slice_p: sliced,
        prim.pad_p: padded,
        prim.clamp_p: clamp,
        prim.convert_element_type_p: converted,
        prim.broadcast_in_dim_p: broadcast,
        prim.add_p: paired("add", "shift", "shift"),
        prim.mul_p: paired("multiply", "scale", "scale"),
        prim.sub_p: paired("subtract", "subtract", None),
        prim.div_p: paired("divide", "divide", None),
        prim.max_p: paired("max", "max", "max"),
        prim.min_p: paired("min", "min", "min"),
        prim.reduce_window_sum_p: windowed("window_sum"),
        prim.reduce_window_max_p: windowed("max_pool"),
    }
    return Reading(
        rules=rules | {how[0]: unary(*how) for how in unaries},
        concerns=lambda values: any(isinstance(value, Tensor | Weight | Repeated) for value in values),
        lower=value_of,
        stacked=value_of,
        calls=INLINE,
        otherwise=_refuse,
    )


# What a model computes in training alone, or there too.
_OF_TRAINING = {"square": "batch normalization", "select_n": "dropout"}


def _refuse(equation: core.JaxprEqn, values: Sequence[Any]) -> None:
    """Raises ValueError for an equation on an activation that no rule reads."""
    if any(isinstance(value, Tensor) for value in values):
        place, name = str(equation.source_info.name_stack) or "the model", equation.primitive.name
        hint = f"; {_OF_TRAINING[name]} in training computes it: {INFERENCE}" if name in _OF_TRAINING else ""
        raise ValueError(f"{place} computes {name!r}, which has no place in a graph of the device{hint}")


def _broadcast(constant: Any, count: int, params: dict[str, Any]) -> Any:
    """Broadcasts a constant, over the batch by standing for it once."""
    shape, axes = tuple(params["shape"]), tuple(params["broadcast_dimensions"])
    repeats = shape[:1] == (count,) and (axes[:1] != (0,) or value_of(constant).shape[0] == 1)
    if not repeats or not isinstance(constant, Weight):
        return _moved(prim.broadcast_in_dim_p, constant, params)
    return Repeated(_moved(prim.broadcast_in_dim_p, constant, {**params, "shape": (1, *shape[1:])}), count)


def _moved(primitive: core.Primitive, weight: Any, params: dict[str, Any]) -> Any:
    """Moves a weight's axes or changes its dtype; it goes on to be known by its path."""
    if not isinstance(weight, Weight):
        return primitive.bind(value_of(weight), **params)
    if primitive is prim.convert_element_type_p and weight.value.dtype == params["new_dtype"]:
        return weight
    if primitive in (prim.transpose_p, prim.reshape_p, prim.convert_element_type_p, prim.squeeze_p):
        return weight._replace(value=primitive.bind(dense(weight.value), **params))
    return primitive.bind(dense(weight.value), **params)


def _layer(kernel: Any) -> str:
    """Names a layer after the path of its kernel: ``block/conv1`` for ``block/conv1/kernel``."""
    return kernel.path.rpartition("/")[0] or kernel.path if isinstance(kernel, Weight) else ""


def _float(shape: Sequence[int]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), np.float32)
