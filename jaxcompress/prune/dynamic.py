"""Dynamic sparse training: the count of weights stands, their places move."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxcompress.arrays import Masked, dense
from jaxcompress.numerics.masks import keep_largest
from jaxcompress.paths import Params, rewrite
from jaxcompress.prune.allocation import Allocation
from jaxcompress.prune.masking import check_allocation, checked_sparsity, top
from jaxcompress.prune.patterns import Single
from jaxcompress.prune.wrapping import plainly_masked, with_zeros, zeroed
from jaxcompress.schedules import Schedule
from jaxcompress.transform import Transform, owned, rewrite_owned

Grow = Callable[[Params, Array | int, Any], list[Array]]


def rigl(
    pattern: str,
    sparsity: float,
    loss: Callable[[Params, Any], Array],
    *,
    key: Array,
    end: int,
    every: int = 100,
    fraction: float = 0.3,
    allocation: Allocation = "erk",
    name: str | None = None,
) -> Transform:
    """Drops the smallest weights and grows those of the largest gradient (RigL; Evci et al. 2020, arXiv:1911.11134).

    Masks start at random, drawn by `key`, at a standing `sparsity` shared out by `allocation`. At the multiples of
    `every` before step `end`, step 0 left out, the `fraction` of the weights in use goes that is smallest, and as many
    of those then out of use return whose gradient is largest in magnitude: a share of ``fraction / 2 * (1 + cos(pi *
    step / end))``, rounded to nearest. Grown weights start at zero; one that is dropped and grown at once keeps its
    value, as in the authors' release. Counts by layer never change, and of equals the earlier entry wins.

    ``loss(params, batch)`` is differentiated by the dense weights, at those steps alone, so that `update` needs its
    `batch`. A departure: the optimiser takes its step then too, where the authors' code leaves it out.
    `mask_moments` keeps the optimiser's state of grown weights at zero.

    Raises ValueError for a sparsity or fraction outside [0, 1], an `every` or `end` below 1, an unknown allocation,
    and, from `init`, for a pattern without a match and leaves that are not floating-point arrays; from `update`, for
    no batch.
    """
    owner = name or f"rigl[{pattern}, {sparsity:g}]"
    _check_decay(pattern, fraction, end)
    share = optax.cosine_decay_schedule(fraction, end)

    def grow(params: Params, step: Array | int, batch: Any) -> list[Array]:
        if batch is None:
            raise ValueError(f"the update of {owner} grows by a gradient; it needs a batch")
        return [jnp.abs(g) for g in _dense_gradients(params, owner, lambda tree: loss(tree, batch))]

    return _dynamic(pattern, sparsity, key, allocation, every, end, share, grow, owner)


def sparse_evolution(
    pattern: str,
    sparsity: float,
    *,
    key: Array,
    end: int | None = None,
    every: int = 100,
    fraction: float = 0.3,
    allocation: Allocation = "erk",
    name: str | None = None,
) -> Transform:
    """Drops the smallest weights and grows others at random (SET; Mocanu et al. 2018, arXiv:1707.04780).

    As `rigl`, but that the share of the weights in use that is dropped stays `fraction`, that the places which grow are
    drawn by `key` and the step, and that it goes on to the last step if there is no `end`. Weights nearest to zero go,
    where the paper takes the smallest positive and the largest negative ones; masks start by `allocation`. Raises
    ValueError as `rigl` does.
    """
    owner = name or f"sparse_evolution[{pattern}, {sparsity:g}]"
    _check_decay(pattern, fraction, 1 if end is None else end)

    def grow(params: Params, step: Array | int, batch: Any) -> list[Array]:
        return _drawn([leaf.shape for leaf in owned(params, owner)], jax.random.fold_in(later, step))

    first, later = jax.random.split(key)
    share = optax.constant_schedule(fraction)
    return _dynamic(pattern, sparsity, first, allocation, every, end, share, grow, owner)


def exchange(leaf: Masked, growth: Array, fraction: Array | float) -> Masked:
    """Drops the smallest `fraction` of the weights in use and takes up as many, of the largest non-negative `growth`.

    Exactly as many weights are in use after as before. What was out of use starts at zero.
    """
    weight, count = dense(leaf.weight), jnp.sum(leaf.mask, dtype=jnp.int32)
    dropped = jnp.round(jnp.asarray(fraction, jnp.float32) * count.astype(jnp.float32)).astype(jnp.int32)
    (stay,) = keep_largest([jnp.where(leaf.mask, jnp.abs(weight), -1)], count - dropped)
    (grown,) = keep_largest([jnp.where(stay, -1, growth)], dropped)
    fresh = grown & ~leaf.mask
    return replace(leaf, weight=with_zeros(leaf.weight, ~fresh, leaf.owner), mask=stay | grown)


def _dynamic(
    pattern: str,
    sparsity: float,
    key: Array,
    allocation: Allocation,
    every: int,
    end: int | None,
    share: Schedule,
    grow: Grow,
    owner: str,
) -> Transform:
    level = checked_sparsity(pattern, sparsity)(0)
    check_allocation(pattern, allocation, Single())
    if every < 1:
        raise ValueError(f"every={every} is not a number of steps; it must be at least 1")

    def init(params: Params) -> Params:
        wrapped = rewrite(params, pattern, lambda path, leaf: plainly_masked(path, leaf, owner))
        leaves = owned(wrapped, owner)
        if len(owned(params, owner)) == len(leaves):
            return params
        scores = _drawn([leaf.shape for leaf in leaves], key)
        masks = iter(top(scores, level, allocation, Single()))
        return rewrite_owned(wrapped, owner, lambda leaf: zeroed(replace(leaf, mask=next(masks))))

    def move(params: Params, step: Array, batch: Any) -> Params:
        growth = iter(grow(params, step, batch))
        dropped = share(step.astype(jnp.float32))  # optax mixes no integer steps with its floats
        return rewrite_owned(params, owner, lambda leaf: exchange(leaf, next(growth), dropped))

    def update(params: Params, step: Array | int, *, batch: Any = None, **_: Any) -> Params:
        step = jnp.asarray(step)
        due = (step > 0) & (step % every == 0) & (step < (2**31 - 1 if end is None else end))
        return lax.cond(due, lambda tree: move(tree, step, batch), lambda tree: tree, params)

    return Transform((owner,), init, update)


def _dense_gradients(params: Params, owner: str, loss: Callable[[Params], Array]) -> list[Array]:
    """Returns the gradient by the dense value of every leaf of `owner`, weights out of use included."""

    def with_dense(weights: list[Array]) -> Params:
        source = iter(weights)
        return rewrite_owned(params, owner, lambda _: next(source))

    weights = [dense(leaf) for leaf in owned(params, owner)]
    return jax.grad(lambda weights: loss(with_dense(weights)))(weights)


def _drawn(shapes: list[tuple[int, ...]], key: Array) -> list[Array]:
    return [jax.random.uniform(jax.random.fold_in(key, i), shape) for i, shape in enumerate(shapes)]


def _check_decay(pattern: str, fraction: float, end: int) -> None:
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction {fraction!r} for pattern {pattern!r} is not in [0, 1]")
    if not (end >= 1 and math.isfinite(end)):
        raise ValueError(f"end={end!r} for pattern {pattern!r} is not a step; it must be at least 1")
