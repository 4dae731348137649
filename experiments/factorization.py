"""Factorizing the model of an experiment within a budget of multiply-adds."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

import jaxcompress as jc
from experiments import build, config
from experiments.data import Dataset, drawn
from jaxcompress.budget import Leaves, leaf_errors, leaf_losses, levels_within
from jaxcompress.factorize import multiply_adds
from jaxcompress.paths import Params, replaced, select

_PERCENT = range(10, 100, 10)  # of the largest rank that could pay, or for tucker2 of the channels


def within(
    spec: config.Budget, experiment: config.Experiment, data: Dataset, weights: Params, statistics: Params
) -> Params:
    """Factorizes the weights of a run, each at the rank, or not at all, that a budget allows with the least damage."""
    logits = build.predictor(experiment.model, data.classes)
    example = jax.ShapeDtypeStruct((1, *data.train.images.shape[1:]), jnp.float32)
    cost = multiply_adds(lambda params, x: logits(params | statistics, x), example)
    key = build.seed_key(experiment.seed, f"budget {spec.pattern}")
    leaves = _leaves(spec, weights, key)
    if spec.damage == "error":
        damages = leaf_errors(weights, leaves)
    else:
        damages = leaf_losses(weights, leaves, _loss(spec, experiment, data, logits, statistics))
    allowed = int(spec.macs * cost(weights))
    chosen = levels_within(weights, leaves, damages, cost, allowed, search=spec.search)
    return replaced(weights, {path: leaves[path][level] for path, level in chosen.items() if level is not None})


def _leaves(spec: config.Budget, weights: Params, key: Array) -> Leaves:
    """Factorizes every kernel at every level, but for ranks of CP at which no fit is sound."""
    found: dict[str, dict[int, Any]] = {}
    for path, kernel in select(weights, spec.pattern).items():
        found[path] = {}
        for percent in _PERCENT:
            transform = _transform(spec.form, path, kernel, percent / 100, key, f"budget[{spec.pattern}]")
            try:
                found[path][percent] = transform.init({path: kernel})[path]
            except jc.factorize.Unsound:
                continue
    return found


def _transform(form: str, path: str, kernel: Array, share: float, key: Array, name: str) -> jc.Transform:
    options: dict[str, Any] = {"name": name, "always": True}
    match form:
        case "svd" | "spatial":
            split = "channel" if form == "svd" else "spatial"
            return jc.factorize.svd(path, jc.factorize.ratio(share), split=split, **options)
        case "tucker2":
            inputs, outputs = (math.ceil(share * size) for size in kernel.shape[-2:])
            window = math.prod(kernel.shape[:-2])
            full = min(inputs, window * outputs), min(outputs, window * inputs)
            return jc.factorize.tucker2(path, full, **options)
        case _:
            rank = max(1, int(share * kernel.size / sum(kernel.shape)))
            return jc.factorize.cp(path, rank, key=key, **options)


def _loss(
    spec: config.Budget, experiment: config.Experiment, data: Dataset, logits: Any, statistics: Params
) -> Callable[[Params], Array]:
    examples = drawn(data.train, spec.examples, experiment.seed)
    images, labels = build.scaled(jnp.asarray(examples.images)), jnp.asarray(examples.labels)

    def loss(params: Params) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits(params | statistics, images), labels).mean()

    return jax.jit(loss)
