"""Pruning a layer so that its outputs stay: SparseGPT, and the optimal brain surgeon that it approximates."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float

from jaxcompress.numerics.masks import keep_largest, keep_largest_of_each
from jaxcompress.numerics.second_moment import damped, inverse_factor


def sparsegpt(
    weight: Float[Array, "inputs outputs"],
    moment: Float[Array, "inputs inputs"],
    sparsity: float,
    run: int | None = None,
    damping: float = 0.01,
    block: int = 128,
) -> tuple[Float[Array, "inputs outputs"], Bool[Array, "inputs outputs"]]:
    """Removes weights input by input, the later inputs making up for each; returns the weight and its mask.

    Frantar & Alistarh 2023 (arXiv:2301.00774, algorithm 1), given ``moment = sum of outer(x, x)`` over the calibration
    inputs at any common factor; `damping` times its mean diagonal is added to the diagonal. Masks are chosen, when the
    turn of a `block` of inputs comes, by the squared weight over the squared diagonal of the inverse's Cholesky factor:
    exactly `sparsity` of all weights goes, each block giving its part of the whole count. With `run` the same share of
    each `run` inputs goes in every output (N:M sparsity), and a run is a block. Inputs that were always zero go first.
    The earlier of equals stays.

    Raises ValueError for a `run` that does not divide the inputs.
    """
    inputs, outputs = weight.shape
    if run is not None and inputs % run:
        raise ValueError(f"runs of {run} do not divide the {inputs} inputs of a weight of shape {weight.shape}")
    size = min(block, inputs) if run is None else run
    left = lambda number: number - round(sparsity * number)
    ends = [left(min(end, inputs) * outputs) for end in range(0, inputs + size, size)]
    counts = np.diff(ends) if run is None else np.full(inputs // run, left(run))
    return _sparsegpt(weight, moment, jnp.asarray(counts, jnp.int32), damping, size, run is not None)


@partial(jax.jit, static_argnames=("size", "in_runs"))
def _sparsegpt(
    weight: Array, moment: Array, counts: Array, damping: Array | float, size: int, in_runs: bool
) -> tuple[Array, Array]:
    inputs, outputs = weight.shape
    upper = inverse_factor(moment.astype(jnp.float32), damping)
    single = jnp.where((jnp.diag(moment) > 0)[:, None], weight.astype(jnp.float32), 0.0)
    blocks = len(counts)
    extra = (0, blocks * size - inputs)  # rows that fill the last block up: they come after all others
    upper = jnp.pad(upper, (extra, extra)) + jnp.diag(jnp.pad(jnp.zeros(inputs), extra, constant_values=1.0))
    single = jnp.pad(single, (extra, (0, 0)))

    def prune_block(errors: Array, turn: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        start, count = turn
        columns = lax.dynamic_slice_in_dim(upper, start, size, axis=1)
        reach = lax.dynamic_slice_in_dim(columns, start, size)
        rows = lax.dynamic_slice_in_dim(single, start, size)
        rows = rows - jnp.matmul(columns.T, errors, precision=lax.Precision.HIGHEST)
        scores = (rows / jnp.diag(reach)[:, None]) ** 2
        scores = jnp.where((start + jnp.arange(size) < inputs)[:, None], scores, -1.0)
        mask = keep_largest_of_each(scores, count, size, 0) if in_runs else keep_largest([scores], count)[0]

        def prune_row(rows: Array, row: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
            i, reach, mask = row
            kept = jnp.where(mask, rows[i], 0.0)
            error = (rows[i] - kept) / reach[i]
            return rows - reach[:, None] * error[None, :], (kept, error)

        _, (kept, latest) = lax.scan(prune_row, rows, (jnp.arange(size), reach, mask))
        return lax.dynamic_update_slice_in_dim(errors, latest, start, 0), (kept, mask)

    turns = (jnp.arange(blocks) * size, counts)
    _, (kept, masks) = lax.scan(prune_block, jnp.zeros_like(single), turns)
    return kept.reshape(-1, outputs)[:inputs].astype(weight.dtype), masks.reshape(-1, outputs)[:inputs]


def optimal_brain_surgeon(
    weight: Float[Array, "inputs outputs"],
    moment: Float[Array, "inputs inputs"],
    sparsity: float,
    damping: float = 0.01,
) -> tuple[Float[Array, "inputs outputs"], Bool[Array, "inputs outputs"]]:
    """Removes weights one at a time, each the one whose loss the others make up for best; returns weight and mask.

    Hassibi & Stork 1993 on the squared error of each output (the layer-wise form of Dong et al. 2017,
    arXiv:1705.07565, and Frantar & Alistarh 2022, arXiv:2208.11580): the weight of the smallest ``w**2 / inverse[q,
    q]`` goes, the rest takes up its effect, and the inverse of the moment loses its row. Every output keeps the same
    number. `moment` and `damping` are as in `sparsegpt`; the earlier of equals stays. A step costs the square of the
    inputs for each output, so that it is for small layers.
    """
    return _optimal_brain_surgeon(weight, moment, round(sparsity * weight.shape[0]), damping)


@partial(jax.jit, static_argnames="removed")
def _optimal_brain_surgeon(weight: Array, moment: Array, removed: int, damping: Array | float) -> tuple[Array, Array]:
    inputs = weight.shape[0]
    inverse = jnp.linalg.inv(damped(moment.astype(jnp.float32), damping))

    def remove(_: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        w, inverse, mask = state
        diagonal = jnp.where(mask, jnp.diag(inverse), 1.0)
        loss = jnp.where(mask, w**2 / diagonal, jnp.inf)
        q = inputs - 1 - jnp.argmin(loss[::-1])  # the last of equals
        mask = mask & (jnp.arange(inputs) != q)
        w = jnp.where(mask, w - inverse[q] * (w[q] / diagonal[q]), 0.0)
        inverse = inverse - jnp.outer(inverse[q], inverse[q]) / diagonal[q]
        return w, jnp.where(mask[:, None] & mask[None, :], inverse, 0.0), mask

    def output(w: Array) -> tuple[Array, Array]:
        w, _, mask = lax.fori_loop(0, removed, remove, (w, inverse, jnp.ones(inputs, bool)))
        return w, mask

    pruned, masks = lax.map(output, weight.astype(jnp.float32).T)
    return pruned.T.astype(weight.dtype), masks.T
