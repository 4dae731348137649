"""The training step under each technique, by each form of convolution, and beside PyTorch's."""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array, lax

import jaxcompress as jc
from experiments import build, config, train
from experiments.benchmarks import peer
from experiments.benchmarks.timing import Effort, Report, Row, race, row
from jaxcompress.paths import rewrite

LENETS: dict[str, config.Model] = {"LeNet-300-100": config.MLP(), "LeNet-5": config.LeNet5()}
MODELS: dict[str, config.Model] = LENETS | {"ResNet-8": config.ResNet8()}
KERNELS = ".*/kernel"
SPARSITY = 0.9
RATE, MOMENTUM = 0.01, 0.9
STANDING, ALWAYS = "90 % masked, mask stands", "90 % masked, new mask every step"
RARELY = "90 % masked, new mask every 100 steps"
DENSE, TORCH = "dense", "PyTorch eager, CPU"

Logits = Callable[[Any, Array], Array]
Batch = tuple[Array, Array]
Form = Literal["native", "patches"]


def train_step(effort: Effort) -> Report:
    """Compares one compiled step of stochastic gradient descent with momentum, for both LeNets."""
    rows = [row for name in LENETS for row in techniques(name, effort)] + convolutions("LeNet-5", effort)
    if jax.default_backend() != "cpu":
        return Report(rows, ["PyTorch is compared on CPU only; set JAX_PLATFORMS=cpu"])
    if not peer.installed():
        return Report(rows, ["PyTorch is not installed and left out; pip install 'jaxcompress[peers]'"])
    return Report(rows + [beside_torch(name, effort) for name in LENETS], [])


def techniques(name: str, effort: Effort) -> list[Row]:
    """Compares the step of each technique with the dense one, convolutions in the harness's form."""
    problem = make_problem(name, effort)
    runs = {DENSE: dense_training(name, effort, harness_form())} | {
        variant: training(read(problem.model, harness_form()), problem.params, recipe, problem.batch)
        for variant, recipe in _recipes(problem.params).items()
    }
    times = race(runs, effort.rounds, calls(name, effort))
    # One step in a hundred would seldom be among those timed, so the update enters by its share.
    times[RARELY] = 0.99 * times[STANDING] + 0.01 * times[ALWAYS]
    plain_loss = jax.jit(lambda params: mean_loss(problem.model, params, problem.batch))

    def difference(variant: str) -> float:
        run = runs[STANDING if variant == RARELY else variant]
        return abs(float(run()[1] - plain_loss(jc.densify(train.params_of(run.state)))))

    return [row(name, times, variant, DENSE, difference(variant)) for variant in times if variant != DENSE]


def convolutions(name: str, effort: Effort) -> list[Row]:
    """Compares the step by patches with the step by XLA's convolutions, alone and inside a compiled scan."""
    rows = []
    for length, scanned in ((f"scan of {effort.scanned} steps", True), ("one step", False)):
        native, patches = f"native convolution, {length}", f"patches, {length}"
        forms: dict[str, Form] = {native: "native", patches: "patches"}
        runs = {variant: dense_training(name, effort, form, scanned) for variant, form in forms.items()}
        difference = float(jnp.max(jnp.abs(runs[patches]()[1] - runs[native]()[1])))
        rows.append(row(name, race(runs, effort.rounds), patches, native, difference))
    return rows


def beside_torch(name: str, effort: Effort) -> Row:
    """Compares the dense step with PyTorch's of the same model, batch and optimiser; `difference` is after one step."""
    problem, ours = make_problem(name, effort), dense_training(name, effort, harness_form())
    theirs = peer.training(problem.params, *problem.batch, rate=RATE, momentum=MOMENTUM)
    theirs()
    difference = abs(float(ours.run(ours()[0], ours.data)[1]) - theirs())
    times = race({DENSE: ours, TORCH: theirs}, effort.rounds, calls(name, effort))
    return row(name, times, DENSE, TORCH, difference)


class Problem(NamedTuple):
    """Holds a model as it is written, its initial parameters, and batches of images and labels along a first axis."""

    model: Logits
    params: Any
    batches: Batch

    @property
    def batch(self) -> Batch:
        """The first batch."""
        return self.batches[0][0], self.batches[1][0]


