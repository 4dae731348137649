"""What techniques cost in time: training steps and mask updates, measured side by side.

Machines are shared and their speed drifts, so times of different minutes do not compare. Variants therefore take turns,
in rounds of shuffled order, and a row is the median over rounds of the ratio within a round.
"""

import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

import jaxcompress as jc
from experiments import build, config, train
from jaxcompress.arrays import Masked, dense
from jaxcompress.numerics.masks import keep_largest, kept_count

MODELS: dict[str, config.Model] = {"LeNet-300-100": config.MLP(), "LeNet-5": config.LeNet5()}
KERNELS = ".*/kernel"
SPARSITY = 0.9
RATE, MOMENTUM = 0.01, 0.9
PAUSE = 0.01  # seconds before a measurement, in which the threads of the variant before stop spinning
STANDING, ALWAYS = "90 % masked, mask stands", "90 % masked, new mask every step"
RARELY = "90 % masked, new mask every 100 steps"

Logits = Callable[[Any, Array], Array]
Milliseconds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Effort:
    """Says how much is measured; `calls` is how often a measurement repeats a short step, `masks` are weight shapes."""

    rounds: int = 20
    batch: int = 100
    calls: int = 10
    scanned: int = 3
    masks: tuple[tuple[int, ...], ...] = ((784, 300), (3, 3, 512, 512))


QUICK = Effort(rounds=3, batch=10, calls=1, scanned=2, masks=((30, 20), (3, 3, 8, 8)))


@dataclass(frozen=True)
class Row:
    """Compares the time of `variant` with that of `against`: median and quartiles of the ratio within a round.

    `difference` says how far the variant's result is from what it has to equal: in the loss, or in mask entries.
    """

    subject: str
    variant: str
    against: str
    ratio: float
    low: float
    high: float
    milliseconds: float
    against_milliseconds: float
    difference: float


class Report(NamedTuple):
    """Holds the rows, and a line for what could not be measured here."""

    rows: list[Row]
    notes: list[str]


def race(variants: Mapping[str, Callable[[], Any]], rounds: int, calls: int = 1) -> Milliseconds:
    """Times every variant once a round, `calls` calls at a time; returns milliseconds a call, shape (rounds,)."""
    if rounds < 1:
        raise ValueError(f"{rounds} rounds are too few; a ratio needs at least 1")
    for call in variants.values():
        jax.block_until_ready(call())  # compiles
    names, shuffle = list(variants), random.Random(0).shuffle
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        shuffle(names)
        for name in names:
            times[name].append(_measured(variants[name], calls))
    return {name: np.array(found) for name, found in times.items()}


def _measured(call: Callable[[], Any], calls: int) -> float:
    time.sleep(PAUSE)
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(call())
    return 1e3 * (time.perf_counter() - start) / calls


def _row(subject: str, times: Milliseconds, variant: str, against: str, difference: float) -> Row:
    low, ratio, high = np.percentile(times[variant] / times[against], [25, 50, 75]).tolist()
    milliseconds, against_milliseconds = (float(np.median(times[name])) for name in (variant, against))
    return Row(subject, variant, against, ratio, low, high, milliseconds, against_milliseconds, difference)


def train_step(effort: Effort) -> Report:
    """Compares one compiled training step under each technique, by each form of convolution, and with PyTorch's."""
    rows = [row for name in MODELS for row in _techniques(name, effort)] + _convolutions("LeNet-5", effort)
    if jax.default_backend() != "cpu":
        return Report(rows, ["PyTorch is compared on CPU only: JAX_PLATFORMS=cpu"])
    try:
        return Report(rows + [_against_torch(name, effort) for name in MODELS], [])
    except ModuleNotFoundError:
        return Report(rows, ["PyTorch is not installed, so it is left out: pip install 'jaxcompress[peers]'"])


class Problem(NamedTuple):
    """Holds a model as it is written, its initial parameters, and batches: images and labels, one axis in front."""

    model: Logits
    params: Any
    batches: tuple[Array, Array]

    @property
    def batch(self) -> tuple[Array, Array]:
        """The first batch."""
        return self.batches[0][0], self.batches[1][0]


def _problem(name: str, batch: int, batches: int = 1) -> Problem:
    module = build.model(MODELS[name], classes=10)
    images_key, labels_key, init_key = jax.random.split(jax.random.key(0), 3)
    images = jax.random.uniform(images_key, (batches, batch, 28, 28, 1))
    labels = jax.random.randint(labels_key, (batches, batch), 0, 10)
    params = module.init(init_key, images[0])["params"]
    return Problem(lambda params, images: module.apply({"params": params}, images), params, (images, labels))


def _harness(model: Logits) -> Logits:
    """Reads a model as `experiments.build.trainer` does."""
    return jc.patches(jc.lift(model)) if jax.default_backend() == "cpu" else jc.lift(model)


def _mean_loss(logits: Logits, params: Any, batch: tuple[Array, Array]) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, batch[0]), batch[1]).mean()


