"""Running TFLite files in LiteRT, and measuring how they run."""

import json
import os
import pathlib
import subprocess
import sys
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
        content = data if isinstance(data, bytes) else pathlib.Path(data).read_bytes()
        resolver = litert.OpResolverType.AUTO if kernels == "default" else litert.OpResolverType.BUILTIN_REF
        self._interpreter = litert.Interpreter(
            model_content=content, num_threads=threads, experimental_op_resolver_type=resolver
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


class Operator(NamedTuple):
    """Names an operator of a model and the shapes of its weights and other constant inputs and its outputs."""

    name: str
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]


def operators(data: bytes | str | os.PathLike[str]) -> list[Operator]:
    """Lists the operators of a model in order, as they stand in the file, before any delegate takes them over."""
    litert = _litert()
    content = data if isinstance(data, bytes) else pathlib.Path(data).read_bytes()
    plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = litert.Interpreter(model_content=content, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    shapes = {d["index"]: tuple(int(n) for n in d["shape"]) for d in interpreter.get_tensor_details()}
    found = []
    for op in interpreter._get_ops_details():  # LiteRT has no public list of operators
        inputs = tuple(shapes.get(int(i), ()) for i in op["inputs"] if int(i) >= 0)
        found.append(Operator(op["op_name"], inputs, tuple(shapes.get(int(i), ()) for i in op["outputs"])))
    return found


class Tensor(NamedTuple):
    """Describes a tensor: its type, its scales and zero points (empty for none) and, of a constant, its values."""

    dtype: np.dtype
    scale: np.ndarray
    zero_point: np.ndarray
    values: np.ndarray | None


def tensors(data: bytes | str | os.PathLike[str]) -> dict[str, Tensor]:
    """Lists the tensors of a model by name, as LiteRT reads them."""
    litert = _litert()
    content = data if isinstance(data, bytes) else pathlib.Path(data).read_bytes()
    plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = litert.Interpreter(model_content=content, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    made = {int(i) for op in interpreter._get_ops_details() for i in op["outputs"]}
    made |= {int(d["index"]) for d in interpreter.get_input_details()}
    found = {}
    for detail in interpreter.get_tensor_details():
        grid, index = detail["quantization_parameters"], int(detail["index"])
        values = None if index in made else interpreter.get_tensor(index)
        found[detail["name"]] = Tensor(np.dtype(detail["dtype"]), grid["scales"], grid["zero_points"], values)
    return found


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
