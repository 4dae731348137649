"""Post-training quantization of a run, down to the file that a device runs and the kernels that run it."""

import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxcompress as jc
from experiments import build, config, evaluate, report
from experiments.activations import quantizer_of
from experiments.data import Dataset
from experiments.variables import RANGES, without_ranges
from jaxcompress.export import litert, micro
from jaxcompress.export.files import write_whole
from jaxcompress.export.integers import KERNELS
from jaxcompress.interpreters.graph import INPUT
from jaxcompress.interpreters.integers import Arithmetic, Integers, decode, encode
from jaxcompress.quantize import ranges

_CHUNK = 100  # images observed at a time


class Agreement(NamedTuple):
    """Holds how the integers evaluated in JAX do beside LiteRT's: `differ` counts outputs, of `outputs`.

    `differences` counts them by what LiteRT's code is more than JAX's, in order: ``{"-1": 3, "0": 997}``.
    """

    accuracy: float
    litert_accuracy: float
    differ: int
    outputs: int
    largest: int
    differences: dict[str, int]


def observed(experiment: config.Experiment, data: Dataset, examples: int) -> list[jax.Array]:
    """Draws `examples` training images by the seed, in batches, from which ranges and roundings are found."""
    drawn = np.random.default_rng(experiment.seed).permutation(len(data.train.labels))[:examples]
    images = build.scaled(jnp.asarray(data.train.images[np.sort(drawn)]))
    return [images[i : i + _CHUNK] for i in range(0, len(images), _CHUNK)]


def integers(experiment: config.Experiment, data: Dataset, params: Any, activations: int = 8) -> Integers:
    """Turns the parameters before a PostTraining stage into the integers of a device, `activations` of 8 or 16 bits.

    Ranges that were trained are of 8 bits; with 16 they are calibrated like all others.
    """
    stage = experiment.stages[-1]
    assert isinstance(stage, config.PostTraining)
    logits = build.predictor(experiment.model, data.classes)
    example = jax.ShapeDtypeStruct((1, *data.train.images.shape[1:]), jnp.float32)
    graph, weights = jc.read(logits, without_ranges(params), example)
    batches = observed(experiment, data, stage.examples)
    grids = jc.quantize.calibrate(graph, weights, batches, _CALIBRATORS[stage.ranges](), bits=activations)
    if experiment.activations is not None and activations == 8:
        grids |= jc.quantize.grids_of(graph, params[RANGES], quantizer_of(experiment.activations))
    if stage.rounding != "trained":
        options = {"bits": stage.bits, "granularity": stage.granularity, "rounding": stage.rounding}
        key = build.seed_key(experiment.seed, "rounding")
        weights = jc.quantize.post_training(graph, weights, grids, batches, key=key, **options)
    return jc.quantize.to_integers(graph, weights, grids)


def quantize(
    folder: pathlib.Path,
    experiment: config.Experiment,
    data: Dataset,
    params: Any,
    progress: Callable[[int, int, str], None],
) -> tuple[dict[str, Any], list[pathlib.Path]]:
    """Runs a PostTraining stage; returns its metrics and its files.

    The file is written from the integers, read back by LiteRT, and run on the whole test set with both of its kernel
    libraries; the integers are evaluated in JAX in the arithmetic of each. Accuracy is that of the default kernels.
    """
    file, name = folder / "model.tflite", f"{folder.name} seed {experiment.seed}"
    steps = 1 + len(KERNELS)
    model = integers(experiment, data, params)
    progress(1, steps, name)
    size = jc.export.integers(model, file)
    codes = np.asarray(encode(build.scaled(jnp.asarray(data.test.images)), model.grids[INPUT]))
    found: dict[str, Agreement] = {}
    ours: dict[Arithmetic, np.ndarray] = {}
    for step, (kernels, arithmetic) in enumerate(KERNELS.items()):
        ours[arithmetic] = evaluated(model, arithmetic, codes)
        found[arithmetic] = agreement(ours[arithmetic], litert.Model(file, kernels=kernels).batch(codes), data)
        progress(2 + step, steps, name)
    outputs = np.asarray(decode(jnp.asarray(ours["xnnpack"]), model.grids[model.graph.output]))
    quality = evaluate.quality(outputs, data.test.labels)
    report.confusion_matrix(quality.confusion, folder / "confusion.png")
    sizes = {
        "bytes": size,
        "parameters": int(sum(layer.kernel.size + layer.bias.size for layer in model.layers.values())),
        "differ": sum(agreed.differ for agreed in found.values()),
        "kernels": {arithmetic: agreed._asdict() for arithmetic, agreed in found.items()},
        "arena": litert.arena(file),
        "micro_arena": micro.arena(file).bytes,
        "tflite_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    grids = {tensor: [float(grid.scale), grid.zero_point] for tensor, grid in model.grids.items()}
    write_whole(folder / "grids.json", (json.dumps(grids, indent=2) + "\n").encode())
    return quality._asdict() | sizes, [file, folder / "grids.json", folder / "confusion.png"]


def evaluated(model: Integers, arithmetic: Arithmetic, codes: np.ndarray) -> np.ndarray:
    """Runs an integer model in JAX on all of `codes`."""
    run = jax.jit(jc.integers(model, arithmetic))
    return np.concatenate([np.asarray(run(codes[i : i + 1000])) for i in range(0, len(codes), 1000)])


def agreement(ours: np.ndarray, theirs: np.ndarray, data: Dataset) -> Agreement:
    """Compares two sets of output codes on the test set."""
    difference = theirs.astype(np.int32) - ours.astype(np.int32)
    accuracy, theirs_accuracy = (100 * float(np.mean(c.argmax(1) == data.test.labels)) for c in (ours, theirs))
    differ, largest = int(np.count_nonzero(difference)), int(np.abs(difference).max())
    counts = zip(*(part.tolist() for part in np.unique(difference, return_counts=True)), strict=True)
    differences = {str(value): count for value, count in counts}
    return Agreement(accuracy, theirs_accuracy, differ, difference.size, largest, differences)


_CALIBRATORS: dict[str, Callable[[], ranges.Calibrator]] = {
    "min-max": ranges.min_max,
    "moving-average": ranges.moving_average,
    "percentile": ranges.percentile,
    "mse": ranges.mse,
    "entropy": ranges.entropy,
}
