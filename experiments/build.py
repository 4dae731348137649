"""From configuration to objects: the model, the optimiser, the recipe."""

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jaxcompress as jc
from experiments import config, lc_weights, models, tflite_weights
from experiments.activations import rounded
from experiments.convolutions import in_training
from experiments.data import Dataset
from experiments.downloads import ACCEPTED, locate, verified
from experiments.variables import STATISTICS, joined, variables
from jaxcompress.paths import Params, compiled, named_key, path_text, rewrite, select


def seed_key(seed: int, purpose: str) -> jax.Array:
    """Returns the random key of one purpose (``init``, ``batches of pruned``), independent of all others."""
    return named_key(jax.random.key(seed), purpose)


def model(spec: config.Model, classes: int) -> nn.Module:
    """Builds the Linen module of a model's configuration."""
    match spec:
        case config.MLP():
            given = (spec.pixels.mean, spec.pixels.std)
            kind = (spec.activation, spec.center, spec.pad, spec.input_dropout)
            return models.MLP(spec.hidden, classes, spec.dropout, spec.norm, spec.initial, *given, *kind)
        case config.LeNet5():
            widths = (spec.filters, spec.hidden)
            return models.LeNet5(classes, spec.dropout, spec.relu, spec.pixels.mean, spec.pixels.std, *widths)
        case config.LeNet5BN():
            return models.LeNet5BN(classes)
        case config.ResNet8():
            return models.ResNet8(classes, spec.width, norm=False)
        case config.ResNet():
            given = (spec.pixels.mean, spec.pixels.std)
            return models.ResNet(spec.depth, classes, spec.width, True, spec.stem, spec.shortcut, *given)


def initial_params(experiment: config.Experiment, dataset: Dataset, data_dir: pathlib.Path | None = None) -> Any:
    """Draws the initial parameters of an experiment from its seed, or reads the published ones that it starts from."""
    spec = experiment.pretrained
    if spec is None:
        return random_params(experiment, dataset, "init")
    like = jax.eval_shape(lambda: random_params(experiment, dataset, "init"))
    module, file = model(experiment.model, dataset.classes), spec.file
    name = file.partition("/")[0]
    path = locate(name, data_dir) / file
    holds = {"mlperf-tiny": models.ResNet8, "lc-lenet300": models.MLP}[name]
    if not isinstance(module, holds):
        raise ValueError(f"{file} holds a {holds.__name__}, not the {type(experiment.model).__name__} asked for")
    raw = verified(path, ACCEPTED[file])
    if isinstance(module, models.ResNet8):
        params = tflite_weights.load(path, module.layers, like=like)
        first = module.layers[0]
    else:
        params = lc_weights.load(raw, like) | {STATISTICS: _statistics(experiment.model, dataset)}
        first = "fc1"
    # What the first layer was given times `input_range`, it now finds in its kernel.
    return rewrite(params, f"{first}/kernel", lambda _, kernel: kernel * spec.input_range)


def random_params(experiment: config.Experiment, dataset: Dataset, purpose: str) -> Params:
    """Draws parameters by the seed of an experiment; `purpose` tells draws apart."""
    module = model(experiment.model, dataset.classes)
    example = jnp.zeros((1, *dataset.train.images.shape[1:]), jnp.float32)
    params = joined(module.init(seed_key(experiment.seed, purpose), example))
    found = params.get(STATISTICS, {}) | _statistics(experiment.model, dataset)
    return params | ({STATISTICS: found} if found else {})


def _statistics(spec: config.Model, dataset: Dataset) -> Params:
    """Returns the statistics of the training images that a model takes from them: the mean of every pixel."""
    if not getattr(spec, "center", False):
        return {}
    images = dataset.train.images
    total = sum(part.astype(np.float64).sum(0) for part in np.array_split(images, 16))
    largest = 255 if images.dtype == np.uint8 else 1
    mean = np.asarray(total / (largest * len(images)), np.float32)
    return {"pixel_mean": jnp.asarray(mean.reshape(-1))}


def scaled(images: jax.Array) -> jax.Array:
    """Returns what a model is given of images, in training and afterwards: float32.

    Bytes become numbers in [0, 1]; floats are given as they are. Raises ValueError for other types.
    """
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images of dtype {images.dtype} have no scale; they are uint8, from 0 to 255, or floats")
    return images.astype(jnp.float32)


