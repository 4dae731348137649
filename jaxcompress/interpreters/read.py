"""Reads the graph of a model from its jaxpr."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jax.extend.core import primitives as prim

from jaxcompress.arrays import dense, is_compressed
from jaxcompress.interpreters.base import INLINE, Reading, evaluate, trace
from jaxcompress.interpreters.fusion import fuse, is_constant
from jaxcompress.interpreters.graph import INPUT, Graph, Node, Window, convolve, pool
from jaxcompress.interpreters.lift import smaller
from jaxcompress.paths import Params, flatten


def read(apply: Callable[..., Any], params: Params, example: Any) -> tuple[Graph, Params]:
    """Reads the graph of ``apply(params, example)`` and the weights folded into it.

    `example` is one input, or its `jax.ShapeDtypeStruct`, with a batch of one first and channels last. `params` is all
    that the model needs to run as in inference, batch statistics included. The weights are differentiable in `params`;
    compressed leaves stay what they are unless something has to be multiplied into them. Where channels are removed
    (`Sliced` leaves), or layers (`Zeros`), the graph is that of the smaller model. Raises ValueError for an operation
    that has no place in the graph.
    """
    if example.shape[0] != 1:
        raise ValueError(f"the example has shape {example.shape}; its first axis is a batch of one")
    apply, params = smaller(apply, params)
    program = trace(apply, (params, example), {}, is_compressed)
    if len(program.values) != len(flatten(params)) + 1 or len(program.closed.jaxpr.outvars) != 1:
        raise ValueError("a graph is of one input array and one output array")
    builder = _Builder()
    marked = [_Weight(path, value) for path, value in zip(flatten(params), program.values, strict=False)]
    (output,) = evaluate(_reading(builder), program.closed, [*marked, _Tensor(INPUT, tuple(example.shape))])
    if not isinstance(output, _Tensor):
        raise ValueError("the output of the model does not depend on its input")
    return fuse(builder.nodes, builder.constants, tuple(example.shape), output.name)


# Every equation that meets an activation becomes a raw node; what belongs together is found by `fuse`.


class _Tensor(NamedTuple):
    """Stands for the output of a node."""

    name: str
    shape: tuple[int, ...]


class _Weight(NamedTuple):
    """Marks a value that comes from a leaf of the parameters."""

    path: str
    value: Any


class _Builder:
    """Collects raw nodes and the constants that they are computed with."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.constants: dict[str, Any] = {}

    def add(
        self,
        kind: str,
        inputs: Sequence[_Tensor],
        shape: Sequence[int],
        name: str = "",
        constant: Any = None,
        **at: Any,
    ) -> _Tensor:
        stem, name, number = name or kind, name or kind, 1
        while name in self.nodes or name == INPUT:
            number += 1
            name = f"{stem}_{number}"
        self.nodes[name] = Node(name, kind, tuple(tensor.name for tensor in inputs), tuple(shape), **at)
        if constant is not None:
            self.constants[name] = constant
        return _Tensor(name, tuple(shape))


