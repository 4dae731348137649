"""The tables of a TFLite file: its buffers, tensors and operators, put together one by one."""

from collections.abc import Sequence
from typing import Any

import numpy as np

IDENTIFIER = b"TFL3"


class Tables:
    """Collects the tables of a file with one graph. `schema` and `flatbuffers` are the modules of these names."""

    def __init__(self, schema: Any, flatbuffers: Any) -> None:
        self.schema, self.flatbuffers = schema, flatbuffers
        self._buffers, self._tensors, self._operators, self._codes = [schema.BufferT()], [], [], {}

    def to_bytes(self, inputs: list[int], outputs: list[int]) -> bytes:
        """Returns the file of a graph that computes tensors `outputs` from tensors `inputs`."""
        schema = self.schema
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = b"main", self._tensors, self._operators
        graph.inputs, graph.outputs = inputs, outputs
        content = schema.ModelT()
        content.version, content.description = 3, b"jaxcompress"
        content.subgraphs, content.buffers, content.operatorCodes = [graph], self._buffers, list(self._codes.values())
        builder = self.flatbuffers.Builder(1024)
        builder.Finish(content.Pack(builder), file_identifier=IDENTIFIER)
        return bytes(builder.Output())

    def activation(self, name: str, shape: Sequence[int], kind: str, quantization: Any = None) -> int:
        """Adds a tensor that is computed, and returns its number; `kind` is a type's name, such as ``INT8``."""
        return self._add(name, shape, kind, 0, quantization)

    def constant(self, name: str, values: np.ndarray, quantization: Any = None, packs: bool = False) -> int:
        """Adds a constant tensor; `packs` puts two int4 in a byte, the first in the lower half."""
        buffer = self.schema.BufferT()
        buffer.data = _nibbles(values) if packs else np.frombuffer(values.tobytes(), np.uint8)
        self._buffers.append(buffer)
        kind = "INT4" if packs else values.dtype.name.upper()
        return self._add(name, values.shape, kind, len(self._buffers) - 1, quantization)

    def quantization(self, scale: np.ndarray, zero_point: Sequence[int], axis: int = 0) -> Any:
        """Describes scales (float32) and zero points, one of each or one for every index of `axis`."""
        found = self.schema.QuantizationParametersT()
        found.scale, found.zeroPoint = scale, np.asarray(zero_point, np.int64)
        found.quantizedDimension = axis
        return found

    def operator(self, name: str, version: int, inputs: list[int], output: int, options: Any) -> None:
        """Adds an operator, which reads tensors `inputs` and makes tensor `output`."""
        code = getattr(self.schema.BuiltinOperator, name)
        if (name, version) not in self._codes:
            entry = self.schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), version
            self._codes[name, version] = entry
        operator = self.schema.OperatorT()
        operator.opcodeIndex, operator.inputs = list(self._codes).index((name, version)), inputs
        operator.outputs = [output]
        kind = type(options).__name__.removesuffix("T")
        operator.builtinOptions, operator.builtinOptionsType = options, getattr(self.schema.BuiltinOptions, kind)
        self._operators.append(operator)

    def _add(self, name: str, shape: Sequence[int], kind: str, buffer: int, quantization: Any) -> int:
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name.encode(), list(map(int, shape)), buffer
        tensor.type, tensor.quantization = getattr(self.schema.TensorType, kind), quantization
        self._tensors.append(tensor)
        return len(self._tensors) - 1


def _nibbles(values: np.ndarray) -> np.ndarray:
    flat = np.append(values.reshape(-1).view(np.uint8) & 15, np.uint8(0))[: values.size + values.size % 2]
    return flat[0::2] | flat[1::2] << 4