def predictor(
    spec: config.Model, classes: int, activations: config.Activations | None = None
) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns ``logits(params, images)`` of the lifted model for inference; images are those of `scaled`.

    With `activations` they are rounded in the ranges that `params` hold.
    """
    return jc.lift(_logits(spec, classes, activations))


class Heard(NamedTuple):
    """Holds what a network says of a batch: its logits, and its activations by name."""

    logits: jax.Array
    taps: Mapping[str, jax.Array]


def speaker(
    spec: config.Model, classes: int, activations: config.Activations | None, taps: Sequence[str]
) -> Callable[[Any, jax.Array], Heard]:
    """Returns ``heard(params, images)`` of a teacher within the training of another model: its logits and `taps`.

    It runs as `predictor` does, but convolutions as those of `trainer`.
    """
    logits = _logits(spec, classes, activations)
    if not taps:
        plain = in_training(jc.lift(logits))
        return lambda params, images: Heard(plain(params, images), {})
    tapped = in_training(jc.taps(logits, taps))
    return lambda params, images: Heard(*tapped(params, images))


def _logits(
    spec: config.Model, classes: int, activations: config.Activations | None
) -> Callable[[Any, jax.Array], jax.Array]:
    module = model(spec, classes)

    def logits(params: Any, images: jax.Array) -> Any:
        images = scaled(images)
        if activations is not None:
            return rounded(module, activations, params, images)
        return module.apply(variables(params), images)

    return logits


class Outputs(NamedTuple):
    """Holds what a model gives in training.

    `statistics` are the running ones after these images, to replace those before, and empty for a model without batch
    normalization; `taps` are the activations that were asked for.
    """

    logits: jax.Array
    statistics: Any
    taps: dict[str, jax.Array]


def trainer(
    spec: config.Model, classes: int, activations: config.Activations | None = None, taps: Sequence[str] = ()
) -> Callable[[Any, jax.Array, jax.Array], Outputs]:
    """Returns ``outputs(params, images, key)`` of the lifted model for training, with the `taps` that are named.

    Dropout is drawn from `key`. On CPU convolutions run as patches, since XLA's leave their fast path inside the
    compiled epoch. With `activations` they are rounded in the ranges that `params` hold; the model is then the graph of
    a device, which has neither dropout nor a batch normalization in training: ValueError for these.
    """
    module = model(spec, classes)
    dropped = getattr(module, "dropout", 0) or getattr(module, "input_dropout", 0)
    if activations is not None and (getattr(module, "norm", False) or dropped):
        raise ValueError(f"activations of {spec} cannot be rounded in training: it has dropout or batch normalization")

    def outputs(params: Any, images: jax.Array, key: jax.Array) -> Any:
        if activations is not None:
            return rounded(module, activations, params, scaled(images)), {}
        options = {"train": True, "rngs": {"dropout": key}, "mutable": [STATISTICS]}
        return module.apply(variables(params), scaled(images), **options)

    run = in_training(jc.taps(outputs, taps) if taps else jc.lift(outputs))

    def found(params: Any, images: jax.Array, key: jax.Array) -> Outputs:
        if not taps:
            logits, statistics = run(params, images, key)
            return Outputs(logits, statistics, {})
        (logits, statistics), activations = run(params, images, key)
        return Outputs(logits, statistics, activations)

    return found


def optimiser(
    spec: config.Optimiser, steps: int, epoch_steps: int = 1, *, of_student: bool = True
) -> optax.GradientTransformation:
    """Builds the optimiser of a stage of `steps` updates; epochs become steps by `epoch_steps`.

    What names, scales or bounds weights is for those `of_student` alone.
    """
    rate = _rate(spec, steps, epoch_steps)
    if spec.name == "adam":
        made = optax.adamw(rate, weight_decay=spec.weight_decay)
    else:
        descent = optax.sgd(rate, momentum=spec.momentum, nesterov=spec.nesterov)
        made = optax.chain(optax.add_decayed_weights(spec.weight_decay), descent)
    if not of_student:
        return made
    made = made if spec.scaling == "none" else optax.chain(made, _by_glorot())
    made = made if not spec.max_norm else optax.chain(made, _within(spec.max_norm))
    return made if not spec.rates else optax.chain(made, _by_rates(spec.rates))  # last: what is frozen stays as it is


def _by_rates(rates: Sequence[config.Rate]) -> optax.GradientTransformation:
    """Multiplies updates by the factor of the first pattern that matches their parameter, or the leaf that it is in."""

    def factor(path: str) -> float:
        parts = path.split("/")
        places = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        found = (rate.factor for rate in rates if any(compiled(rate.pattern).fullmatch(place) for place in places))
        return next(found, 1.0)

    def init(params: Any) -> optax.OptState:
        for rate in rates:
            select(params, rate.pattern)  # raises for a pattern without a match
        return optax.EmptyState()

    def update(updates: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        return jax.tree_util.tree_map_with_path(lambda keys, leaf: factor(path_text(keys)) * leaf, updates), state

    return optax.GradientTransformation(init, update)


def _within(length: float) -> optax.GradientTransformation:
    """Changes updates so that the weights into a unit, all axes of a kernel but the last, are no longer than that."""

    def shorter(update: jax.Array, weight: jax.Array) -> jax.Array:
        if update.ndim < 2:
            return update
        moved = weight + update
        lengths = jnp.sqrt(jnp.sum(jnp.square(moved), axis=tuple(range(moved.ndim - 1)), keepdims=True))
        return moved * jnp.minimum(1, length / jnp.maximum(lengths, length)) - weight

    return optax.stateless(lambda updates, params: jax.tree.map(shorter, updates, params))


def _rate(spec: config.Optimiser, steps: int, epoch_steps: int) -> optax.Schedule:
    match spec.decay:
        case "constant":
            return optax.constant_schedule(spec.learning_rate)
        case "linear":
            return optax.linear_schedule(spec.learning_rate, 0.0, steps)
        case "cosine":
            return optax.cosine_decay_schedule(spec.learning_rate, steps)
        case "exponential":
            ratio = jnp.asarray(spec.final / spec.learning_rate, jnp.float32)  # optax would ask whether it is zero
            return lambda step: spec.learning_rate * ratio ** (step / steps)
        case "steps":
            drops = {round(epochs * epoch_steps): 0.1 for epochs in spec.at}
            return optax.piecewise_constant_schedule(spec.learning_rate, drops)


def _by_glorot() -> optax.GradientTransformation:
    """Divides the update of a kernel by Glorot's coefficient, ``sqrt(1.5 / (inputs + outputs))``."""

    def larger(update: jax.Array) -> jax.Array:
        if update.ndim < 2:
            return update
        fans = math.prod(update.shape[:-2]) * sum(update.shape[-2:])
        return update * jnp.asarray(math.sqrt(fans / 1.5), update.dtype)

    return optax.stateless(lambda updates, _: jax.tree.map(larger, updates))
