"""From configuration to objects: the model, the optimiser, the recipe."""

import math
import pathlib
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import jaxcompress as jc
from experiments import config, models, tflite_weights
from experiments.activations import rounded
from experiments.data import Dataset
from experiments.downloads import ACCEPTED, locate, verified
from experiments.variables import STATISTICS, joined, variables
from jaxcompress.arrays import Binary, Dithered
from jaxcompress.paths import Params, rewrite
from jaxcompress.transform import rewrite_owned


def seed_key(seed: int, purpose: str) -> jax.Array:
    """Returns the random key of one purpose (``init``, ``batches of pruned``), independent of all others."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))


def model(spec: config.Model, classes: int) -> nn.Module:
    """Builds the Linen module of a model's configuration."""
    match spec:
        case config.MLP():
            return models.MLP(spec.hidden, classes, spec.dropout, spec.norm, spec.initial)
        case config.LeNet5():
            return models.LeNet5(classes, spec.dropout, spec.relu)
        case config.LeNet5BN():
            return models.LeNet5BN(classes)
        case config.ResNet8():
            return models.ResNet8(classes, spec.width, norm=False)


def initial_params(experiment: config.Experiment, dataset: Dataset, data_dir: pathlib.Path | None = None) -> Any:
    """Draws the initial parameters of an experiment from its seed, or reads the published ones that it starts from."""
    module = model(experiment.model, dataset.classes)
    example = jnp.zeros((1, *dataset.train.images.shape[1:]), jnp.float32)
    key = seed_key(experiment.seed, "init")
    if experiment.pretrained is None:
        return joined(module.init(key, example))
    if not isinstance(module, models.ResNet8):
        raise ValueError(
            f"{experiment.pretrained.file} holds a ResNet8, not the {type(experiment.model).__name__} asked for"
        )
    return _published(
        experiment.pretrained, module.layers, jax.eval_shape(module.init, key, example)["params"], data_dir
    )


def _published(spec: config.Pretrained, layers: tuple[str, ...], like: Any, data_dir: pathlib.Path | None) -> Any:
    name = spec.file.partition("/")[0]
    path = locate(name, data_dir) / spec.file
    verified(path, ACCEPTED[spec.file])
    params = tflite_weights.load(path, layers, like=like)
    # What the first layer was given times `input_range`, it now finds in its kernel.
    return rewrite(params, f"{layers[0]}/kernel", lambda _, kernel: kernel * spec.input_range)


def scaled(images: jax.Array) -> jax.Array:
    """Turns images of bytes into float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255


def predictor(
    spec: config.Model, classes: int, activations: config.Activations | None = None
) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns ``logits(params, images)`` of the lifted model for inference; images are bytes or float32 in [0, 1].

    With `activations` they are rounded in the ranges that `params` hold.
    """
    module = model(spec, classes)

    def logits(params: Any, images: jax.Array) -> Any:
        images = scaled(images) if images.dtype == jnp.uint8 else images
        if activations is not None:
            return rounded(module, activations, params, images)
        return module.apply(variables(params), images)

    return jc.lift(logits)


def trainer(
    spec: config.Model, classes: int, activations: config.Activations | None = None
) -> Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]:
    """Returns ``outputs(params, images, key) -> (logits, statistics)`` of the lifted model for training.

    Dropout is drawn from `key`. `statistics` are the running ones after these images, to replace those of `params`, and
    empty for a model without batch normalization. On CPU convolutions run as patches, since XLA's leave their fast path
    inside the compiled epoch. With `activations` they are rounded in the ranges that `params` hold; the model is then
    the graph of a device, which has neither dropout nor a batch normalization in training: ValueError for these.
    """
    module = model(spec, classes)
    if activations is not None and (getattr(module, "norm", False) or getattr(module, "dropout", 0)):
        raise ValueError(f"activations of {spec} cannot be rounded in training: it has dropout or batch normalization")

    def outputs(params: Any, images: jax.Array, key: jax.Array) -> Any:
        if activations is not None:
            return rounded(module, activations, params, scaled(images)), {}
        options = {"train": True, "rngs": {"dropout": key}, "mutable": [STATISTICS]}
        return module.apply(variables(params), scaled(images), **options)

    lifted = jc.lift(outputs)
    return jc.patches(lifted) if jax.default_backend() == "cpu" else lifted


