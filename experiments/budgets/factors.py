"""Low-rank kernels within a budget of multiply-adds."""

import math
from typing import Any

from jax import Array

import jaxcompress as jc
from experiments import build, config
from experiments.budgets.subject import Subject
from jaxcompress.budget import Leaves, chosen, levels_within
from jaxcompress.paths import Params, select

_PERCENT = range(10, 100, 10)  # of the largest rank that could pay, or for tucker2 of the channels


def within(spec: config.Budget, subject: Subject, seed: int) -> Params:
    """Factorizes kernels, each at the rank, or not at all, that a budget allows with the least damage."""
    weights, cost = subject.weights, subject.cost()
    leaves = _factors(spec, weights, build.seed_key(seed, f"budget {spec.pattern}"))
    damages, allowed = subject.damages(spec.damage, leaves), int(spec.macs * cost(weights))
    return chosen(weights, leaves, levels_within(weights, leaves, damages, cost, allowed, search=spec.search))


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
