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
from experiments import build, config, evaluate, post_training, report
from experiments.data import Dataset
from jaxcompress.export import litert, micro
from jaxcompress.export.files import write_whole
from jaxcompress.export.integers import KERNELS
from jaxcompress.interpreters.graph import INPUT
from jaxcompress.interpreters.integers import Arithmetic, Integers, decode, encode


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
    ``layers.txt`` says what rounding did to every layer.
    """
    file, name = folder / "model.tflite", f"{folder.name} seed {experiment.seed}"
    steps = 1 + len(KERNELS)
    rounded = post_training.rounded(experiment, data, params)
    model = rounded.integers()
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
    write_whole(folder / "layers.txt", f"{rounded.report()}\n".encode())
    files = [folder / name for name in ("grids.json", "layers.txt", "confusion.png")]
    return quality._asdict() | sizes, [file, *files]


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
