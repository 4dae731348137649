"""Writes TFLite files of integer models, operation by operation, with the integers and scales that were trained.

A converter decides for itself: what it fuses, what it rounds, which scales it keeps. What is written here is what was
evaluated, and nothing else: the flatbuffer holds the graph's own operations and its own integers.
"""

from typing import Any

import numpy as np

from jaxcompress.interpreters.graph import INPUT, Node, Window, window_of
from jaxcompress.interpreters.integers import Grid, Integers

IDENTIFIER = b"TFL3"


def to_bytes(model: Integers) -> bytes:
    """Returns the TFLite file of an integer model, int8 in and int8 out, for a batch of one.

    Layers hold their kernels as int8 or int4 with a scale per output, and biases as int32. Padding that is neither
    TFLite's ``SAME`` nor ``VALID`` becomes an operation of its own. Raises ImportError, naming the extra, without
    LiteRT.
    """
    return _File(model).to_bytes()


class _File:
    """Collects the tables of one file: buffers, tensors, operators and their codes."""

    def __init__(self, model: Integers) -> None:
        self.schema, self.flatbuffers = _libraries()
        self.model = model
        self.buffers, self.tensors, self.operators, self.codes = [self.schema.BufferT()], [], [], {}
        self.numbers = {INPUT: self._activation(INPUT, model.graph.input_shape)}
        for node in model.graph.nodes:
            self.numbers[node.name] = self._activation(node.name, node.shape)
            self._write(node)

    def to_bytes(self) -> bytes:
        schema = self.schema
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = b"main", self.tensors, self.operators
        graph.inputs, graph.outputs = [self.numbers[INPUT]], [self.numbers[self.model.graph.output]]
        content = schema.ModelT()
        content.version, content.description = 3, b"jaxcompress"
        content.subgraphs, content.buffers, content.operatorCodes = [graph], self.buffers, list(self.codes.values())
        builder = self.flatbuffers.Builder(1024)
        builder.Finish(content.Pack(builder), file_identifier=IDENTIFIER)
        return bytes(builder.Output())

    def _write(self, node: Node) -> None:
        given = [self.numbers[name] for name in node.inputs]
        match node.kind:
            case "convolution":
                self._convolution(node, given[0])
            case "dense":
                weights = self.model.layers[node.name].kernel.T
                options = self._options("FullyConnectedOptions", activation=node.activation)
                options.keepNumDims = len(node.shape) > 2
                self._operator("FULLY_CONNECTED", [given[0], *self._parameters(node, weights, 0)], node, options)
            case "add":
                self._operator("ADD", given, node, self._options("AddOptions", activation=node.activation))
            case "mean":
                options = self._options("ReducerOptions")
                options.keepDims = len(node.shape) == len(self._shape(node.inputs[0]))
                self._operator("MEAN", [*given, self._integers(f"{node.name}/axes", node.axes)], node, options)
            case "max_pool" | "average_pool":
                self._pool(node, given[0])
            case "concatenate":
                options = self._options("ConcatenationOptions")
                options.axis = node.axes[0]
                self._operator("CONCATENATION", given, node, options)
            case "reshape":
                options = self._options("ReshapeOptions")
                options.newShape = list(node.shape)
                self._operator("RESHAPE", [*given, self._integers(f"{node.name}/shape", node.shape)], node, options)
            case "transpose":
                order = self._integers(f"{node.name}/order", node.axes)
                self._operator("TRANSPOSE", [*given, order], node, self._options("TransposeOptions"))
            case "slice":
                corners = zip(("begin", "end", "strides"), zip(*node.extents, strict=True), strict=True)
                ends = [self._integers(f"{node.name}/{corner}", values) for corner, values in corners]
                self._operator("STRIDED_SLICE", [*given, *ends], node, self._options("StridedSliceOptions"))
            case "pad":
                edges = self._integers(f"{node.name}/padding", node.extents)
                self._operator("PAD", [*given, edges], node, self._options("PadOptions"))
            case _:
                raise ValueError(f"{node.name} is a {node.kind!r}, which cannot be written as integers")

    def _convolution(self, node: Node, given: int) -> None:
        window, kernel = window_of(node), self.model.layers[node.name].kernel
        given, padding = self._padded(node, given, window)
        channels = self._shape(node.inputs[0])[-1]
        if window.groups == channels and kernel.shape[2] == 1 and window.groups > 1:
            options = self._options("DepthwiseConv2DOptions", window, padding, node.activation)
            options.depthMultiplier = kernel.shape[-1] // channels
            weights, axis, name = kernel.transpose(2, 0, 1, 3), 3, "DEPTHWISE_CONV_2D"
        else:
            options = self._options("Conv2DOptions", window, padding, node.activation)
            weights, axis, name = kernel.transpose(3, 0, 1, 2), 0, "CONV_2D"
        self._operator(name, [given, *self._parameters(node, weights, axis)], node, options)

    def _pool(self, node: Node, given: int) -> None:
        window = window_of(node)
        same = _same_padding(self._shape(node.inputs[0]), window)
        if window.padding not in (same, _VALID):
            raise ValueError(f"{node.name} pads by {window.padding}; a pooling in integers pads as SAME or VALID")
        padding = "VALID" if window.padding == _VALID else "SAME"
        options = self._options("Pool2DOptions", window, padding)
        options.filterHeight, options.filterWidth = window.size
        self._operator("MAX_POOL_2D" if node.kind == "max_pool" else "AVERAGE_POOL_2D", [given], node, options)

    def _padded(self, node: Node, given: int, window: Window) -> tuple[int, str]:
        """Returns the tensor to convolve and the padding that is left to the convolution."""
        shape = self._shape(node.inputs[0])
        if window.padding == _VALID:
            return given, "VALID"
        if window.padding == _same_padding(shape, window):
            return given, "SAME"
        edges = ((0, 0), *window.padding, (0, 0))
        padded = [n + low + high for n, (low, high) in zip(shape, edges, strict=True)]
        tensor = self._activation(f"{node.name}/padded", padded, self.model.grids[node.inputs[0]])
        paddings = self._integers(f"{node.name}/padding", edges)
        self._operator("PAD", [given, paddings], tensor, self._options("PadOptions"))
        return tensor, "VALID"

    def _parameters(self, node: Node, kernel: np.ndarray, axis: int) -> list[int]:
        """Adds the tensors of a layer's weights and bias."""
        layer, given = self.model.layers[node.name], self.model.grids[node.inputs[0]]
        scale = layer.scale if np.ptp(layer.scale) or layer.scale.size == 1 else layer.scale[:1]
        weights = self._tensor(f"{node.name}/kernel", np.ascontiguousarray(kernel), scale, axis, packs=layer.bits == 4)
        bias = self._tensor(f"{node.name}/bias", layer.bias, (given.scale * scale).astype(np.float32), 0)
        return [weights, bias]

    def _activation(self, name: str, shape: Any, grid: Grid | None = None) -> int:
        grid = self.model.grids[name] if grid is None else grid
        quantization = self._quantization(np.asarray([grid.scale], np.float32), [grid.zero_point], 0)
        return self._add(name, shape, "INT8", 0, quantization)

    def _integers(self, name: str, values: Any) -> int:
        return self._tensor(name, np.asarray(values, np.int32))

    def _tensor(
        self, name: str, values: np.ndarray, scale: np.ndarray | None = None, axis: int = 0, packs: bool = False
    ) -> int:
        """Adds a constant tensor; `packs` puts two int4 in a byte, the first in the lower half."""
        buffer = self.schema.BufferT()
        buffer.data = _nibbles(values) if packs else np.frombuffer(values.tobytes(), np.uint8)
        self.buffers.append(buffer)
        quantization = None if scale is None else self._quantization(scale, [0] * scale.size, axis)
        kind = "INT4" if packs else {"int8": "INT8", "int32": "INT32"}[values.dtype.name]
        return self._add(name, values.shape, kind, len(self.buffers) - 1, quantization)

    def _quantization(self, scale: np.ndarray, zero_point: list[int], axis: int) -> Any:
        quantization = self.schema.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint = scale, np.asarray(zero_point, np.int64)
        quantization.quantizedDimension = axis
        return quantization

    def _add(self, name: str, shape: Any, kind: str, buffer: int, quantization: Any) -> int:
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name.encode(), list(map(int, shape)), buffer
        tensor.type, tensor.quantization = getattr(self.schema.TensorType, kind), quantization
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _operator(self, name: str, inputs: list[int], output: Node | int, options: Any) -> None:
        code = getattr(self.schema.BuiltinOperator, name)
        if name not in self.codes:
            entry = self.schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), _VERSIONS[name]
            self.codes[name] = entry
        operator = self.schema.OperatorT()
        operator.opcodeIndex, operator.inputs = list(self.codes).index(name), inputs
        operator.outputs = [output if isinstance(output, int) else self.numbers[output.name]]
        kind = type(options).__name__.removesuffix("T")
        operator.builtinOptions, operator.builtinOptionsType = options, getattr(self.schema.BuiltinOptions, kind)
        self.operators.append(operator)

    def _options(
        self, kind: str, window: Window | None = None, padding: str = "VALID", activation: str | None = None
    ) -> Any:
        options = getattr(self.schema, f"{kind}T")()
        if hasattr(options, "fusedActivationFunction"):
            name = {None: "NONE", "relu": "RELU", "relu6": "RELU6"}[activation]
            options.fusedActivationFunction = getattr(self.schema.ActivationFunctionType, name)
        if window is not None:
            options.padding = getattr(self.schema.Padding, padding)
            options.strideH, options.strideW = window.strides
            if hasattr(options, "dilationHFactor"):
                options.dilationHFactor, options.dilationWFactor = window.dilation
        return options

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.model.graph.input_shape if name == INPUT else self.model.graph.node(name).shape


