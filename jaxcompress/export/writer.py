"""Writes TFLite files of integer models, operation by operation, with the integers and scales that were trained.

A converter decides for itself: what it fuses, what it rounds, which scales it keeps. What is written here is what was
evaluated, and nothing else: the flatbuffer holds the graph's own operations and its own integers.
"""

from typing import Any, Literal, get_args

import numpy as np

from jaxcompress.export.tables import Tables
from jaxcompress.interpreters.graph import INPUT, Node, Window, is_depthwise, window_of
from jaxcompress.interpreters.integers import Grid, Integers

IO = Literal["integers", "float32"]


def to_bytes(model: Integers, io: IO = "integers") -> bytes:
    """Returns the TFLite file of an integer model for a batch of one.

    Codes go in and come out, or, with ``float32``, reals: the first operation encodes them, the last one decodes.
    Activations are int8 or int16 as their grids are. Layers hold their kernels as int8 or int4 with a scale per output,
    and biases as int32, int64 beside int16. Padding that is neither TFLite's ``SAME`` nor ``VALID`` becomes an
    operation of its own. Raises ValueError for what cannot be written, and ImportError, naming the extra, without
    LiteRT.
    """
    if io not in get_args(IO):
        raise ValueError(f"io {io!r} is not one of {', '.join(map(repr, get_args(IO)))}")
    return _File(model, _kind(model)).to_bytes(io)


def real_ends(model: Integers) -> tuple[str, str]:
    """Names the tensors of reals that go in and come out of a file that takes and gives these."""
    return f"{INPUT}/float32", f"{model.graph.output}/float32"


def _kind(model: Integers) -> str:
    """Returns the type of all activations."""
    bits = {grid.bits for grid in model.grids.values()}
    if bits not in ({8}, {16}):
        raise ValueError(f"activations have {sorted(bits)} bits; the kernels of a device take all in 8, or all in 16")
    for name, grid in model.grids.items():
        if grid.bits == 16 and grid.zero_point:
            raise ValueError(f"{name} has the zero point {grid.zero_point}; in 16 bits the kernels know none but 0")
    return f"INT{bits.pop()}"


