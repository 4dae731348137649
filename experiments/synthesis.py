"""Training images made from a teacher alone, for a student that may not see the data."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from experiments import build, config, evaluate, models
from experiments.convolutions import in_training
from experiments.data import Dataset, Split
from experiments.variables import STATISTICS
from jaxcompress.distill import data_free
from jaxcompress.paths import flatten

_LATENT = 100  # numbers that a generator makes an image of
_JITTER = 14  # inverted images are moved by up to this part of their height in every step

Hear = Callable[[Array], build.Heard]  # what a frozen teacher says of images in [0, 1]


def synthetic(spec: config.Synthesis, of: config.Experiment, params: Any, data: Dataset, key: Array) -> Split:
    """Makes the transfer set that `spec` asks for from the teacher `of` with these parameters.

    Of the data it takes the shape of an image and the number of classes. Labels are the classes that the teacher holds
    for likeliest. Raises ValueError for the inversion of a teacher without batch normalization, for features that are
    no activation of it and for images that a generator cannot make.
    """
    size = _Size(data.train.images.shape[1:], data.classes)
    method = _inverted if spec.method == "inversion" else _drawn
    images = np.concatenate([_bytes(batch) for batch in method(spec, of, params, size, key)])[: spec.images]
    hear = build.predictor(of.model, data.classes, of.activations)
    labels = np.argmax(evaluate.predict(hear, params, images), axis=-1)
    return Split(images, labels.astype(np.int32))


class _Size(NamedTuple):
    shape: tuple[int, ...]
    classes: int


def _hear(of: config.Experiment, params: Any, classes: int, taps: Iterable[str]) -> Hear:
    return partial(build.speaker(of.model, classes, of.activations, tuple(taps)), params)


def _inverted(
    spec: config.Synthesis, of: config.Experiment, params: Any, size: _Size, key: Array
) -> Iterable[np.ndarray]:
    """Yields batches of noise that descended the losses of DeepInversion (Yin et al. 2020, arXiv:1912.08795).

    Images are moved at random in every step, as there, if they are 14 pixels high or more. Departures: they are not
    mirrored, stay within [0, 1] and have no prior on their length, and the variation is of the images in place.
    """
    found = flatten(params.get(STATISTICS, {}))
    running = {
        f"{path.removesuffix('/mean')}:input": (mean, found[path.removesuffix("mean") + "var"])
        for path, mean in found.items()
        if path.endswith("/mean")
    }
    if not running:
        raise ValueError("synthesis by inversion needs the statistics of batch normalization; the teacher has none")
    hear, reach = _hear(of, params, size.classes, running), size.shape[0] // _JITTER
    optimiser = optax.adam(optax.cosine_decay_schedule(spec.learning_rate, spec.steps))

    def loss(images: Array, labels: Array, key: Array) -> Array:
        moves = jax.random.randint(key, (2,), -reach, reach + 1)
        heard = hear(jnp.roll(images, moves, axis=(1, 2)))
        told = optax.softmax_cross_entropy_with_integer_labels(heard.logits, labels).mean()
        apart = data_free.normalization(data_free.statistics(heard.taps), running)
        return told + spec.normalization * apart + spec.total_variation * data_free.total_variation(images)

    @jax.jit
    def made(key: Array) -> Array:
        of_labels, of_noise, of_steps = jax.random.split(key, 3)
        labels = jax.random.randint(of_labels, (spec.batch,), 0, size.classes)
        images = 0.5 + 0.25 * jax.random.normal(of_noise, (spec.batch, *size.shape))

        def step(state: Any, number: Array) -> tuple[Any, None]:
            images, moments = state
            slopes = jax.grad(loss)(images, labels, jax.random.fold_in(of_steps, number))
            updates, moments = optimiser.update(slopes, moments)
            return (jnp.clip(images + updates, 0, 1), moments), None

        return lax.scan(step, (images, optimiser.init(images)), jnp.arange(spec.steps))[0][0]

    for number in range(-(-spec.images // spec.batch)):
        yield np.asarray(made(jax.random.fold_in(key, number)))


def _drawn(spec: config.Synthesis, of: config.Experiment, params: Any, size: _Size, key: Array) -> Iterable[np.ndarray]:
    """Trains a generator by the losses of DAFL (Chen et al. 2019, arXiv:1904.01186, eq. 6) and yields what it draws.

    Departure: it is trained before the student is, which its losses do not hang on.
    """
    assert (features := spec.features) is not None
    generator, hear = models.Generator(size.shape), _hear(of, params, size.classes, [features])
    optimiser = optax.adam(spec.learning_rate)
    of_weights, of_steps, of_draws = jax.random.split(key, 3)

    def noise(key: Array) -> Array:
        return jax.random.normal(key, (spec.batch, _LATENT))

    first = generator.init(of_weights, jnp.zeros((1, _LATENT)))

    @in_training
    def draw(weights: Any, noise: Array) -> Array:
        # Images are normalized by the batch that they are drawn in, also when training is done.
        variables = {"params": weights, STATISTICS: first[STATISTICS]}
        return generator.apply(variables, noise, train=True, mutable=[STATISTICS])[0]

    def loss(weights: Any, noise: Array) -> Array:
        heard = hear(draw(weights, noise))
        told = data_free.one_hot(heard.logits) + spec.activation * data_free.activation(heard.taps[features])
        return told.mean() + spec.balance * data_free.balance(heard.logits)

    @jax.jit
    def trained(weights: Any) -> Any:
        def step(state: Any, number: Array) -> tuple[Any, None]:
            weights, moments = state
            slopes = jax.grad(loss)(weights, noise(jax.random.fold_in(of_steps, number)))
            updates, moments = optimiser.update(slopes, moments)
            return (optax.apply_updates(weights, updates), moments), None

        return lax.scan(step, (weights, optimiser.init(weights)), jnp.arange(spec.steps))[0][0]

    weights, drawing = trained(first["params"]), jax.jit(draw)
    for number in range(-(-spec.images // spec.batch)):
        yield np.asarray(drawing(weights, noise(jax.random.fold_in(of_draws, number))))


def _bytes(images: np.ndarray) -> np.ndarray:
    return np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8)