def optimiser(spec: config.Optimiser, steps: int, epoch_steps: int = 1) -> optax.GradientTransformation:
    """Builds the optimiser of a stage of `steps` updates; epochs become steps by `epoch_steps`."""
    rate = _rate(spec, steps, epoch_steps)
    if spec.name == "adam":
        made = optax.adamw(rate, weight_decay=spec.weight_decay)
    else:
        made = optax.chain(optax.add_decayed_weights(spec.weight_decay), optax.sgd(rate, momentum=spec.momentum))
    return made if spec.scaling == "none" else optax.chain(made, _by_glorot())


def _rate(spec: config.Optimiser, steps: int, epoch_steps: int) -> optax.Schedule:
    match spec.decay:
        case "constant":
            return optax.constant_schedule(spec.learning_rate)
        case "linear":
            return optax.linear_schedule(spec.learning_rate, 0.0, steps)
        case "cosine":
            return optax.cosine_decay_schedule(spec.learning_rate, steps)
        case "exponential":
            return optax.exponential_decay(spec.learning_rate, steps, spec.final / spec.learning_rate)
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


def recipe(stage: config.Stage, epoch_steps: int, seed: int) -> jc.Transform:
    """Builds the transforms of a stage; epochs become steps by `epoch_steps`."""
    return jc.chain(*(_transform(technique, epoch_steps, seed) for technique in stage.recipe))


def handed_on(stage: config.Stage) -> Callable[[Params], Params]:
    """Returns what a stage makes of its parameters to validate and hand on: noise of training is left out.

    What was rounded by drawn numbers is rounded to nearest; of signs it may be that the weights behind them are handed
    on.
    """
    drawn = [t for t in stage.recipe if isinstance(t, config.Binary | config.Weights)]
    signs = {name: isinstance(t, config.Weights) or t.test == "signs" for t in drawn for name in _names(t)}

    def without(params: Params) -> Params:
        for owner, kept in signs.items():
            params = rewrite_owned(params, owner, _without_noise if kept else lambda leaf: leaf.weight)
        return params

    return without


def _names(technique: config.Technique) -> tuple[str, ...]:
    return _transform(technique, 1, 0).names


def _without_noise(leaf: Any) -> Any:
    match leaf:
        case Binary():
            return replace(leaf, threshold=jnp.zeros_like(leaf.threshold))
        case Dithered():
            return replace(leaf, noise=jnp.zeros_like(leaf.noise))
        case _:
            return leaf


def _transform(spec: config.Technique, epoch_steps: int, seed: int) -> jc.Transform:
    match spec:
        case config.Magnitude():
            sparsity = spec.sparsity if spec.ramp is None else _ramp(spec.ramp, spec.sparsity, epoch_steps)
            return jc.prune.magnitude(spec.pattern, sparsity, scope=spec.scope, every=spec.every)
        case config.Threshold():
            return jc.prune.threshold(spec.pattern, spec.quality)
        case config.Weights():
            bits = spec.bits if spec.ramp is None else _ramp(spec.ramp, spec.bits, epoch_steps)
            options = {name: getattr(spec, name) for name in ("granularity", "group", "symmetric", "stochastic")}
            return jc.quantize.weights(spec.pattern, bits, **options)
        case config.Float8():
            return jc.quantize.float8(spec.pattern, spec.format, granularity=spec.granularity)
        case config.LSQ():
            return jc.quantize.lsq(spec.pattern, spec.bits, granularity=spec.granularity, symmetric=True)
        case config.DoReFa():
            return jc.quantize.dorefa(spec.pattern, spec.bits)
        case config.Binary():
            return jc.quantize.binary(spec.pattern, spec.method, stochastic=spec.stochastic)
        case config.Ternary():
            return jc.quantize.ternary(spec.pattern, spec.method, threshold=spec.threshold)
        case config.Codebook():
            key = seed_key(seed, f"codebook {spec.pattern}") if spec.initial == "random" else None
            return jc.quantize.codebook(spec.pattern, spec.bits, initial=spec.initial, key=key)
        case config.SVD():
            return jc.factorize.svd(spec.pattern, spec.rank, energy=spec.energy)


def _ramp(ramp: config.Ramp, final: float, epoch_steps: int) -> jc.schedules.Schedule:
    shape = {"linear": jc.schedules.linear, "cubic": jc.schedules.cubic}[ramp.shape]
    begin, end = (round(epochs * epoch_steps) for epochs in (ramp.begin, ramp.end))
    return shape(ramp.initial, final, begin=begin, end=end)
