"""The update of an exact mask: by bisection, by a sort, by ranks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxcompress as jc
from experiments.benchmarks import steps
from experiments.benchmarks.timing import Effort, Report, Row, race, row
from jaxcompress.arrays import dense, is_compressed
from jaxcompress.numerics.masks import keep_largest, kept_count

BISECTION, DENSE_STEP = "bisection", "one dense training step"


def mask_update(effort: Effort) -> Report:
    """Compares ways to mask a weight anew, and one update of a model's masks with one of its training steps."""
    rows = [row for shape in effort.weights for row in _ways(shape, effort)]
    return Report([*rows, _update_beside_step("LeNet-300-100", effort)], [])


def by_bisection(scores: Array, count: Array) -> Array:
    """Marks the `count` largest as the library does."""
    return keep_largest([scores], count)[0]


def by_sort(scores: Array, count: Array) -> Array:
    """Marks what reaches the `count`-th largest score, which a sort finds; ties with it stay, so it may mark more."""
    return scores >= jnp.sort(scores.reshape(-1), descending=True)[count - 1]


def by_argsort(scores: Array, count: Array) -> Array:
    """Marks the `count` largest by rank, the earlier of equal scores first."""
    order = jnp.argsort(scores.reshape(-1), descending=True, stable=True)
    ranks = jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=order.dtype))
    return (ranks < count).reshape(scores.shape)


def _ways(shape: tuple[int, ...], effort: Effort) -> list[Row]:
    scores = jnp.abs(jax.random.normal(jax.random.key(0), shape))
    count = kept_count(scores.size, steps.SPARSITY)
    ways = {BISECTION: by_bisection, "sort, threshold": by_sort, "argsort, ranks": by_argsort}
    calls = {name: _bound(jax.jit(way), scores, count) for name, way in ways.items()}
    times, ours = race(calls, effort.rounds), np.asarray(calls[BISECTION]())

    def differing(name: str) -> int:
        return int(np.sum(np.asarray(calls[name]()) != ours))

    subject = f"mask of {scores.size:,} weights"
    return [row(subject, times, name, BISECTION, differing(name)) for name in ways if name != BISECTION]


def _update_beside_step(name: str, effort: Effort) -> Row:
    problem, step = steps.make_problem(name, effort), steps.dense_training(name, effort, steps.harness_form())
    recipe = jc.prune.magnitude(steps.KERNELS, steps.SPARSITY)
    update = _bound(jax.jit(recipe.update), recipe.init(problem.params), jnp.int32(1))
    leaves = [leaf for leaf in jax.tree.leaves(update(), is_leaf=is_compressed) if is_compressed(leaf)]
    wanted = [by_argsort(jnp.abs(dense(leaf.weight)), kept_count(leaf.size, steps.SPARSITY)) for leaf in leaves]
    differing = sum(int(jnp.sum(leaf.mask != mask)) for leaf, mask in zip(leaves, wanted, strict=True))
    variant = f"mask update, {sum(leaf.size for leaf in leaves):,} weights"
    times = race({variant: update, DENSE_STEP: step}, effort.rounds, steps.calls(name, effort))
    return row(name, times, variant, DENSE_STEP, differing)


def _bound(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    return lambda: function(*args)
