"""Weights of TFLite files as parameters of Linen models.

A converter folds each batch normalization into the layer before it, so that the parameters are those of models built
with ``norm=False``. A model then takes what the file takes: MLPerf Tiny's ResNet-8 raw pixels from 0 to 255, its
MobileNet pixels in [0, 1].
"""

import math
import os
import pathlib
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from jaxcompress.paths import Params, flatten


class Layer(NamedTuple):
    """Holds the weights of one operator as float32 in Flax's layout; `bias` is None where the operator has none."""

    operator: str
    kernel: np.ndarray
    bias: np.ndarray | None


def load(path: str | os.PathLike[str], names: Sequence[str], *, like: Params | None = None) -> Params:
    """Returns the parameters of a TFLite file; `names` names its layers (``block1/conv1``) in the order of the graph.

    `like` is a tree of the model's parameters, or of their shapes (`jax.eval_shape`), that the file must agree with.
    Raises ValueError as `layers` does, for another number of layers than of names, for a name given twice, and, naming
    the parameter, for one that the file lacks, has too many or has in another shape than `like`.
    """
    found = layers(path)
    if len(set(names)) < len(names):
        raise ValueError(f"names={list(names)}: each layer needs a name of its own")
    if len(found) != len(names):
        operators = ", ".join(layer.operator for layer in found)
        raise ValueError(f"{path} has {len(found)} layers with weights, not {len(names)} as in names: {operators}")
    arrays = {}
    for name, layer in zip(names, found, strict=True):
        arrays[f"{name}/kernel"] = jnp.asarray(layer.kernel)
        if layer.bias is not None:
            arrays[f"{name}/bias"] = jnp.asarray(layer.bias)
    if like is not None:
        _check_shapes(arrays, flatten(like), path)
    return unflatten_dict(arrays, sep="/")


def layers(path: str | os.PathLike[str]) -> list[Layer]:
    """Lists the convolutions and fully connected operators of a TFLite file's first graph, in its order.

    Kernels are turned from TFLite's layout to Flax's: (height, width, in, out), for a depthwise convolution
    (height, width, 1, out), for a fully connected layer (in, out). Integers become the float32 that they stand for,
    ``scale * (code - zero_point)`` per array or per channel (Jacob et al. 2018, arXiv:1712.05877, equation 1).

    Raises FileNotFoundError, ImportError without LiteRT, and ValueError, naming file and tensor, for what is not a
    TFLite file, is cut short or holds weights in a form that is not read here.
    """
    try:
        graph = _graph(pathlib.Path(path).read_bytes())
        return [_layer(graph, kind, operator) for kind, operator in graph.operators if kind in _TO_FLAX]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


# The axes of a kernel in TFLite, in Flax's order, by operator.
_TO_FLAX = {"CONV_2D": (1, 2, 3, 0), "DEPTHWISE_CONV_2D": (1, 2, 0, 3), "FULLY_CONNECTED": (1, 0)}

_DTYPES = {"FLOAT32": "<f4", "INT8": "i1", "UINT8": "u1", "INT32": "<i4", "INT64": "<i8"}


class _Graph(NamedTuple):
    """Holds the first graph of a file in the objects of the schema, its operators with their names."""

    operators: list[tuple[str, Any]]
    tensors: list[Any]
    buffers: list[Any]


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise ImportError("reading TFLite files needs LiteRT: pip install 'jaxcompress[tflite]'") from error
    return schema_py_generated


def _graph(data: bytes) -> _Graph:
    schema = _schema()
    if data[4:8] != b"TFL3":
        raise ValueError(f"not a TFLite file: its identifier is {data[4:8]!r}, not b'TFL3'")
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
        names = _names(schema.BuiltinOperator)
        # Older files have their codes in the narrow field and zero in the wide one.
        codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
        graph = model.subgraphs[0]
        operators = [(names[codes[operator.opcodeIndex]], operator) for operator in graph.operators]
        return _Graph(operators, list(graph.tensors), list(model.buffers))
    except (struct.error, LookupError, TypeError, ValueError) as error:
        # The schema's reader checks nothing: bytes that are not there become errors of many kinds.
        raise ValueError(f"truncated or corrupted: {error!r}") from error


