"""Lessons without a trained teacher: from networks, branches or exits that are trained beside the student."""

from typing import Any

import jax.numpy as jnp
import optax
from jax import Array

from experiments import build, config
from experiments.teaching.lesson import Batch, Lesson, added
from experiments.variables import joined, split
from jaxcompress import distill
from jaxcompress.paths import Params, named_key


def of_mutual(spec: config.Mutual) -> Lesson:
    """Returns the lesson of networks that learn beside the student: `learned` are their weights."""

    def begin(key: Array, batch: Batch, labels: Array) -> tuple[Params, Any]:
        classes, image = batch.student.logits.shape[-1], build.scaled(batch.images[:1])
        modules = [build.model(peer, classes) for peer in spec.peers]
        drawn = [split(joined(module.init(named_key(key, str(i)), image))) for i, module in enumerate(modules)]
        return [weights for weights, _ in drawn], [statistics for _, statistics in drawn]

    def loss(learned: Params, kept: Any, batch: Batch) -> tuple[Array, Any]:
        trainers = [build.trainer(peer, batch.student.logits.shape[-1]) for peer in spec.peers]
        given = zip(trainers, learned, kept, strict=True)
        made = [
            outputs(weights | statistics, batch.images, named_key(batch.key, str(i)))
            for i, (outputs, weights, statistics) in enumerate(given)
        ]
        logits = [peer.logits for peer in made]
        apart = jnp.sum(distill.online.mutual([batch.student.logits, *logits]), axis=0)
        return spec.weight * apart + _of_labels(logits, batch), [peer.statistics for peer in made]

    return Lesson(1.0, begin, loss)


def of_branches(spec: config.Branches) -> Lesson:
    """Returns the lesson of more classifiers on one activation, which a gate weighs into a teacher."""

    def begin(key: Array, batch: Batch, labels: Array) -> tuple[Params, Any]:
        channels, classes = batch.student.taps[spec.at].shape[-1], batch.student.logits.shape[-1]
        branches = [_exit(named_key(key, str(i)), channels, channels, classes) for i in range(spec.branches)]
        gate = distill.regressor(named_key(key, "gate"), channels, spec.branches + 1)
        return {"branches": branches, "gate": gate}, {}

    def loss(learned: Params, kept: Any, batch: Batch) -> tuple[Array, Any]:
        features = batch.student.taps[spec.at]
        logits = [_left(branch, features)[1] for branch in learned["branches"]]
        gate = distill.regress(learned["gate"], _pooled(features))
        everyone = [batch.student.logits, *logits]
        apart = jnp.sum(distill.online.ensemble(gate, everyone, spec.temperature), axis=0)
        return spec.weight * apart + _of_labels([*logits, distill.online.gated(gate, everyone)], batch), kept

    return Lesson(1.0, begin, loss)


def of_exits(spec: config.Exits) -> Lesson:
    """Returns the lesson of classifiers on early activations, which the student's own end teaches."""

    def begin(key: Array, batch: Batch, labels: Array) -> tuple[Params, Any]:
        taps, classes = batch.student.taps, batch.student.logits.shape[-1]
        width = taps[spec.last].shape[-1]
        return [_exit(named_key(key, name), taps[name].shape[-1], width, classes) for name in spec.at], {}

    def loss(learned: Params, kept: Any, batch: Batch) -> tuple[Array, Any]:
        taps, last = batch.student.taps, _pooled(batch.student.taps[spec.last])
        left = [_left(params, taps[name]) for params, name in zip(learned, spec.at, strict=True)]
        logits = [found for _, found in left]
        soft = jnp.sum(distill.online.own_teacher([*logits, batch.student.logits], spec.temperature), axis=0)
        hints = added([distill.hint(features, last) for features, _ in left])
        return (1 - spec.soft) * _of_labels(logits, batch) + spec.soft * soft + spec.hint * hints, kept

    return Lesson(spec.weight, begin, loss)


def _of_labels(logits: list[Array], batch: Batch) -> Array:
    return added([optax.softmax_cross_entropy_with_integer_labels(each, batch.labels) for each in logits])


def _exit(key: Array, channels: int, width: int, classes: int) -> Params:
    """Draws two layers from the channels of an activation to a width, every place alike, and a classifier."""
    layers = distill.regressor(named_key(key, "layers"), channels, width, width)
    return {"layers": layers, "classifier": distill.regressor(named_key(key, "classifier"), width, classes)}


def _left(params: Params, features: Array) -> tuple[Array, Array]:
    """Returns the features, averaged over the places, and the logits of an exit."""
    pooled = _pooled(distill.regress(params["layers"], features))
    return pooled, distill.regress(params["classifier"], pooled)


def _pooled(features: Array) -> Array:
    """Returns the mean over all places (batch, channels)."""
    return jnp.mean(features, axis=tuple(range(1, features.ndim - 1)))
