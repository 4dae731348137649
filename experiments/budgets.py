"""Compressing the model of an experiment within a budget: of multiply-adds, of the bytes of its file."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

import jaxcompress as jc
from experiments import build, config
from experiments.data import Dataset, drawn
from jaxcompress.budget import (
    Cost,
    Damages,
    Key,
    Leaves,
    Step,
    forms,
    grid,
    leaf_errors,
    leaf_losses,
    levels_within,
    packed_bytes,
)
from jaxcompress.export import packed
from jaxcompress.factorize import multiply_adds
from jaxcompress.paths import Params, flatten, replaced, select

_ORDERS: Mapping[str, Sequence[Step]] = {
    "sparsity-bits": ("rank", "sparsity", "bits"),
    "bits-sparsity": ("rank", "bits", "sparsity"),
}
_PERCENT = range(10, 100, 10)  # of the largest rank that could pay, or for tucker2 of the channels


def within(
    spec: config.Budget | config.Joint,
    experiment: config.Experiment,
    data: Dataset,
    weights: Params,
    statistics: Params,
) -> Params:
    """Compresses the weights of a run, each to the level, or not at all, that a budget allows with the least damage.

    Raises ValueError for a budget that not even the smallest levels are within.
    """
    logits = build.predictor(experiment.model, data.classes)
    example = jax.ShapeDtypeStruct((1, *data.train.images.shape[1:]), jnp.float32)
    cost = multiply_adds(lambda params, x: logits(params | statistics, x), example)
    loss = _loss(spec, experiment, data, logits, statistics) if spec.damage == "loss" else None
    if isinstance(spec, config.Budget):
        leaves = _factors(spec, weights, build.seed_key(experiment.seed, f"budget {spec.pattern}"))
        damages, allowed = _damages(weights, leaves, loss), int(spec.macs * cost(weights))
        return _made(weights, leaves, levels_within(weights, leaves, damages, cost, allowed, search=spec.search))
    levels = grid(spec.ranks, spec.sparsities, spec.bits)
    forms_of = forms(weights, spec.pattern, levels, order=_ORDERS[spec.order], split=spec.split)
    also = [] if spec.macs is None else [(cost, int(spec.macs * cost(weights)))]
    return _packed_within(spec.bytes, weights, statistics, forms_of, _damages(weights, forms_of, loss), also)


def _damages(weights: Params, leaves: Leaves[Key], loss: Callable[[Params], Array] | None) -> Damages[Key]:
    return leaf_errors(weights, leaves) if loss is None else leaf_losses(weights, leaves, loss)


def _made(weights: Params, leaves: Leaves[Key], chosen: Mapping[str, Key | None]) -> Params:
    return replaced(weights, {path: leaves[path][level] for path, level in chosen.items() if level is not None})


def _packed_within(
    budget: int,
    weights: Params,
    statistics: Params,
    leaves: Leaves[Key],
    damages: Damages[Key],
    also: Sequence[tuple[Cost, int]],
) -> Params:
    """Chooses levels so that the file, its header with it, has the bytes allowed."""
    # Leaves are coded once, not in every choice that they are tried in.
    of_all = [*flatten(weights).values(), *(leaf for of in leaves.values() for leaf in of.values())]
    sizes = {id(leaf): packed_bytes(leaf) for leaf in of_all}

    def cost(params: Params) -> int:
        return sum(sizes[id(leaf)] for leaf in flatten(params).values())

    fixed = packed_bytes(statistics)
    header = len(packed.to_bytes(weights | statistics)) - cost(weights) - fixed
    while True:
        allowed = budget - fixed - header
        made = _made(weights, leaves, levels_within(weights, leaves, damages, cost, allowed, also=also))
        over = len(packed.to_bytes(made | statistics)) - budget
        if over <= 0:
            return made
        header += over  # what is nested has a longer one


def _factors(spec: config.Budget, weights: Params, key: Array) -> Leaves[int]:
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
    spec: config.Budget | config.Joint, experiment: config.Experiment, data: Dataset, logits: Any, statistics: Params
) -> Callable[[Params], Array]:
    examples = drawn(data.train, spec.examples, experiment.seed)
    images, labels = build.scaled(jnp.asarray(examples.images)), jnp.asarray(examples.labels)

    def loss(params: Params) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits(params | statistics, images), labels).mean()

    return jax.jit(loss)