class _File:
    """Puts the operations of a model into the tables of a file."""

    def __init__(self, model: Integers, kind: str) -> None:
        self.schema, flatbuffers = _libraries()
        self.tables, self.model, self.kind = Tables(self.schema, flatbuffers), model, kind
        self.numbers: dict[str, int] = {}

    def to_bytes(self, io: IO) -> bytes:
        graph, ends = self.model.graph, []
        if io == "float32":
            shapes = zip(real_ends(self.model), (graph.input_shape, self._shape(graph.output)), strict=True)
            ends = [self.tables.activation(name, shape, "FLOAT32") for name, shape in shapes]
        self.numbers[INPUT] = self._activation(INPUT, graph.input_shape)
        if ends:
            self._operator("QUANTIZE", ends[:1], self.numbers[INPUT], self._options("QuantizeOptions"))
        for node in graph.nodes:
            self.numbers[node.name] = self._activation(node.name, node.shape)
            self._write(node)
        made = self.numbers[graph.output]
        if not ends:
            return self.tables.to_bytes([self.numbers[INPUT]], [made])
        self._operator("DEQUANTIZE", [made], ends[1], self._options("DequantizeOptions"))
        return self.tables.to_bytes(ends[:1], ends[1:])

    def _write(self, node: Node) -> None:
        given, made = [self.numbers[name] for name in node.inputs], self.numbers[node.name]
        match node.kind:
            case "convolution":
                self._convolution(node, given[0])
            case "dense":
                weights = self.model.layers[node.name].kernel.T
                options = self._options("FullyConnectedOptions", activation=node.activation)
                options.keepNumDims = len(node.shape) > 2
                self._operator("FULLY_CONNECTED", [given[0], *self._parameters(node, weights, 0)], made, options)
            case "add":
                options = self._options("AddOptions", activation=node.activation)
                options.potScaleInt16 = self.kind == "INT8"  # int16 of any scales, and not of powers of two alone
                self._operator("ADD", given, made, options)
            case "mean":
                options = self._options("ReducerOptions")
                options.keepDims = len(node.shape) == len(self._shape(node.inputs[0]))
                self._operator("MEAN", [*given, self._integers(f"{node.name}/axes", node.axes)], made, options)
            case "max_pool" | "average_pool":
                self._pool(node, given[0])
            case "softmax" if self.kind == "INT16":
                raise ValueError(f"{node.name} is a 'softmax', which has no arithmetic in int16")
            case "softmax":
                options = self._options("SoftmaxOptions")
                options.beta = 1.0
                self._operator("SOFTMAX", given, made, options)
            case "concatenate":
                options = self._options("ConcatenationOptions")
                options.axis = node.axes[0]
                self._operator("CONCATENATION", given, made, options)
            case "reshape":
                options = self._options("ReshapeOptions")
                options.newShape = list(node.shape)
                self._operator("RESHAPE", [*given, self._integers(f"{node.name}/shape", node.shape)], made, options)
            case "transpose":
                order = self._integers(f"{node.name}/order", node.axes)
                self._operator("TRANSPOSE", [*given, order], made, self._options("TransposeOptions"))
            case "slice":
                corners = zip(("begin", "end", "strides"), zip(*node.extents, strict=True), strict=True)
                ends = [self._integers(f"{node.name}/{corner}", values) for corner, values in corners]
                self._operator("STRIDED_SLICE", [*given, *ends], made, self._options("StridedSliceOptions"))
            case "pad":
                edges = self._integers(f"{node.name}/padding", node.extents)
                self._operator("PAD", [*given, edges], made, self._options("PadOptions"))
            case _:
                raise ValueError(f"{node.name} is a {node.kind!r}, which cannot be written as integers")

    def _convolution(self, node: Node, given: int) -> None:
        window, kernel = window_of(node), self.model.layers[node.name].kernel
        given, padding = self._padded(node, given, window)
        channels = self._shape(node.inputs[0])[-1]
        if is_depthwise(node, kernel.shape):
            options = self._options("DepthwiseConv2DOptions", window, padding, node.activation)
            options.depthMultiplier = kernel.shape[-1] // channels
            weights, axis, name = kernel.transpose(2, 0, 1, 3), 3, "DEPTHWISE_CONV_2D"
        else:
            options = self._options("Conv2DOptions", window, padding, node.activation)
            weights, axis, name = kernel.transpose(3, 0, 1, 2), 0, "CONV_2D"
        self._operator(name, [given, *self._parameters(node, weights, axis)], self.numbers[node.name], options)

    def _pool(self, node: Node, given: int) -> None:
        window = window_of(node)
        same = _same_padding(self._shape(node.inputs[0]), window)
        if window.padding not in (same, _VALID):
            raise ValueError(f"{node.name} pads by {window.padding}; a pooling in integers pads as SAME or VALID")
        padding = "VALID" if window.padding == _VALID else "SAME"
        options = self._options("Pool2DOptions", window, padding)
        options.filterHeight, options.filterWidth = window.size
        name = "MAX_POOL_2D" if node.kind == "max_pool" else "AVERAGE_POOL_2D"
        self._operator(name, [given], self.numbers[node.name], options)

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
        if layer.bits == 4 and given.bits == 16 and is_depthwise(node, layer.kernel.shape):
            raise ValueError(f"{node.name} is depthwise in int4 beside int16; LiteRT takes its packed codes for int8")
        scale = layer.scale if np.ptp(layer.scale) or layer.scale.size == 1 else layer.scale[:1]
        of_kernel, of_bias = (
            self.tables.quantization(unit, [0] * unit.size, along)
            for unit, along in ((scale, axis), ((given.scale * scale).astype(np.float32), 0))
        )
        codes, bias = np.ascontiguousarray(kernel), layer.bias.astype(np.int32 if given.bits == 8 else np.int64)
        weights = self.tables.constant(f"{node.name}/kernel", codes, of_kernel, packs=layer.bits == 4)
        return [weights, self.tables.constant(f"{node.name}/bias", bias, of_bias)]

    def _activation(self, name: str, shape: Any, grid: Grid | None = None) -> int:
        grid = self.model.grids[name] if grid is None else grid
        quantization = self.tables.quantization(np.asarray([grid.scale], np.float32), [grid.zero_point])
        return self.tables.activation(name, shape, self.kind, quantization)

    def _integers(self, name: str, values: Any) -> int:
        return self.tables.constant(name, np.asarray(values, np.int32))

    def _operator(self, name: str, inputs: list[int], output: int, options: Any) -> None:
        self.tables.operator(name, _VERSIONS[name][self.kind], inputs, output, options)

    def _options(
        self, kind: str, window: Window | None = None, padding: str = "VALID", activation: str | None = None
    ) -> Any:
        options = getattr(self.schema, f"{kind}T")()
        if hasattr(options, "fusedActivationFunction"):
            name = {None: "NONE", "relu": "RELU", "relu6": "RELU6"}[activation]
            options.fusedActivationFunction = getattr(self.schema.ActivationFunctionType, name)
        if hasattr(options, "quantizedBiasType") and self.kind == "INT16":
            options.quantizedBiasType = self.schema.TensorType.INT64
        if window is not None:
            options.padding = getattr(self.schema.Padding, padding)
            options.strideH, options.strideW = window.strides
            if hasattr(options, "dilationHFactor"):
                options.dilationHFactor, options.dilationWFactor = window.dilation
        return options

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.model.graph.input_shape if name == INPUT else self.model.graph.node(name).shape


_VALID = ((0, 0), (0, 0))

# The versions of the operators in which kernels of the activations' type are as used here.
_VERSIONS = {
    "CONV_2D": {"INT8": 3, "INT16": 8},
    "DEPTHWISE_CONV_2D": {"INT8": 3, "INT16": 5},
    "FULLY_CONNECTED": {"INT8": 4, "INT16": 11},
    "ADD": {"INT8": 2, "INT16": 3},
    "MEAN": {"INT8": 2, "INT16": 3},
    "MAX_POOL_2D": {"INT8": 2, "INT16": 3},
    "AVERAGE_POOL_2D": {"INT8": 2, "INT16": 3},
    "SOFTMAX": {"INT8": 2},
    "CONCATENATION": {"INT8": 2, "INT16": 3},
    "RESHAPE": {"INT8": 1, "INT16": 1},
    "TRANSPOSE": {"INT8": 2, "INT16": 4},
    "STRIDED_SLICE": {"INT8": 2, "INT16": 4},
    "PAD": {"INT8": 2, "INT16": 3},
    "QUANTIZE": {"INT8": 1, "INT16": 2},
    "DEQUANTIZE": {"INT8": 2, "INT16": 3},
}


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