_VALID = ((0, 0), (0, 0))

# The versions of the operators in which int8 kernels are as used here.
_VERSIONS = {
    "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "ADD": 2, "MEAN": 2, "MAX_POOL_2D": 2,
    "AVERAGE_POOL_2D": 2, "CONCATENATION": 2, "RESHAPE": 1, "TRANSPOSE": 2, "STRIDED_SLICE": 2, "PAD": 2,
}  # fmt: skip


def _nibbles(values: np.ndarray) -> np.ndarray:
    flat = np.append(values.reshape(-1).view(np.uint8) & 15, np.uint8(0))[: values.size + values.size % 2]
    return flat[0::2] | flat[1::2] << 4


def _same_padding(shape: tuple[int, ...], window: Window) -> tuple[tuple[int, int], ...]:
    """Returns what TensorFlow's SAME pads, the odd one at the end."""
    found = []
    for size, length, stride, dilation in zip(window.size, shape[1:3], window.strides, window.dilation, strict=True):
        total = max((-(-length // stride) - 1) * stride + (size - 1) * dilation + 1 - length, 0)
        found.append((total // 2, total - total // 2))
    return tuple(found)


def _libraries() -> tuple[Any, Any]:
    try:
        import flatbuffers
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise ImportError("writing TFLite files needs LiteRT: pip install 'jaxcompress[tflite]'") from error
    return schema_py_generated, flatbuffers
