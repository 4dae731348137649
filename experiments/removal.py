"""Removing channels from the model of an experiment, by scores on its training images."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxcompress as jc
from experiments import build, config
from experiments.data import Dataset, drawn
from jaxcompress.arrays import is_compressed
from jaxcompress.interpreters.channels import Channels
from jaxcompress.paths import Params
from jaxcompress.prune.groups import matching

_BATCH = 100  # images looked at together


def removed(spec: config.Removal, experiment: config.Experiment, data: Dataset, params: Params) -> Params:
    """Removes channels from the parameters of a run, running statistics included."""
    logits = build.predictor(experiment.model, data.classes)
    example = jax.ShapeDtypeStruct((1, *data.train.images.shape[1:]), jnp.float32)
    channels = jc.channels(logits, params, example)
    batches = _batches(spec, experiment, data)
    scores = _scores(spec, logits, params, channels, batches, build.seed_key(experiment.seed, "channels"))
    # Scales of normalizations are compared as they are, by which the penalty of slimming has sorted them.
    normalize = "none" if spec.score == "norm-scale" else "mean"
    options: dict[str, Any] = {"normalize": normalize, "round_to": spec.round_to}
    if spec.macs is None:
        assert spec.sparsity is not None
        kept = jc.prune.select(scores, channels, spec.sparsity, scope=spec.scope, **options)
    else:
        cost = jc.prune.macs_left(logits, params, channels, example)
        whole = jc.macs(logits, params, example)
        kept = jc.prune.select_within(scores, channels, cost, spec.macs * whole, **options)
    if spec.reconstruct:
        if any(map(is_compressed, jax.tree.leaves(params, is_leaf=is_compressed))):
            raise ValueError("reconstruct refits plain arrays; earlier stages have compressed some")
        images = [images for images, _ in batches]
        params = jc.prune.reconstruct(logits, params, channels, kept, images)
    return jc.prune.remove(params, channels, kept)


def _batches(spec: config.Removal, experiment: config.Experiment, data: Dataset) -> list[tuple[jax.Array, jax.Array]]:
    examples = drawn(data.train, spec.examples, experiment.seed)
    images, labels = build.scaled(jnp.asarray(examples.images)), jnp.asarray(examples.labels)
    return [(images[i : i + _BATCH], labels[i : i + _BATCH]) for i in range(0, len(labels), _BATCH)]


def _scores(
    spec: config.Removal, logits: Any, params: Params, channels: Channels, batches: Any, key: jax.Array
) -> jc.prune.importance.Scores:
    importance = jc.prune.importance
    options = {} if spec.members is None else {"members": spec.members}

    def loss(params: Params, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        images, labels = batch
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, images), labels).mean()

    match spec.score:
        case "l1":
            return importance.l1(params, channels, **options)
        case "l2":
            return importance.l2(params, channels, **options)
        case "norm-scale":
            return importance.norm_scale(params, channels, **options)
        case "fpgm":
            return importance.fpgm(params, channels, **options)
        case "taylor":
            return importance.taylor(loss, params, channels, batches, **options)
        case "random":
            drawn_scores = importance.random(key, channels)
            chosen = drawn_scores if spec.members is None else matching(channels, spec.members)
            return {name: drawn_scores[name] for name in chosen}
