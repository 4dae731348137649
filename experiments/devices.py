"""What a run costs on a device: its TFLite file, run in LiteRT on the whole test set."""

import json
import pathlib
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Literal

import jax.numpy as jnp
import numpy as np

import jaxcompress as jc
from experiments import build, config, evaluate, quantized, runs
from experiments.environment import processor
from jaxcompress.export.files import write_whole
from jaxcompress.export.litert import Latency, Model, latency, operators
from jaxcompress.export.tflite import tflite
from jaxcompress.interpreters.graph import INPUT
from jaxcompress.interpreters.integers import decode, encode

Format = Literal["float32", "float16", "dynamic-int8", "int8", "int4"]

# What the file holds, what the runtime computes, and who wrote it.
_WORDS: dict[Format, str] = {
    "float32": "weights and arithmetic in float32; converted by jax2tf",
    "float16": "weights stored in float16, arithmetic in float32; converted by jax2tf",
    "dynamic-int8": "larger weights stored in int8, inputs quantized as they come; converted by jax2tf",
    "int8": "weights, activations and arithmetic in integers; written by jaxcompress",
    "int4": "weights in int4, activations and arithmetic in integers; written by jaxcompress",
}


@dataclass(frozen=True)
class Exported:
    """Holds a TFLite file's size, its accuracy in % beside JAX's, and its latency."""

    path: str
    format: Format
    bytes: int
    jax_accuracy: float
    litert_accuracy: float
    largest_difference: float
    same_class: float
    operators: dict[str, int]
    latency: Latency


def export(
    run: runs.Run, path: pathlib.Path, format: Format = "float32", data_dir: pathlib.Path | None = None
) -> Exported:
    """Writes a finished run's packed model as TFLite, with a JSON report beside it, and measures it.

    The model is restored from the packed file, so what is exported is what the file holds. ``int8`` and ``int4`` are
    rounded by GPTQ on training images; what JAX computes then is the device's integers.
    """
    experiment = run.experiment
    if not run.finished:
        raise ValueError(f"{run.folder} is not finished; run the command that made it again to go on with it")
    runs.training(experiment)  # what is quantized already has its file
    dataset = runs.dataset(experiment.data, data_dir)
    params = jc.export.load(run.packed_file)
    images = np.asarray(build.scaled(jnp.asarray(dataset.test.images)))
    if format in ("int8", "int4"):
        last = config.PostTraining(format, bits=8 if format == "int8" else 4, rounding="gptq")
        model = quantized.integers(replace(experiment, stages=(*experiment.stages, last)), dataset, params)
        size, grid = jc.export.integers(model, path), model.grids[model.graph.output]
        codes = np.asarray(encode(jnp.asarray(images), model.grids[INPUT]))
        both = quantized.evaluated(model, "xnnpack", codes), Model(path).batch(codes)
        ours, theirs = (np.asarray(decode(jnp.asarray(outputs), grid)) for outputs in both)
    else:
        logits = build.predictor(experiment.model, dataset.classes)
        size = tflite(logits, params, jnp.asarray(images[:1]), path, format=format)
        ours, theirs = evaluate.predict(logits, params, images), Model(path).batch(images)
    found = Exported(
        path=str(path),
        format=format,
        bytes=size,
        jax_accuracy=evaluate.quality(ours, dataset.test.labels).accuracy,
        litert_accuracy=evaluate.quality(theirs, dataset.test.labels).accuracy,
        largest_difference=float(np.max(np.abs(ours - theirs))),
        same_class=100 * float(np.mean(ours.argmax(1) == theirs.argmax(1))),
        operators=dict(Counter(op.name for op in operators(path))),
        latency=latency(path, device=processor()),
    )
    report = asdict(found) | {"latency": found.latency._asdict()}
    write_whole(path.with_suffix(".json"), (json.dumps(report, indent=2) + "\n").encode())
    return found


def described(found: Exported) -> str:
    """Prints an export for people."""
    time = found.latency
    return "\n".join(
        [
            f"file                {found.path}",
            f"format              {found.format}: {_WORDS[found.format]}",
            f"bytes               {found.bytes:,}",
            f"operators           {', '.join(f'{n} x {name}' for name, n in found.operators.items())}",
            f"accuracy in JAX     {found.jax_accuracy:.2f} %",
            f"accuracy in LiteRT  {found.litert_accuracy:.2f} %",
            f"same class          {found.same_class:.2f} % of the test set",
            f"largest difference  {found.largest_difference:.3g} in the logits",
            f"latency             median {time.median_us:.1f} us, min {time.min_us:.1f}, spread {time.spread_us:.1f}"
            f" ({time.interpreters} interpreters x {time.invokes} invokes, {time.threads} thread)",
            f"device              {time.device}",
        ]
    )
