"""What a run costs on a device: its TFLite file, run in LiteRT on the whole test set."""

import json
import pathlib
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import jaxcompress as jc
from experiments import build, config, evaluate, post_training, provenance, quantized, records, runs
from experiments.config import Format
from experiments.data import Dataset
from experiments.environment import processor
from jaxcompress.export import litert, micro
from jaxcompress.export.files import write_whole
from jaxcompress.export.integers import KERNELS
from jaxcompress.export.litert import Latency, Model
from jaxcompress.export.writer import IO
from jaxcompress.interpreters.graph import INPUT
from jaxcompress.interpreters.integers import Arithmetic, Grid, Integers, decode, encode

_TENSORFLOW, _OURS = "jax2tf and TensorFlow's converter", "jaxcompress, integer by integer"

# Who wrote the file, what it stores, what a runtime computes from it.
_WORDS: dict[Format, tuple[str, str]] = {
    "float32": (_TENSORFLOW, "stores weights in float32; computes in float32"),
    "float16": (_TENSORFLOW, "stores weights in float16; the runtime expands them and computes in float32"),
    "dynamic-int8": (
        _TENSORFLOW,
        "stores larger weights in int8; computes with these in integers, inputs quantized as they come; else in floats",
    ),
    "int8-converter": (_TENSORFLOW, "stores and computes all in int8, in ranges that the converter found"),
    "int8": (_OURS, "stores and computes all in int8"),
    "int4": (_OURS, "stores weights in int4, but grouped ones in int8; computes all in integers, activations in int8"),
    "int16x8": (
        _OURS,
        "stores weights in int8; computes all in integers, activations in int16, for which XNNPACK has no kernels",
    ),
}

_SUM = "; it made a mean a SUM, which LiteRT's reference kernels compute wrongly in int8"

# How the integers of a run are found unless it is said.
CALIBRATION = config.PostTraining("export", rounding="gptq")

# Bits of the kernels and of the activations.
INTEGERS: dict[Format, tuple[int, int]] = {"int8": (8, 8), "int4": (4, 8), "int16x8": (8, 16)}


@dataclass(frozen=True)
class Exported:
    """Holds what a TFLite file takes and how it does, in %, beside the same in JAX.

    `litert_accuracy` is that of LiteRT's default kernels, as are `largest_difference`, in the logits, and `same_class`;
    `reference_accuracy` that of its reference kernels on files that are integers throughout. `differences` counts the
    outputs of LiteRT by how many codes they are more than JAX's in the arithmetic of the same kernels. `code` is the
    version of ours that wrote the file.
    """

    path: str
    format: Format
    io: IO
    converter: str
    computes: str
    calibration: dict[str, Any]
    code: dict[str, str]
    bytes: int
    jax_accuracy: float
    litert_accuracy: float
    reference_accuracy: float | None
    largest_difference: float
    same_class: float
    differences: dict[Arithmetic, dict[str, int]] | None
    operators: dict[str, int]
    tensor_types: dict[str, int]
    arena: int
    micro_arena: int | None
    micro_reason: str
    latency: Latency


class _Compared(NamedTuple):
    """Holds logits of the whole test set, in JAX and in LiteRT by the kernels, and differences in codes."""

    ours: np.ndarray
    theirs: np.ndarray
    reference: np.ndarray | None = None
    differences: dict[Arithmetic, dict[str, int]] | None = None


def export(
    run: runs.Run,
    path: pathlib.Path,
    format: Format = "float32",
    data_dir: pathlib.Path | None = None,
    *,
    io: IO = "integers",
    calibration: config.PostTraining = CALIBRATION,
) -> Exported:
    """Writes a finished run's packed model as TFLite, with a JSON report beside it, and measures it.

    The model is restored from the packed file, so what is exported is what the file holds. ``int8``, ``int4`` and
    ``int16x8`` are rounded as `calibration` says, which also draws what ``int8-converter`` observes; what JAX computes
    then is the device's integers, and `io` says whether the file takes and gives codes or reals.
    """
    experiment = run.experiment
    if not run.finished:
        raise ValueError(f"{run.folder} is not finished; run the command that made it again to go on with it")
    if io != "integers" and format not in INTEGERS:
        raise ValueError(f"io {io!r} is of {', '.join(INTEGERS)}; a file of format {format!r} has its own")
    if isinstance(stage := experiment.stages[-1], config.PostTraining):
        raise ValueError(f"stage {stage.name!r} does not train: it has a file in integers already")
    dataset = runs.dataset(experiment.data, data_dir)
    params = jc.export.load(run.packed_file)
    if format in INTEGERS:
        bits, activations = INTEGERS[format]
        stages = (*experiment.stages, replace(calibration, bits=bits))
        model = post_training.rounded(replace(experiment, stages=stages), dataset, params, activations).integers()
        size = jc.export.integers(model, path, io=io)
        compared = _integers(model, path, io, dataset)
    else:
        size, compared = _converted(experiment, dataset, params, path, format, calibration.examples)
    found = _measured(path, size, format, io, compared, dataset, calibration)
    report = asdict(found) | {"latency": found.latency._asdict()}
    write_whole(path.with_suffix(".json"), (json.dumps(report, indent=2) + "\n").encode())
    return found