def _reading(builder: _Builder) -> Reading:
    def unary(
        primitive: core.Primitive, kind: str, shape: Callable[[_Tensor, dict[str, Any]], Sequence[int]], axes: str = ""
    ) -> Callable[..., Any]:
        def rule(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
            x = values[0]
            if not isinstance(x, _Tensor):
                return _moved(primitive, x, params)
            return builder.add(kind, [x], shape(x, params), axes=tuple(params[axes]) if axes else ())

        return rule

    def paired(kind: str, constant_right: str, constant_left: str | None) -> Callable[..., Any]:
        """Reads an operation on two activations as `kind`, on one and a constant to either side as the others."""

        def rule(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
            left, right = values
            if isinstance(left, _Tensor) and isinstance(right, _Tensor):
                return builder.add(kind, [left, right], np.broadcast_shapes(left.shape, right.shape))
            if isinstance(left, _Tensor):
                return builder.add(constant_right, [left], left.shape, constant=_value(right))
            if constant_left is None or not isinstance(right, _Tensor):
                return NotImplemented
            return builder.add(constant_left, [right], right.shape, constant=_value(left))

        return rule

    def product(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        x, kernel = values
        (contracted, axes), batched = params["dimension_numbers"]
        if not isinstance(x, _Tensor) or isinstance(kernel, _Tensor) or len(_value(kernel).shape) != 2:
            return NotImplemented
        if tuple(map(tuple, batched)) != ((), ()) or tuple(contracted) != (len(x.shape) - 1,):
            return NotImplemented
        if tuple(axes) == (1,):
            kernel = _moved(prim.transpose_p, kernel, {"permutation": (1, 0)})
        value = _value(kernel)
        return builder.add("dense", [x], (*x.shape[:-1], value.shape[1]), _layer(kernel), constant=value)

    def convolution(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        x, kernel = values
        numbers = params["dimension_numbers"]
        channels_last = (0, 3, 1, 2)
        if not isinstance(x, _Tensor) or isinstance(kernel, _Tensor) or len(x.shape) != 4:
            return NotImplemented
        if (numbers.lhs_spec, numbers.out_spec) != (channels_last, channels_last) or params["lhs_dilation"] != (1, 1):
            return NotImplemented
        if numbers.rhs_spec != (3, 2, 0, 1):
            order = (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])
            kernel = _moved(prim.transpose_p, kernel, {"permutation": order})
        value = _value(kernel)
        window = Window(
            tuple(value.shape[:2]),
            tuple(params["window_strides"]),
            tuple(map(tuple, params["padding"])),
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
            if not isinstance(x, _Tensor) or len(x.shape) != 4 or dilated or (size[0], size[3]) != (1, 1):
                return NotImplemented
            window = Window(tuple(size[1:3]), tuple(strides[1:3]), tuple(map(tuple, params["padding"][1:3])))
            shape = jax.eval_shape(lambda x: pool(x, lax.add, 0.0, window), _float(x.shape)).shape
            return builder.add(kind, [x], shape, window=window)

        return rule

    def concatenated(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        if not all(isinstance(value, _Tensor) for value in values):
            return NotImplemented
        axis = params["dimension"]
        shape = list(values[0].shape)
        shape[axis] = sum(value.shape[axis] for value in values)
        return builder.add("concatenate", values, shape, axes=(axis,))

    def sliced(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        (x,) = values
        if not isinstance(x, _Tensor):
            return NotImplemented
        strides = params["strides"] or (1,) * len(x.shape)
        extents = tuple(zip(params["start_indices"], params["limit_indices"], strides, strict=True))
        shape = [-(-(limit - start) // stride) for start, limit, stride in extents]
        return builder.add("slice", [x], shape, extents=extents)

    def padded(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        x, fill = values
        edges = params["padding_config"]
        if not isinstance(x, _Tensor) or not is_constant(fill, 0) or any(min(e) < 0 or e[2] for e in edges):
            return NotImplemented
        extents = tuple((low, high) for low, high, _ in edges)
        return builder.add("pad", [x], [n + sum(e) for n, e in zip(x.shape, extents, strict=True)], extents=extents)

    def clamp(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        low, x, high = values
        if not isinstance(x, _Tensor):
            return NotImplemented
        return builder.add(
            "min", [builder.add("max", [x], x.shape, constant=_value(low))], x.shape, constant=_value(high)
        )

    def converted(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        (x,) = values
        if not isinstance(x, _Tensor):
            return _moved(prim.convert_element_type_p, x, params)
        if not jnp.issubdtype(params["new_dtype"], jnp.floating):
            return NotImplemented
        return builder.add("identity", [x], x.shape)

    def broadcast(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
        x = values[0]
        if not isinstance(x, _Tensor):
            return _moved(prim.broadcast_in_dim_p, x, params)
        if math.prod(params["shape"]) != math.prod(x.shape):
            return NotImplemented
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
        concerns=lambda values: any(isinstance(value, _Tensor | _Weight) for value in values),
        lower=_value,
        stacked=_value,
        calls=INLINE,
        otherwise=_refuse,
    )


def _refuse(equation: core.JaxprEqn, values: Sequence[Any]) -> None:
    """Raises ValueError for an equation on an activation that no rule reads."""
    if any(isinstance(value, _Tensor) for value in values):
        place = str(equation.source_info.name_stack) or "the model"
        raise ValueError(f"{place} computes {equation.primitive.name!r}, which has no place in a graph of the device")


def _moved(primitive: core.Primitive, weight: Any, params: dict[str, Any]) -> Any:
    """Moves a weight's axes or changes its dtype; it goes on to be known by its path."""
    if not isinstance(weight, _Weight):
        return primitive.bind(weight, **params)
    if primitive is prim.convert_element_type_p and weight.value.dtype == params["new_dtype"]:
        return weight
    if primitive in (prim.transpose_p, prim.reshape_p, prim.convert_element_type_p, prim.squeeze_p):
        return weight._replace(value=primitive.bind(dense(weight.value), **params))
    return primitive.bind(dense(weight.value), **params)


def _layer(kernel: Any) -> str:
    """Names a layer after the path of its kernel: ``block/conv1`` for ``block/conv1/kernel``."""
    return kernel.path.rpartition("/")[0] or kernel.path if isinstance(kernel, _Weight) else ""


def _value(value: Any) -> Any:
    return value.value if isinstance(value, _Weight) else value


def _float(shape: Sequence[int]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), np.float32)
