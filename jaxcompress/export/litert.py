"""Running TFLite files in LiteRT, and measuring how they run."""

import json
import os
import pathlib
import subprocess
import sys
from collections import Counter
from typing import Any, Literal, NamedTuple

import numpy as np

Kernels = Literal["default", "reference"]


class Model:
    """Runs a TFLite model on one thread by default.

    ``default`` kernels are those that LiteRT chooses, XNNPACK where it can; ``reference`` are the plain ones.
    """

    def __init__(self, data: bytes | str | os.PathLike[str], threads: int = 1, kernels: Kernels = "default"):
        """Loads a model from its bytes or its path; raises ImportError, naming the extra, without LiteRT."""
        litert = _litert()
        resolver = litert.OpResolverType.AUTO if kernels == "default" else litert.OpResolverType.BUILTIN_REF
        self._interpreter = litert.Interpreter(
            model_content=_content(data), num_threads=threads, experimental_op_resolver_type=resolver
        )
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Runs one input of exactly the model's shape."""
        self._interpreter.set_tensor(self._input["index"], x)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])

    def batch(self, inputs: np.ndarray) -> np.ndarray:
        """Runs a model of batch size 1 on each of `inputs` in turn."""
        return np.concatenate([self(inputs[i : i + 1]) for i in range(len(inputs))])

    def reals(self, x: np.ndarray) -> np.ndarray:
        """Runs one input of exactly the model's shape, from reals to reals whatever its borders hold."""
        made = self(self.encode(x) if _has_codes(self._input) else x)
        return self.decode(made) if _has_codes(self._output) else made

    def encode(self, reals: np.ndarray) -> np.ndarray:
        """Rounds reals to the codes that a model of integers takes, half to even."""
        (scale, zero_point), kind = self._input["quantization"], np.iinfo(self._input["dtype"])
        codes = np.round(reals * (1 / np.float32(scale))) + zero_point
        return np.clip(codes, kind.min, kind.max).astype(kind.dtype)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Returns the reals that the codes which a model of integers gives stand for."""
        scale, zero_point = self._output["quantization"]
        return (codes.astype(np.float32) - zero_point) * np.float32(scale)


class Operator(NamedTuple):
    """Names an operator of a model, the shapes of its inputs, weights included, and outputs, and the types of both."""

    name: str
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    types: tuple[str, ...]


def operators(data: bytes | str | os.PathLike[str]) -> list[Operator]:
    """Lists the operators of a model in order, as they stand in the file, before any delegate takes them over."""
    interpreter = _unallocated(data)
    details = {int(d["index"]): d for d in interpreter.get_tensor_details()}

    def shapes(indices: Any) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(int(n) for n in details[int(i)]["shape"]) for i in indices if int(i) in details)

    found = []
    for op in interpreter._get_ops_details():  # LiteRT has no public list of operators
        both = [int(i) for i in (*op["inputs"], *op["outputs"])]
        types = tuple(np.dtype(details[i]["dtype"]).name for i in both if i in details)
        found.append(Operator(op["op_name"], shapes(op["inputs"]), shapes(op["outputs"]), types))
    return found


def tensor_types(data: bytes | str | os.PathLike[str]) -> dict[str, int]:
    """Counts the tensors of a file by the type of their values, the most frequent first."""
    _unallocated(data)  # refuses what is no TFLite file
    from ai_edge_litert import schema_py_generated as schema  # the interpreter calls int4 int8

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(_content(data), 0))
    names = {number: name.lower() for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    return dict(
        Counter(names[tensor.type] for graph in model.subgraphs or () for tensor in graph.tensors or ()).most_common()
    )


class Tensor(NamedTuple):
    """Describes a tensor: its type, its scales and zero points (empty for none) and, of a constant, its values."""

    dtype: np.dtype
    scale: np.ndarray
    zero_point: np.ndarray
    values: np.ndarray | None


def tensors(data: bytes | str | os.PathLike[str]) -> dict[str, Tensor]:
    """Lists the tensors of a model by name, as LiteRT reads them."""
    interpreter = _unallocated(data)
    made = _computed(interpreter)
    found = {}
    for detail in interpreter.get_tensor_details():
        grid, index = detail["quantization_parameters"], int(detail["index"])
        values = None if index in made else interpreter.get_tensor(index)
        found[detail["name"]] = Tensor(np.dtype(detail["dtype"]), grid["scales"], grid["zero_points"], values)
    return found


def arena(data: bytes | str | os.PathLike[str]) -> int:
    """Measures the bytes that LiteRT's reference kernels take for activations, and for weights that they expand.

    LiteRT plans where each activation lies, over others that are needed no more; this is the extent of what it planned,
    told from the addresses, for one input. It leaves out the weights in the file and what delegates keep: XNNPACK, the
    default on CPUs, packs weights and plans activations of its own.
    """
    interpreter = _unallocated(data, reference=True)
    fixed = {int(d["index"]) for d in interpreter.get_tensor_details()} - _computed(interpreter)
    expanded = set()  # computed from constants alone, and kept in a place of their own
    for op in interpreter._get_ops_details():
        if {int(i) for i in op["inputs"] if int(i) >= 0} <= fixed | expanded:
            expanded |= {int(i) for i in op["outputs"]}
    interpreter.allocate_tensors()
    return _extent(interpreter, _computed(interpreter) - expanded) + _extent(interpreter, expanded)


def _computed(interpreter: Any) -> set[int]:
    """Returns the tensors that are not constant."""
    made = {int(i) for op in interpreter._get_ops_details() for i in op["outputs"]}
    return made | {int(d["index"]) for d in interpreter.get_input_details()}


def _extent(interpreter: Any, chosen: set[int]) -> int:
    spans = []
    for index in chosen:
        view = interpreter.tensor(index)()
        start = view.__array_interface__["data"][0]
        spans.append((start, start + view.nbytes))
    return max((end for _, end in spans), default=0) - min((start for start, _ in spans), default=0)


class Latency(NamedTuple):
    """Holds the time of one inference in microseconds, over fresh interpreters, and where it was measured."""

    median_us: float
    min_us: float
    spread_us: float  # between the quartiles of the interpreters' medians
    interpreters: int
    invokes: int
    threads: int
    device: str


def latency(
    path: str | os.PathLike[str], *, device: str, interpreters: int = 5, invokes: int = 200, threads: int = 1
) -> Latency:
    """Measures a model in `interpreters` fresh processes of `invokes` inferences each; `device` names the machine.

    The minimum repeats best on a shared machine; the median is what a user meets. It ranks models on this machine.
    """
    # Run as a file (and -P, so that its folder shadows nothing): a fresh process need not import JAX.
    command = [sys.executable, "-P", __file__, str(path), str(invokes), str(threads)]
    timed = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(interpreters)]
    medians = [times["median"] for times in timed]
    low, high = np.percentile(medians, [25, 75])
    fastest = min(times["min"] for times in timed)
    return Latency(float(np.median(medians)), fastest, float(high - low), interpreters, invokes, threads, device)


def _unallocated(data: bytes | str | os.PathLike[str], reference: bool = False) -> Any:
    """Loads a model to look at it: no delegate has changed it, no kernel added tensors of its own."""
    litert = _litert()
    plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    resolver = litert.OpResolverType.BUILTIN_REF if reference else plain
    return litert.Interpreter(model_content=_content(data), experimental_op_resolver_type=resolver)


def _has_codes(detail: dict[str, Any]) -> bool:
    return detail["quantization"][0] != 0.0  # a tensor that stands for itself has no scale


def _content(data: bytes | str | os.PathLike[str]) -> bytes:
    return data if isinstance(data, bytes) else pathlib.Path(data).read_bytes()


def _litert() -> Any:
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise ImportError("running TFLite files needs LiteRT: pip install 'jaxcompress[tflite]'") from error
    return interpreter


def _time(path: str, invokes: int, threads: int) -> dict[str, float]:
    import time

    model = Model(path, threads)
    x = np.zeros(model._input["shape"], model._input["dtype"])
    times = []
    for _ in range(invokes + 20):
        start = time.perf_counter()
        model(x)
        times.append(1e6 * (time.perf_counter() - start))
    warm = times[20:]  # the first calls pay for caches
    return {"median": float(np.median(warm)), "min": min(warm)}


if __name__ == "__main__":
    print(json.dumps(_time(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