def reported(run: runs.Run, format: Format, data_dir: pathlib.Path | None = None) -> dict[str, Any]:
    """Returns the report of a finished run's TFLite file by `CALIBRATION`, exporting it unless that was done before."""
    path = run.folder / f"model-{format}.tflite"
    report = path.with_suffix(".json")
    wanted = {"io": "integers", "calibration": config.to_plain(CALIBRATION), "code": provenance.code()}
    if report.exists():
        found = records.read(report, f"remove it to export {path.name} again")
        if all(found.get(key) == value for key, value in wanted.items()):
            return found
    export(run, path, format, data_dir)
    return records.read(report)


def _converted(
    experiment: config.Experiment, dataset: Dataset, params: Any, path: pathlib.Path, format: Any, examples: int
) -> tuple[int, _Compared]:
    """Exports by TensorFlow's converter and runs the file."""
    logits = build.predictor(experiment.model, dataset.classes)
    images = np.asarray(build.scaled(jnp.asarray(dataset.test.images)))
    calibrated = format == "int8-converter"
    representative = post_training.observed(experiment, dataset, examples) if calibrated else None
    example = jnp.asarray(images[:1])
    size = jc.export.tflite(logits, params, example, path, format=format, representative=representative)
    ours, model = evaluate.predict(logits, params, images), Model(path)
    if not calibrated:
        return size, _Compared(ours, model.batch(images))
    codes = model.encode(images)
    theirs, reference = (model.decode(Model(path, kernels=kernels).batch(codes)) for kernels in KERNELS)
    return size, _Compared(ours, theirs, reference)


def _integers(model: Integers, path: pathlib.Path, io: IO, dataset: Dataset) -> _Compared:
    """Runs an integer model in JAX and its file in LiteRT, with both of its kernel libraries."""
    given, made = model.grids[INPUT], model.grids[model.graph.output]
    images = build.scaled(jnp.asarray(dataset.test.images))
    outputs, differences = {}, {}
    for kernels, arithmetic in KERNELS.items():
        codes = np.asarray(encode(images, given, arithmetic))
        ours = quantized.evaluated(model, arithmetic, codes)
        runtime = Model(path, kernels=kernels)
        theirs = runtime.batch(codes) if io == "integers" else _codes(runtime.batch(np.asarray(images)), made)
        outputs[arithmetic] = [np.asarray(decode(jnp.asarray(part), made)) for part in (ours, theirs)]
        differences[arithmetic] = quantized.agreement(ours, theirs, dataset).differences
    (ours, theirs), (_, reference) = outputs["xnnpack"], outputs["reference"]
    return _Compared(ours, theirs, reference, differences)


def _codes(reals: np.ndarray, grid: Grid) -> np.ndarray:
    """Returns the codes that reals on a grid stand for."""
    return np.rint(reals / np.float64(grid.scale)).astype(np.int32) + grid.zero_point


def _measured(
    path: pathlib.Path,
    size: int,
    format: Format,
    io: IO,
    compared: _Compared,
    dataset: Dataset,
    calibration: config.PostTraining,
) -> Exported:
    ours, theirs, reference, differences = compared
    (converter, computes), memory = _WORDS[format], micro.arena(path)
    operators = dict(Counter(op.name for op in litert.operators(path)))
    computes += _SUM if format == "int8-converter" and "SUM" in operators else ""

    def accuracy(outputs: np.ndarray) -> float:
        return evaluate.quality(outputs, dataset.test.labels).accuracy

    return Exported(
        path=str(path),
        format=format,
        io=io,
        converter=converter,
        computes=computes,
        calibration=config.to_plain(calibration),
        code=provenance.code(),
        bytes=size,
        jax_accuracy=accuracy(ours),
        litert_accuracy=accuracy(theirs),
        reference_accuracy=None if reference is None else accuracy(reference),
        largest_difference=float(np.max(np.abs(ours - theirs))),
        same_class=100 * float(np.mean(ours.argmax(1) == theirs.argmax(1))),
        differences=differences,
        operators=operators,
        tensor_types=litert.tensor_types(path),
        arena=litert.arena(path),
        micro_arena=memory.bytes,
        micro_reason=memory.reason,
        latency=litert.latency(path, device=processor()),
    )


def described(found: Exported) -> str:
    """Prints an export for people."""
    time, reals = found.latency, "; takes and gives reals" if found.io == "float32" else ""
    reference = (
        [] if found.reference_accuracy is None else [f"  its reference kernels {found.reference_accuracy:.2f} %"]
    )
    differences = [
        f"LiteRT less JAX     {arithmetic}: {', '.join(f'{n:,} x {value}' for value, n in counts.items())}"
        for arithmetic, counts in (found.differences or {}).items()
    ]
    tiny = f"{found.micro_arena:,} in tflite-micro" if found.micro_arena else found.micro_reason
    return "\n".join(
        [
            f"file                {found.path}",
            f"format              {found.format}: {found.computes}{reals}",
            f"written by          {found.converter}",
            f"bytes               {found.bytes:,}",
            f"operators           {_counted(found.operators)}",
            f"tensors             {_counted(found.tensor_types)}",
            f"accuracy in JAX     {found.jax_accuracy:.2f} %",
            f"accuracy in LiteRT  {found.litert_accuracy:.2f} %{''.join(reference)}",
            f"same class          {found.same_class:.2f} % of the test set",
            f"largest difference  {found.largest_difference:.3g} in the logits",
            *differences,
            f"arena in bytes      {found.arena:,} in LiteRT's reference kernels; {tiny}",
            f"latency             median {time.median_us:.1f} us, min {time.min_us:.1f}, spread {time.spread_us:.1f}"
            f" ({time.interpreters} interpreters x {time.invokes} invokes, {time.threads} thread)",
            f"device              {time.device}",
        ]
    )


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} x {name}" for name, n in counts.items())
