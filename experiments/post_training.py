"""From trained parameters to the integers of a device, as a PostTraining stage says."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxcompress as jc
from experiments import build, config
from experiments.activations import quantizer_of
from experiments.data import Dataset, drawn
from experiments.variables import RANGES, without_ranges
from jaxcompress.interpreters.integers import Grid, Integers
from jaxcompress.paths import Params
from jaxcompress.quantize import ranges
from jaxcompress.quantize.report import Report

_CHUNK = 100  # images observed at a time
_STORED_BITS = (4, 8)  # of the kernels that a LiteRT file knows


class Rounded(NamedTuple):
    """Holds a graph with its weights in floats, as they were prepared, and rounded, and the grids of its tensors."""

    graph: jc.Graph
    weights: Params
    rounded: Params
    grids: dict[str, Grid]
    batches: list[jax.Array]

    def integers(self) -> Integers:
        """Returns the integers of a device."""
        return jc.quantize.to_integers(self.graph, self.rounded, self.grids)

    def report(self) -> Report:
        """Compares every layer with what it was in floats, on the images that ranges were found on."""
        return jc.quantize.report(self.graph, self.weights, self.rounded, self.grids, self.batches)


def observed(experiment: config.Experiment, data: Dataset, examples: int) -> list[jax.Array]:
    """Draws `examples` training images by the seed, in batches, from which ranges and roundings are found."""
    images = build.scaled(jnp.asarray(drawn(data.train, examples, experiment.seed).images))
    return [images[i : i + _CHUNK] for i in range(0, len(images), _CHUNK)]


def read(experiment: config.Experiment, data: Dataset, params: Any) -> tuple[jc.Graph, Params]:
    """Reads the graph of a model and its weights, as a device has them."""
    logits = build.predictor(experiment.model, data.classes)
    example = jax.ShapeDtypeStruct((1, *data.train.images.shape[1:]), jnp.float32)
    return jc.read(logits, without_ranges(params), example)


def rounded(experiment: config.Experiment, data: Dataset, params: Any, activations: int = 8) -> Rounded:
    """Rounds the parameters before a PostTraining stage, and activations to 8 or 16 bits.

    Ranges that were trained are of 8 bits; with 16 they are calibrated like all others.
    """
    stage = experiment.stages[-1]
    assert isinstance(stage, config.PostTraining)
    graph, weights = read(experiment, data, params)
    batches = observed(experiment, data, stage.examples)
    for method in stage.prepare:
        graph, weights = _prepared(method, graph, weights, batches, stage)
    grids = jc.quantize.calibrate(graph, weights, batches, _CALIBRATORS[stage.ranges](), bits=activations)
    if experiment.activations is not None and activations == 8:
        grids |= jc.quantize.grids_of(graph, params[RANGES], quantizer_of(experiment.activations))
    key = build.seed_key(experiment.seed, "rounding")
    found = Rounded(graph, weights, _kernels(stage, graph, weights, grids, batches, key), grids, batches)
    return found._replace(rounded=_corrected(stage, found))


def _prepared(
    method: config.Preparation, graph: jc.Graph, weights: Params, batches: list[jax.Array], stage: config.PostTraining
) -> tuple[jc.Graph, Params]:
    match method:
        case "without-relu6":
            return jc.quantize.without_relu6(graph), weights
        case "equalize":
            return graph, jc.quantize.equalize(graph, weights).weights
        case "absorb-bias":
            moments = jc.quantize.moments(graph, weights, batches)
            return graph, jc.quantize.absorb_bias(graph, weights, moments).weights
        case "smoothquant":
            return graph, jc.quantize.smoothquant(graph, weights, batches).weights
        case "awq":
            options = {"bits": stage.bits, "granularity": stage.granularity}
            return graph, jc.quantize.awq(graph, weights, batches, **options).weights


def _kernels(
    stage: config.PostTraining,
    graph: jc.Graph,
    weights: Params,
    grids: dict[str, Grid],
    batches: list[jax.Array],
    key: jax.Array,
) -> Params:
    if stage.rounding == "trained":
        return weights
    options: dict[str, Any] = {"bits": stage.bits, "granularity": stage.granularity, "key": key}
    if stage.budget is not None:
        options["bits"] = _mixed(stage, graph, weights, batches, stage.budget)
    if stage.rounding == "brecq":
        return jc.quantize.reconstruct(graph, weights, grids, batches, **options)
    return jc.quantize.post_training(graph, weights, grids, batches, rounding=stage.rounding, **options)


def _mixed(
    stage: config.PostTraining, graph: jc.Graph, weights: Params, batches: list[jax.Array], budget: int
) -> dict[str, int]:
    """Chooses the bits of every layer by what its rounding does to the outputs."""
    options: dict[str, Any] = {"bits": _STORED_BITS, "granularity": stage.granularity}
    damages = jc.quantize.sensitivity(graph, weights, batches, **options)
    return jc.budget.mixed_precision(graph, weights, damages, budget, stored="litert", **options)


def _corrected(stage: config.PostTraining, found: Rounded) -> Params:
    graph, weights, changed, grids, batches = found
    match stage.correct_bias:
        case "none":
            return changed
        case "empirical":
            return jc.quantize.correct_bias(graph, weights, changed, grids, batches)
        case "analytic":
            moments = jc.quantize.moments(graph, weights, batches)
            return jc.quantize.correct_bias_by_moments(graph, weights, changed, moments)


_CALIBRATORS: dict[str, Callable[[], ranges.Calibrator]] = {
    "min-max": ranges.min_max,
    "moving-average": ranges.moving_average,
    "percentile": ranges.percentile,
    "mse": ranges.mse,
    "entropy": ranges.entropy,
}
