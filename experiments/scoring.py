"""Scores of connections, on training images of an experiment."""

import jax
import jax.numpy as jnp
import optax

import jaxcompress as jc
from experiments import build, config
from experiments.data import Dataset, drawn
from jaxcompress.paths import Params

_TEMPERATURE = 200.0  # of GraSP's logits


def scores(
    technique: config.Connections, experiment: config.Experiment, data: Dataset, params: Params
) -> jc.prune.scores.Scores:
    """Scores the connections of a model with the given parameters."""
    logits = build.predictor(experiment.model, data.classes)
    examples = drawn(data.train, technique.examples, experiment.seed)
    images, labels = build.scaled(jnp.asarray(examples.images)), jnp.asarray(examples.labels)

    def loss(params: Params, temperature: float = 1.0) -> jax.Array:
        outputs = logits(params, images) / temperature
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()

    match technique.score:
        case "snip":
            return jc.prune.scores.snip(params, technique.pattern, loss)
        case "grasp":
            return jc.prune.scores.grasp(params, technique.pattern, lambda params: loss(params, _TEMPERATURE))
        case "synflow":
            shape = (1, *images.shape[1:])
            return jc.prune.scores.synflow(params, technique.pattern, logits, shape, technique.sparsity)
        case "magnitude":
            return jc.prune.scores.magnitude(params, technique.pattern)
        case "random":
            key = build.seed_key(experiment.seed, f"scores of {technique.pattern}")
            return jc.prune.scores.random(params, technique.pattern, key)
