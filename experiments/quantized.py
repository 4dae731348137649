"""Post-training quantization of a run, down to the file that a device runs and the kernels that run it."""

import hashlib
import json
import pathlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxcompress as jc
from experiments import build, config, evaluate, post_training, report
from experiments.data import Dataset
from experiments.measures import accounted, dense_sizes, targets
from jaxcompress.export import litert, micro
from jaxcompress.export.files import write_whole
from jaxcompress.export.integers import KERNELS
from jaxcompress.interpreters.graph import INPUT
from jaxcompress.interpreters.integers import Arithmetic, Integers, decode, encode
from jaxcompress.ledger import Entry, Ledger


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
    ``layers.txt`` says what rounding did to every layer. Sizes are those of the file, beside the dense model's; the
    ledger is of the layers that the file has.
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
    dense = dense_sizes(accounted(experiment, data, params))
    account = accounted_for(model, rounded, size)
    given = targets(experiment, data, params)
    sizes = {
        "bytes": size,
        "rate": dense["dense_bytes"] / size,
        "parameters": account.nonzero,
        "macs": account.macs,
        "memory": account.memory,
        **dense,
        **given,
        **with_bits(given["reached"], model),
        "activity": activity(model, rounded, codes),
        "differ": sum(agreed.differ for agreed in found.values()),
        "kernels": {arithmetic: agreed._asdict() for arithmetic, agreed in found.items()},
        "arena": litert.arena(file),
        "micro_arena": micro.arena(file).bytes,
        "tflite_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    grids = {tensor: [float(grid.scale), grid.zero_point] for tensor, grid in model.grids.items()}
    write_whole(folder / "grids.json", (json.dumps(grids, indent=2) + "\n").encode())
    write_whole(folder / "layers.txt", f"{rounded.report()}\n".encode())
    write_whole(folder / "ledger.json", f"{account.to_json()}\n".encode())
    write_whole(folder / "ledger.txt", f"{account}\n".encode())
    files = [folder / name for name in ("grids.json", "layers.txt", "confusion.png")]
    return quality._asdict() | sizes, [file, *files]


def accounted_for(model: Integers, rounded: post_training.Rounded, size: int) -> Ledger:
    """Returns the ledger of the layers of a TFLite file of `size` bytes.

    `nonzero` counts codes. Memory is that of the activations in codes of one byte.
    """
    entries = []
    for name, layer in model.layers.items():
        kind = f"int{layer.bits}"
        entries.append(_entry(f"{name}/kernel", kind, layer.kernel, -(-layer.kernel.size * int(layer.bits) // 8)))
        entries.append(_entry(f"{name}/bias", str(layer.bias.dtype), layer.bias, layer.bias.nbytes))
    example = jax.ShapeDtypeStruct((1, *model.graph.input_shape[1:]), jnp.float32)
    macs, memory = (count(rounded.graph, rounded.weights, example) for count in (jc.macs, jc.peak_memory))
    overhead = size - sum(entry.packed_bytes for entry in entries)
    return Ledger(tuple(entries), overhead, macs, macs, memory, memory // np.dtype(np.float32).itemsize)


def _entry(path: str, kind: str, codes: np.ndarray, stored: int) -> Entry:
    dense = codes.size * np.dtype(np.float32).itemsize
    return Entry(path, kind, codes.size, int(np.count_nonzero(codes)), dense, stored, {f"codes:{kind}": stored}, {})


def with_bits(given: dict[str, dict[str, float]], model: Integers) -> dict[str, Any]:
    """Returns the mean bits of the weights of kernels, and by path the bits of each beside what it was `given` with."""
    sizes = {f"{name}/kernel": (float(layer.bits), layer.kernel.size) for name, layer in model.layers.items()}
    mean = sum(bits * size for bits, size in sizes.values()) / sum(size for _, size in sizes.values())
    by_path = {path: given.get(path, {}) | {"bits": bits} for path, (bits, _) in sizes.items()}
    return {"bits": mean, "reached": given | by_path}


def activity(model: Integers, rounded: post_training.Rounded, codes: np.ndarray) -> dict[str, dict[str, float]]:
    """Returns by path of a kernel its multiply-adds an image and the share of its inputs that are not zero, in %."""
    layers = {node.name: node.inputs[0] for node in model.graph.nodes if node.name in model.layers}
    programs = {
        tensor: jc.integers(model._replace(graph=replace(model.graph, output=tensor))) for tensor in layers.values()
    }

    @jax.jit
    def shares(codes: jax.Array) -> dict[str, jax.Array]:
        tensors = {tensor: run(codes) for tensor, run in programs.items()}
        return {name: jnp.mean(values != model.grids[name].zero_point) for name, values in tensors.items()}

    parts = list(evaluate.chunks(codes))
    found, weights = [shares(part) for (part,) in parts], [len(part) for (part,) in parts]
    reals = jax.ShapeDtypeStruct(codes.shape, jnp.float32)
    macs = evaluate.multiply_adds(rounded.graph, jc.densify(rounded.weights), reals)
    return {
        f"{name}/kernel": {
            "macs": macs[f"{name}/kernel"],
            "input %": 100 * float(np.average([share[tensor] for share in found], weights=weights)),
        }
        for name, tensor in layers.items()
    }


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