def _names(codes: type) -> dict[int, str]:
    return {code: name for name, code in vars(codes).items() if not name.startswith("_")}


def _layer(graph: _Graph, kind: str, operator: Any) -> Layer:
    inputs = [] if operator.inputs is None else [int(i) for i in operator.inputs]
    kernel, bias = (_constant(graph, inputs, position, kind) for position in (1, 2))
    axes = _TO_FLAX[kind]
    if kernel is None or kernel.ndim != len(axes) or (kind == "DEPTHWISE_CONV_2D" and len(kernel) != 1):
        raise ValueError(f"{kind} has a kernel of shape {None if kernel is None else kernel.shape}")
    kernel = np.ascontiguousarray(kernel.transpose(axes))
    if bias is not None and bias.shape != kernel.shape[-1:]:
        raise ValueError(f"{kind} has a bias of shape {bias.shape} for {kernel.shape[-1]} outputs")
    return Layer(kind, kernel, bias)


def _constant(graph: _Graph, inputs: list[int], position: int, kind: str) -> np.ndarray | None:
    """Returns an input of an operator as float32, or None where that input is left out."""
    index = inputs[position] if position < len(inputs) else -1
    if index == -1:
        return None
    if not (0 <= index < len(graph.tensors) and graph.tensors[index].buffer < len(graph.buffers)):
        raise ValueError(f"truncated or corrupted: {kind} reads tensor {index}, which is not in the file")
    tensor = graph.tensors[index]
    name = (tensor.name or b"").decode(errors="replace")
    data = graph.buffers[tensor.buffer].data
    if data is None:
        raise ValueError(f"{kind} reads {name!r}, which is computed and not a constant of the file")
    values = _stored(tensor, data.tobytes(), name)
    return values if values.dtype == np.float32 else _dequantized(values, tensor.quantization, name)


def _stored(tensor: Any, data: bytes, name: str) -> np.ndarray:
    kind = _names(_schema().TensorType).get(tensor.type, f"type {tensor.type}")
    if kind not in _DTYPES or tensor.sparsity is not None:
        kind = kind if tensor.sparsity is None else f"sparse {kind}"
        raise ValueError(f"{name!r} is stored as {kind}; those read here are {', '.join(_DTYPES)}")
    shape = () if tensor.shape is None else tuple(int(n) for n in tensor.shape)
    dtype = np.dtype(_DTYPES[kind])
    if min(shape, default=1) < 1 or len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"truncated or corrupted: {name!r}, {kind} of shape {shape}, has {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape)


def _dequantized(codes: np.ndarray, quantization: Any, name: str) -> np.ndarray:
    if quantization is None or quantization.scale is None or len(quantization.scale) == 0:
        raise ValueError(f"{name!r} holds {codes.dtype} codes without a scale")
    # In float64, which holds every bit of a 32-bit bias; float32 would round it before the product.
    scale = np.asarray(quantization.scale, np.float64)
    zero_point = np.zeros(1) if quantization.zeroPoint is None else np.asarray(quantization.zeroPoint, np.float64)
    axis = quantization.quantizedDimension if len(scale) > 1 else 0
    channels = codes.shape[axis] if 0 <= axis < codes.ndim else None
    if len(scale) not in (1, channels) or len(zero_point) not in (1, len(scale)):
        counts = f"{len(scale)} scales and {len(zero_point)} zero points"
        raise ValueError(f"{name!r} has {counts} along axis {axis} of its shape {codes.shape}")
    along = [-1 if i == axis else 1 for i in range(codes.ndim)]
    return ((codes - zero_point.reshape(along)) * scale.reshape(along)).astype(np.float32)


def _check_shapes(found: dict[str, jax.Array], expected: dict[str, Any], path: str | os.PathLike[str]) -> None:
    for name in [*expected, *(name for name in found if name not in expected)]:
        file, model = (tree[name].shape if name in tree else "none" for tree in (found, expected))
        if file != model:
            raise ValueError(f"{name} has the shape {model} in the model and {file} in {path}")
