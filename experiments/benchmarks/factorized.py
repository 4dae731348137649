"""What thin factors do to the clock: a step and a batch by their share of the multiply-adds, and the decompositions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array

import jaxcompress as jc
from experiments.benchmarks import files, peer, steps
from experiments.benchmarks.decompositions import decompositions
from experiments.benchmarks.timing import Effort, File, Report, Row, race, row
from jaxcompress.paths import replaced, select

MODELS = ("LeNet-300-100", "LeNet-5", "ResNet-8")
SHARES = {"a half": 0.5, "a quarter": 0.25, "a tenth": 0.1}


def factorize(effort: Effort) -> Report:
    """Compares factorized models with dense ones, in JAX and LiteRT, and decompositions with tensorly's."""
    rows = [row for name in MODELS for row in (*_steps(name, effort), *_batches(name, effort))]
    notes, found = [], []
    if peer.installed("tensorly"):
        rows += decompositions(effort)
    else:
        notes.append("tensorly is not installed and left out; pip install 'jaxcompress[tensorly]'")
    if peer.installed("tensorflow"):
        found = [file for name in MODELS for file in _in_litert(name, effort)]
    else:
        notes.append("TensorFlow is not installed; LiteRT is left out; pip install 'jaxcompress[tflite]'")
    return Report(rows, notes, found)


def within(name: str, effort: Effort, share: float) -> tuple[Any, float]:
    """Returns a model's parameters factorized to at most a share of its multiply-adds, and the share they have.

    Every kernel has the largest rank with which its own factors hold that share; one that cannot stays whole.
    """
    problem = steps.make_problem(name, effort)
    made = {path: _kernel(path, kernel, share) for path, kernel in select(problem.params, steps.KERNELS).items()}
    params = replaced(problem.params, made)
    cost = jc.factorize.multiply_adds(problem.model, problem.batch[0][:1])
    return params, cost(params) / cost(problem.params)


def _kernel(path: str, kernel: Array, share: float) -> Any:
    matrix = kernel.reshape(-1, kernel.shape[-1])
    if jc.factorize.ratio(share)(matrix) < 1:
        return kernel
    return jc.factorize.svd("w", jc.factorize.ratio(share)).init({"w": kernel})["w"]


def _steps(name: str, effort: Effort) -> list[Row]:
    problem = steps.make_problem(name, effort)
    runs = {"dense": steps.dense_training(name, effort, steps.harness_form())}
    shares = {}
    for words, share in SHARES.items():
        params, shares[words] = within(name, effort, share)
        runs[words] = steps.training(steps.read(problem.model, steps.harness_form()), params, jc.chain(), problem.batch)
    times = race(runs, effort.rounds, steps.calls(name, effort))
    subject = f"{name}, a step by its share of the multiply-adds"
    return [row(subject, _named(times, shares), f"{words}, {shares[words]:.0%}", "dense", 0) for words in SHARES]


def _batches(name: str, effort: Effort) -> list[Row]:
    problem = steps.make_problem(name, effort)
    images, run = problem.batch[0], jax.jit(jc.lift(problem.model))
    trees = {words: within(name, effort, share) for words, share in SHARES.items()}
    calls: dict[str, Callable[[], Any]] = {"dense": partial(run, problem.params, images)}
    calls |= {words: partial(run, params, images) for words, (params, _) in trees.items()}
    times = race(calls, effort.rounds, steps.calls(name, effort))
    shares = {words: share for words, (_, share) in trees.items()}
    whole = {words: np.asarray(run(jc.densify(params), images)) for words, (params, _) in trees.items()}
    differences = {words: files.error(np.asarray(calls[words]()), whole[words]) for words in trees}
    subject = f"{name}, a batch by its share of the multiply-adds"
    named = _named(times, shares)
    return [row(subject, named, f"{w}, {shares[w]:.0%}", "dense", differences[w]) for w in SHARES]


def _named(times: dict[str, np.ndarray], shares: dict[str, float]) -> dict[str, np.ndarray]:
    return {f"{words}, {shares[words]:.0%}" if words in shares else words: found for words, found in times.items()}


def _in_litert(name: str, effort: Effort) -> list[File]:
    """Times the float files of a model, dense and factorized."""
    problem = steps.make_problem(name, effort)
    trees = {"dense": problem.params} | {words: within(name, effort, share)[0] for words, share in SHARES.items()}
    return files.floats(name, trees, effort)
