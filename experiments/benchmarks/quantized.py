"""Quantization beside floats and its peers: training steps, evaluation in integers, and the files of a device."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxcompress as jc
from experiments.benchmarks import files, peer, steps
from experiments.benchmarks.steps import DENSE, KERNELS
from experiments.benchmarks.timing import Effort, Report, Row, race, row
from jaxcompress.export import writer
from jaxcompress.export.integers import KERNELS as KERNEL_LIBRARIES
from jaxcompress.export.litert import Model
from jaxcompress.interpreters.graph import INPUT, Graph
from jaxcompress.interpreters.integers import Grid, Integers, decode, encode
from jaxcompress.paths import Params

NAMES = ("LeNet-5", "ResNet-8")
FLOATS = "the graph in floats"
WEIGHTS, BOTH, DEVICE = "W8", "W8A8", "W8A8, rounded as the device does"
QWIX_WEIGHTS, QWIX_DYNAMIC = "qwix W8", "qwix W8A8, ranges of the batch"
QWIX_STATIC = "qwix W8A8, ranges observed before"


def quantize(effort: Effort) -> Report:
    """Compares quantization-aware steps, integers evaluated in JAX, and the ways to a TFLite file.

    Convolutions of the steps are XLA's own, which outside of a scan are on their fast path.
    """
    rows, notes = [row for name in NAMES for row in training_steps(name, effort)], []
    if not peer.installed("qwix"):
        notes.append("qwix is not installed and left out; pip install 'jaxcompress[peers]'")
    if not peer.installed("ai_edge_litert"):
        without = "LiteRT is not installed; integers and files are left out; pip install 'jaxcompress[tflite]'"
        return Report(rows, [*notes, without])
    rows += [row for name in NAMES for row in evaluations(name, effort)]
    # Last, since TensorFlow starts threads of its own.
    written = [files.compare(name, read(name, effort).device, effort) for name in NAMES]
    rows += [row for found in written for row in found.rows]
    return Report(rows, notes + written[0].notes, [file for found in written for file in found.files])


class Quantized(NamedTuple):
    """Holds a model read for a device: its graph and weights in floats, and the grids seen on the first batch."""

    graph: Graph
    weights: Params
    grids: dict[str, Grid]

    @property
    def device(self) -> Integers:
        """The integers of the device, each kernel rounded to the nearest."""
        return jc.quantize.to_integers(self.graph, recipe().init(self.weights), self.grids)


@cache
def read(name: str, effort: Effort) -> Quantized:
    """Reads the graph of a model and observes the ranges of its tensors."""
    problem = steps.make_problem(name, effort)
    images = problem.batch[0]
    graph, weights = jc.read(problem.model, problem.params, images[:1])
    return Quantized(graph, weights, jc.quantize.calibrate(graph, weights, [images]))


def recipe() -> jc.Transform:
    """Returns the rounding of all kernels to 8 bits, with a scale for each output."""
    return jc.quantize.weights(KERNELS, 8)


def training_steps(name: str, effort: Effort) -> list[Row]:
    """Compares quantization-aware training steps with the dense one, ours and qwix's.

    `difference` is in the loss: of W8 from that of the rounded weights, of W8A8 from that of the device's integers, and
    of qwix, whose scales are a little smaller, from ours.
    """
    problem, (graph, weights, grids) = steps.make_problem(name, effort), read(name, effort)
    simulated: steps.Logits = lambda weights, images: jc.quantize.fake_quantized(graph, weights, grids)(images)
    exact: steps.Logits = lambda weights, images: jc.quantize.on_device(graph, weights, grids)(images)
    runs = {
        DENSE: steps.dense_training(name, effort, "native"),
        WEIGHTS: steps.training(jc.lift(problem.model), problem.params, recipe(), problem.batch),
        BOTH: steps.training(simulated, weights, recipe(), problem.batch),
        DEVICE: steps.training(exact, weights, recipe(), problem.batch),
    }
    if peer.installed("qwix"):
        runs |= _qwix_training(name, problem)
    times = race(runs, effort.rounds)
    loss = {variant: run()[1] for variant, run in runs.items()}
    rounded = jax.jit(steps.mean_loss, static_argnums=0)(
        problem.model, jc.densify(recipe().init(problem.params)), problem.batch
    )
    device = _device_loss(read(name, effort), problem.batch)
    has_to_equal = {WEIGHTS: rounded, BOTH: device, DEVICE: device, QWIX_WEIGHTS: loss[WEIGHTS]}

    def difference(variant: str) -> float:
        return abs(float(loss[variant] - has_to_equal.get(variant, loss[BOTH])))

    return [row(f"{name}, a step", times, variant, DENSE, difference(variant)) for variant in runs if variant != DENSE]


def _device_loss(model: Quantized, batch: steps.Batch) -> Array:
    """Returns the loss of what the integers of the device give."""
    run, output = jc.integers(model.device), model.grids[model.graph.output]
    logits: steps.Logits = lambda _, images: decode(run(encode(images, model.grids[INPUT])), output)
    return jax.jit(partial(steps.mean_loss, logits, None))(batch)


def _qwix_training(name: str, problem: steps.Problem) -> dict[str, steps.Training]:
    """Compiles the same steps of qwix's quantized training, of the same module from the same parameters."""
    import qwix  # pyright: ignore[reportMissingImports]

    module, images = steps.make_module(name), problem.batch[0]

    def quantized(**how: Any) -> Any:
        return qwix.quantize_model(module, qwix.QtProvider([qwix.QtRule(weight_qtype=jnp.int8, **how)]))

    def training(model: Any, statistics: Any) -> steps.Training:
        logits: steps.Logits = lambda params, images: model.apply({"params": params, **statistics}, images)
        return steps.training(logits, problem.params, jc.chain(), problem.batch)

    static = quantized(act_qtype=jnp.int8, act_static_scale=True)
    # Not compiled: what qwix observes leaks out of its convolutions under jit.
    begun = {**static.init(jax.random.key(0), images), "params": problem.params}
    _, statistics = static.apply(begun, images, mutable=["quant_stats"])
    return {
        QWIX_WEIGHTS: training(quantized(), {}),
        QWIX_DYNAMIC: training(quantized(act_qtype=jnp.int8), {}),
        QWIX_STATIC: training(static, statistics),
    }


def evaluations(name: str, effort: Effort) -> list[Row]:
    """Compares integers evaluated in JAX with floats; `difference` counts the outputs that LiteRT gives otherwise."""
    model, (images, _) = read(name, effort), steps.make_problem(name, effort).batch
    device, codes = model.device, encode(images, model.grids[INPUT])
    floats, content = jax.jit(partial(model.graph, model.weights)), writer.to_bytes(device)
    calls: dict[str, Callable[[], Array]] = {FLOATS: lambda: floats(images)}
    differing: dict[str, int] = {}
    for kernels, arithmetic in KERNEL_LIBRARIES.items():
        run, variant = jax.jit(jc.integers(device, arithmetic)), f"integers, {arithmetic}"
        calls[variant] = partial(run, codes)
        expected = Model(content, kernels=kernels).batch(np.asarray(codes))
        differing[variant] = int(np.count_nonzero(np.asarray(run(codes)) != expected))
    times = race(calls, effort.rounds)
    return [row(f"{name}, a batch evaluated", times, variant, FLOATS, n) for variant, n in differing.items()]
