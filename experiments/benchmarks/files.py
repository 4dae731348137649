"""The ways from a model's weights to a TFLite file in integers, and the files that come of them."""

import pathlib
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

import jaxcompress as jc
from experiments.benchmarks import converters, peer, steps
from experiments.benchmarks.timing import Effort, File, Report, race, row
from experiments.environment import processor
from jaxcompress.export import writer
from jaxcompress.export.litert import Latency, Model, latency
from jaxcompress.interpreters.integers import Integers

OURS, WRITER, HELD = "ours, from the weights", "our writer alone", "our writer, held to LiteRT"
FLOAT, STOCK, EDGE = "float32, by jax2tf", "stock converter", "jax2tf, ai-edge-quantizer"
_ALIKE = (WRITER, HELD)  # they write the file of OURS


def compare(name: str, device: Integers, effort: Effort) -> Report:
    """Races the conversions of a model, calibrated on the same images, and compares their files.

    `device` is what ours makes of the weights, for the time of writing alone. `difference` is the files' error.
    """
    problem = steps.make_problem(name, effort)
    images = np.asarray(problem.batch[0])
    with tempfile.TemporaryDirectory() as folder:
        held = pathlib.Path(folder, "held.tflite")
        ways: dict[str, Callable[[], Any]] = {
            OURS: partial(ours, problem.model, problem.params, images),
            WRITER: partial(writer.to_bytes, device),
            HELD: partial(jc.export.integers, device, held),
        }
        theirs, notes = _theirs(problem.model, problem.params, images)
        ways |= theirs
        times = race(ways, effort.rounds)
        contents = {way: ways[way]() for way in ways if way not in _ALIKE}
        found = latencies(contents, pathlib.Path(folder), effort)
    floats = np.asarray(jax.jit(problem.model)(problem.params, images))
    errors = {way: error(converters.outputs(content, images), floats) for way, content in contents.items()}

    def file(way: str) -> File:
        median = float(np.median([turn.median_us for turn in found[way]]))
        fastest = min(turn.min_us for turn in found[way])
        return File(name, way, float(np.median(times[way])), len(contents[way]), median, fastest, errors[way])

    compared = [way for way in ways if STOCK in ways and way != STOCK]
    errors |= dict.fromkeys(_ALIKE, errors[OURS])
    rows = [row(f"{name}, a file written", times, way, STOCK, errors[way]) for way in compared]
    return Report(rows, notes, [file(way) for way in contents])


def _theirs(model: steps.Logits, params: Any, images: np.ndarray) -> tuple[dict[str, Callable[[], bytes]], list[str]]:
    """Returns the converters that are installed, and a line for those that are not."""
    if not peer.installed("tensorflow"):
        missing = "the stock converter, and ai-edge-quantizer, which starts from its file, are left out"
        return {}, [f"TensorFlow is not installed; {missing}; pip install 'jaxcompress[tflite]'"]
    ways = {
        FLOAT: partial(converters.float32, model, params, images),
        STOCK: partial(converters.stock, model, params, images),
    }
    if not peer.installed("ai_edge_quantizer"):
        return ways, ["ai-edge-quantizer is not installed and left out; pip install 'jaxcompress[peers]'"]
    return ways | {EDGE: partial(converters.edge, model, params, images)}, []


def ours(model: steps.Logits, params: Any, images: np.ndarray) -> bytes:
    """Writes the TFLite file of a model: reads its graph, observes its ranges, rounds its kernels to the nearest."""
    graph, weights = jc.read(model, params, images[:1])
    grids = jc.quantize.calibrate(graph, weights, [images])
    rounded = jc.quantize.weights(steps.KERNELS, 8).init(weights)
    return writer.to_bytes(jc.quantize.to_integers(graph, rounded, grids))


def floats(name: str, trees: dict[str, Any], effort: Effort) -> list[File]:
    """Writes and times the float files of a model with other parameters, by variant."""
    problem = steps.make_problem(name, effort)
    images, apply = problem.batch[0], jc.lift(problem.model)
    contents, milliseconds, errors = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.tflite")
        for variant, params in trees.items():
            start = time.perf_counter()
            jc.export.tflite(apply, params, images[:1], path)
            milliseconds[variant] = 1e3 * (time.perf_counter() - start)
            contents[variant] = path.read_bytes()
            expected = np.asarray(apply(params, images))
            errors[variant] = error(Model(contents[variant]).batch(np.asarray(images)), expected)
        found = latencies(contents, pathlib.Path(folder), effort)

    def file(variant: str) -> File:
        median = float(np.median([turn.median_us for turn in found[variant]]))
        fastest = min(turn.min_us for turn in found[variant])
        return File(name, variant, milliseconds[variant], len(contents[variant]), median, fastest, errors[variant])

    return [file(variant) for variant in trees]


def latencies(contents: dict[str, bytes], folder: pathlib.Path, effort: Effort) -> dict[str, list[Latency]]:
    """Times every file in fresh processes, which take turns in shuffled rounds."""
    paths = {way: folder / f"{number}.tflite" for number, way in enumerate(contents)}
    for way, path in paths.items():
        path.write_bytes(contents[way])
    turns: dict[str, list[Latency]] = {way: [] for way in contents}
    ways, shuffle = list(paths), random.Random(0).shuffle
    for _ in range(effort.interpreters):
        shuffle(ways)
        for way in ways:
            turns[way].append(latency(paths[way], device=processor(), interpreters=1, invokes=effort.invokes))
    return turns


def error(found: np.ndarray, floats: np.ndarray) -> float:
    """Returns the root of the mean squared difference, as a share of that of `floats`."""
    return float(np.sqrt(np.mean((found - floats) ** 2) / np.mean(floats**2)))
