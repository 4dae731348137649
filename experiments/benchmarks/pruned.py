"""What pruning does to the clock: masks, channels that are removed, zeros that are scattered."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jaxcompress as jc
from experiments import models
from experiments.benchmarks import files, peer, steps
from experiments.benchmarks.masks import mask_update
from experiments.benchmarks.timing import Effort, File, Report, Row, race, row

MODELS = ("LeNet-5", "ResNet-8")
MASKED, REMOVED, DENSE = "half of the channels masked", "half of the channels removed", "dense"
SCATTERED = f"{100 * steps.SPARSITY:.0f} % of the weights zero"
FINDING, TRACING = "finding its channels", "tracing it"
_READ: dict[str, Callable[[], nn.Module]] = {"ResNet-20": models.ResNet, "ViT": models.ViT}


def prune(effort: Effort) -> Report:
    """Compares mask updates, models of fewer channels with masked ones, in JAX and LiteRT, and readings of models."""
    masks = mask_update(effort)
    rows = [*masks.rows, *(_in_jax(name, effort) for name in MODELS), *(_finding(name, effort) for name in _READ)]
    if not peer.installed("tensorflow"):
        return Report(rows, ["TensorFlow is not installed; LiteRT is left out; pip install 'jaxcompress[tflite]'"])
    return Report(rows, [], [file for name in MODELS for file in _in_litert(name, effort)])


def halved(model: steps.Logits, params: Any, example: Any) -> tuple[Any, Any]:
    """Returns parameters without half of the channels of every group, and the same with zeros in their places."""
    channels = jc.channels(model, params, example)
    kept = jc.prune.select(jc.prune.importance.l2(params, channels), channels, 0.5)
    return jc.prune.remove(params, channels, kept), jc.prune.mask(params, channels, kept)


def _in_jax(name: str, effort: Effort) -> Row:
    problem = steps.make_problem(name, effort)
    images = problem.batch[0]
    removed, masked = halved(problem.model, problem.params, images[:1])
    run = jax.jit(jc.lift(problem.model))
    variants = {REMOVED: partial(run, removed, images), MASKED: partial(run, masked, images)}
    outputs = {variant: np.asarray(call()) for variant, call in variants.items()}
    times = race(variants, effort.rounds, steps.calls(name, effort))
    return row(f"{name}, a batch", times, REMOVED, MASKED, files.error(outputs[REMOVED], outputs[MASKED]))


def _in_litert(name: str, effort: Effort) -> list[File]:
    """Times the float files of a model: dense, with scattered zeros, without half of its channels."""
    problem = steps.make_problem(name, effort)
    images = problem.batch[0]
    trees = {
        DENSE: problem.params,
        SCATTERED: jc.prune.magnitude(steps.KERNELS, steps.SPARSITY).init(problem.params),
        REMOVED: halved(problem.model, problem.params, images[:1])[0],
    }
    return files.floats(name, trees, effort)


def _finding(name: str, effort: Effort) -> Row:
    module, example = _READ[name](), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros(example.shape))

    def trace() -> Any:
        return jax.make_jaxpr(lambda variables, x: module.apply(variables, x))(variables, example)  # anew, not cached

    def find() -> None:
        jc.channels(lambda variables, x: module.apply(variables, x), variables, example)

    return row(name, race({FINDING: find, TRACING: trace}, effort.rounds), FINDING, TRACING, 0)