def make_module(name: str) -> nn.Module:
    """Builds a model for ten classes."""
    return build.model(MODELS[name], classes=10)


@cache
def make_problem(name: str, effort: Effort) -> Problem:
    """Draws random images in [0, 1] and labels for a model of random parameters."""
    module, random = make_module(name), np.random.default_rng(0)
    shape = (28, 28, 1) if name in LENETS else (32, 32, 3)
    images = random.random((effort.scanned, effort.batch, *shape), np.float32)
    labels = random.integers(0, 10, (effort.scanned, effort.batch), np.int32)
    params = jax.jit(module.init)(jax.random.key(0), images[0])["params"]
    # Biases start at zero, and a converter leaves those out of its file.
    params = rewrite(params, ".*/bias", lambda _, bias: jnp.asarray(random.normal(0, 0.1, bias.shape), bias.dtype))

    def model(params: Any, images: Array) -> Any:
        return module.apply({"params": params}, images)

    return Problem(model, params, (jnp.asarray(images), jnp.asarray(labels)))


def harness_form() -> Form:
    """Returns how `experiments.build.trainer` computes convolutions here."""
    return "patches" if jax.default_backend() == "cpu" else "native"


def read(model: Logits, form: Form) -> Logits:
    """Makes a model run on compressed weights, its convolutions in the given form."""
    return jc.patches(jc.lift(model)) if form == "patches" else jc.lift(model)


def mean_loss(logits: Logits, params: Any, batch: Batch) -> Array:
    """Returns the mean cross-entropy of a batch."""
    images, labels = batch
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, images), labels).mean()


class Training(NamedTuple):
    """Runs, when called, a compiled step from the same state on the same data; returns the next state and the loss."""

    run: Callable[[train.State, Batch], tuple[train.State, Array]]
    state: train.State
    data: Batch

    def __call__(self) -> tuple[train.State, Array]:
        return self.run(self.state, self.data)


def training(logits: Logits, params: Any, recipe: jc.Transform, data: Batch, *, scanned: bool = False) -> Training:
    """Compiles the step of `experiments.train` on a given batch, or a scan of it over several."""
    optimiser = optax.sgd(RATE, MOMENTUM)

    def step(state: train.State, batch: Batch) -> tuple[train.State, Array]:
        def loss(trainable: Any) -> Array:
            return mean_loss(logits, jc.combine(trainable, state.fixed), batch)

        value, grads = jax.value_and_grad(loss)(state.trainable)
        updates, opt_state = optimiser.update(grads, state.opt_state, state.trainable)
        moved = jc.combine(optax.apply_updates(state.trainable, updates), state.fixed)
        params = recipe.update(moved, state.step + 1, grads=grads)
        return train.State(*jc.partition(params), opt_state, state.step + 1), value

    run = jax.jit(lambda state, data: lax.scan(step, state, data)) if scanned else jax.jit(step)
    return Training(run, train.begin(recipe.init(params), optimiser), data)


@cache
def dense_training(name: str, effort: Effort, form: Form, scanned: bool = False) -> Training:
    """Compiles the step without a technique, once for all that is compared with it."""
    problem = make_problem(name, effort)
    data = problem.batches if scanned else problem.batch
    return training(read(problem.model, form), problem.params, jc.chain(), data, scanned=scanned)


def _recipes(params: Any) -> dict[str, jc.Transform]:
    shapes = {f"{layer}/kernel": leaves["kernel"].shape for layer, leaves in params.items()}
    ranks = {path: max(1, min(int(np.prod(shape[:-1])), shape[-1]) // 4) for path, shape in shapes.items()}
    return {
        STANDING: jc.prune.magnitude(KERNELS, SPARSITY, every=100),
        ALWAYS: jc.prune.magnitude(KERNELS, SPARSITY),
        "4-bit fake quantization": jc.quantize.weights(KERNELS, 4),
        "5-bit codebook": jc.quantize.codebook(KERNELS, 5),
        "low rank, a quarter of full": jc.chain(*(jc.factorize.svd(path, rank) for path, rank in ranks.items())),
    }


def calls(name: str, effort: Effort) -> int:
    """Returns how many steps make one measurement."""
    return effort.calls if name == "LeNet-300-100" else 1