class Training(NamedTuple):
    """Takes, when called, one compiled step from the same state on the same data; returns the next state and the loss.

    The step is that of `experiments.train`, without the order of the examples. `run` may scan it over several batches.
    """

    run: Callable[[train.State, Any], tuple[train.State, Array]]
    state: train.State
    data: tuple[Array, Array]

    def __call__(self) -> tuple[train.State, Array]:
        return self.run(self.state, self.data)


def _training(logits: Logits, params: Any, recipe: jc.Transform, data: Any, scanned: bool = False) -> Training:
    optimiser = optax.sgd(RATE, MOMENTUM)

    def step(state: train.State, batch: tuple[Array, Array]) -> tuple[train.State, Array]:
        def loss(trainable: Any) -> Array:
            return _mean_loss(logits, jc.combine(trainable, state.fixed), batch)

        value, grads = jax.value_and_grad(loss)(state.trainable)
        updates, opt_state = optimiser.update(grads, state.opt_state, state.trainable)
        moved = jc.combine(optax.apply_updates(state.trainable, updates), state.fixed)
        params = recipe.update(moved, state.step + 1, grads=grads)
        return train.State(*jc.partition(params), opt_state, state.step + 1), value

    run = jax.jit(lambda state, data: lax.scan(step, state, data)) if scanned else jax.jit(step)
    return Training(run, train.begin(recipe.init(params), optimiser), data)


def _recipes(params: Any) -> dict[str, jc.Transform]:
    shapes = {f"{layer}/kernel": leaves["kernel"].shape for layer, leaves in params.items()}
    ranks = {path: max(1, min(int(np.prod(shape[:-1])), shape[-1]) // 4) for path, shape in shapes.items()}
    return {
        "dense": jc.chain(),
        STANDING: jc.prune.magnitude(KERNELS, SPARSITY, every=100),
        ALWAYS: jc.prune.magnitude(KERNELS, SPARSITY),
        "4-bit fake quantization": jc.quantize.weights(KERNELS, 4),
        "5-bit codebook": jc.quantize.codebook(KERNELS, 5),
        "low rank, a quarter of full": jc.chain(*(jc.factorize.svd(path, rank) for path, rank in ranks.items())),
    }


def _techniques(name: str, effort: Effort) -> list[Row]:
    model, params, batch = (problem := _problem(name, effort.batch)).model, problem.params, problem.batch
    runs = {key: _training(_harness(model), params, recipe, batch) for key, recipe in _recipes(params).items()}
    times = race(runs, effort.rounds, effort.calls if name == "LeNet-300-100" else 1)

    def difference(run: Training) -> float:
        weights = jc.densify(train.params_of(run.state))
        return abs(float(run()[1] - _mean_loss(model, weights, batch)))

    rows = [
        _row(name, times, key, "dense", difference(run)) for key, run in runs.items() if key not in ("dense", STANDING)
    ]
    # One step in a hundred would seldom be among those timed, so its share is added to that of the others.
    times[RARELY] = 0.99 * times[STANDING] + 0.01 * times[ALWAYS]
    return [_row(name, times, RARELY, "dense", difference(runs[STANDING])), *rows]


def _convolutions(name: str, effort: Effort) -> list[Row]:
    problem, rows = _problem(name, effort.batch, effort.scanned), []
    for form, scanned in ((f"scan of {effort.scanned} steps", True), ("one step", False)):
        data = problem.batches if scanned else problem.batch
        native, patches = f"native convolution, {form}", f"patches, {form}"
        forms = {native: jc.lift(problem.model), patches: jc.patches(jc.lift(problem.model))}
        runs = {key: _training(logits, problem.params, jc.chain(), data, scanned) for key, logits in forms.items()}
        difference = float(jnp.max(jnp.abs(runs[patches]()[1] - runs[native]()[1])))
        rows.append(_row(name, race(runs, effort.rounds), patches, native, difference))
    return rows


def _against_torch(name: str, effort: Effort) -> Row:
    problem = _problem(name, effort.batch)
    theirs = _torch_training(problem)
    ours = _training(_harness(problem.model), problem.params, jc.chain(), problem.batch)
    state, first = ours()
    difference = max(abs(float(loss) - theirs()) for loss in (first, ours.run(state, problem.batch)[1]))
    calls = effort.calls if name == "LeNet-300-100" else 1
    times = race({"dense": ours, "PyTorch eager, CPU": theirs}, effort.rounds, calls)
    return _row(name, times, "dense", "PyTorch eager, CPU", difference)


def _torch_training(problem: Problem) -> Callable[[], float]:
    """Builds the same step in PyTorch, from the same parameters, on as many threads as there are cores."""
    import torch
    from torch import nn

    torch.set_num_threads(os.cpu_count() or 1)
    layers: list[nn.Module] = []
    for name, leaves in problem.params.items():
        kernel = np.asarray(leaves["kernel"])
        if name == "fc1":
            layers.append(nn.Flatten())
        if name.startswith("conv"):
            layers += [nn.Conv2d(*kernel.shape[2:], kernel.shape[:2]), nn.MaxPool2d(2)]
