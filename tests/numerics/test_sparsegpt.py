"""Checks SparseGPT and the optimal brain surgeon against float64: column by column, and least squares under a mask."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.numerics.second_moment import damped, inverse_factor, second_moment
from jaxcompress.numerics.sparsegpt import optimal_brain_surgeon, sparsegpt

DAMPING = 0.01


def layer(inputs, outputs, seed=0):
    rng = np.random.default_rng(seed)
    causes = max(1, inputs // 2)
    x = rng.standard_normal((6 * inputs, causes)) @ rng.standard_normal((causes, inputs))
    x = x + 0.3 * rng.standard_normal(x.shape)
    return rng.standard_normal((inputs, outputs)).astype(np.float32), x


def moment_of(x):
    return jnp.asarray(x.T @ x, jnp.float32)


def hessian(x):
    moment = x.T @ x
    return moment + DAMPING * np.diag(moment).mean() * np.eye(len(moment))


def largest(scores, count):
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores.reshape(-1), kind="stable")[:count]] = True
    return mask.reshape(scores.shape)


def in_order(weight, x, masks_of_block, size):
    """Reads algorithm 1 of Frantar & Alistarh 2023 without its lazy updates: the inverse loses a row at a time."""
    weight, inverse = weight.astype(np.float64), np.linalg.inv(hessian(x))
    remaining, mask = inverse.copy(), np.zeros(weight.shape, bool)
    factor = np.linalg.cholesky(inverse).T  # upper, as the authors' release computes it
    for i in range(len(weight)):
        if i % size == 0:
            block = slice(i, min(i + size, len(weight)))
            mask[block] = masks_of_block((weight[block] / np.diag(factor)[block, None]) ** 2, block)
        np.testing.assert_allclose(remaining[i, i], factor[i, i] ** 2)  # what the inverse is once those before are gone
        error = np.where(mask[i], 0, weight[i])
        weight -= np.outer(remaining[:, i] / remaining[i, i], error)
        remaining -= np.outer(remaining[:, i], remaining[i]) / remaining[i, i]
        weight[i] = np.where(mask[i], weight[i], 0)
    return weight, mask


def best_under(mask, weight, x):
    """Solves for each output the damped least squares over the weights that stay."""
    h, best = hessian(x), np.zeros(weight.shape)
    for o, kept in enumerate(mask.T):
        if kept.any():
            best[kept, o] = np.linalg.solve(h[np.ix_(kept, kept)], h[kept] @ weight[:, o])
    return best


def loss(pruned, weight, x):
    difference = pruned - weight
    return np.einsum("io,ij,jo->o", difference, hessian(x), difference)


@pytest.mark.parametrize(("inputs", "outputs", "block"), [(20, 3, 128), (20, 3, 8), (33, 4, 16), (5, 1, 2)])
def test_sparsegpt_is_the_paper_column_by_column(inputs, outputs, block):
    weight, x = layer(inputs, outputs)
    size = min(block, inputs)
    kept_to = lambda row: row * outputs - round(0.6 * row * outputs)
    expected, mask = in_order(weight, x, lambda scores, b: largest(scores, kept_to(b.stop) - kept_to(b.start)), size)
    found, kept = sparsegpt(jnp.asarray(weight), moment_of(x), 0.6, block=block)
    np.testing.assert_array_equal(kept, mask)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    assert int(kept.sum()) == kept_to(inputs)


@pytest.mark.parametrize(("sparsity", "run"), [(0.5, 4), (0.75, 4), (0.5, 2)])
def test_sparsegpt_in_runs_chooses_when_the_turn_of_a_run_comes(sparsity, run):
    weight, x = layer(16, 3, seed=1)
    choose = lambda scores, _: np.stack([largest(s, run - round(sparsity * run)) for s in scores.T], axis=1)
    expected, mask = in_order(weight, x, choose, run)
    found, kept = sparsegpt(jnp.asarray(weight), moment_of(x), sparsity, run)
    np.testing.assert_array_equal(kept, mask)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_sparsegpt_keeps_the_outputs_better_than_the_mask_alone():
    weight, x = layer(40, 6)
    found, mask = sparsegpt(jnp.asarray(weight), moment_of(x), 0.5)
    assert loss(np.asarray(found), weight, x).sum() < loss(np.where(mask, weight, 0), weight, x).sum()


@settings(deadline=None, max_examples=12)
@given(st.floats(0, 1), st.integers(0, 99))
def test_sparsegpt_counts_are_exact_ties_included(sparsity, seed):
    weight = np.random.default_rng(seed).integers(-1, 2, (10, 3)).astype(np.float32)
    found, mask = sparsegpt(jnp.asarray(weight), jnp.eye(10), sparsity, block=4)
    assert int(mask.sum()) == 30 - round(sparsity * 30)
    np.testing.assert_array_equal(found, np.where(mask, weight, 0))  # uncorrelated inputs make up for nothing


def test_inputs_that_were_always_zero_go_first():
    weight, x = layer(8, 2)
    x[:, 3] = 0
    found, mask = sparsegpt(jnp.asarray(weight), moment_of(x), 2 / 16)
    assert not np.any(mask[3]) and int(mask.sum()) == 14
    np.testing.assert_allclose(found, np.where(mask, weight, 0), atol=1e-5)


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.875, 1.0])
def test_the_surgeon_solves_least_squares_under_its_mask(sparsity):
    weight, x = layer(8, 3)
    found, mask = optimal_brain_surgeon(jnp.asarray(weight), moment_of(x), sparsity)
    np.testing.assert_array_equal(np.sum(mask, axis=0), [8 - round(8 * sparsity)] * 3)
    np.testing.assert_allclose(found, best_under(np.asarray(mask), weight, x), rtol=1e-3, atol=1e-3)


def test_the_surgeon_removes_the_weight_that_costs_least_each_time():
    weight, x = layer(7, 1, seed=4)
    kept = np.ones((7, 1), bool)
    for removed in range(1, 7):
        options = []
        for q in np.flatnonzero(kept):
            mask = kept.copy()
            mask[q] = False
            options.append((loss(best_under(mask, weight, x), weight, x)[0], q))
        kept[min(options)[1]] = False
        _, mask = optimal_brain_surgeon(jnp.asarray(weight), moment_of(x), removed / 7)
        np.testing.assert_array_equal(mask, kept)


def test_one_removal_is_the_best_of_all():
    weight, x = layer(6, 1)
    found, _ = optimal_brain_surgeon(jnp.asarray(weight), moment_of(x), 1 / 6)
    masks = [np.array(m, bool)[:, None] for m in itertools.product([0, 1], repeat=6) if sum(m) == 5]
    best = min(loss(best_under(mask, weight, x), weight, x)[0] for mask in masks)
    np.testing.assert_allclose(loss(np.asarray(found), weight, x)[0], best, rtol=1e-3)


def test_among_equals_the_earlier_stays():
    _, mask = optimal_brain_surgeon(jnp.ones((4, 1)), jnp.eye(4), 0.5)
    np.testing.assert_array_equal(mask[:, 0], [True, True, False, False])


def test_the_factor_is_that_of_the_damped_inverse():
    _, x = layer(9, 1)
    moment = moment_of(x)
    upper = np.asarray(inverse_factor(moment, DAMPING), np.float64)
    np.testing.assert_allclose(upper, np.triu(upper))
    scaled = np.asarray(damped(moment, DAMPING), np.float64)
    np.testing.assert_allclose(upper.T @ upper @ scaled, np.eye(9), atol=1e-3)
    np.testing.assert_allclose(scaled / scaled[0, 0], hessian(x) / hessian(x)[0, 0], rtol=1e-5)


def test_second_moments_by_hand():
    rows = jnp.array([[[1.0, 2.0], [0.0, 3.0]]])
    np.testing.assert_array_equal(second_moment(rows), [[[1, 2], [2, 13]]])


def test_runs_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"runs of 4 do not divide the 6 inputs"):
        sparsegpt(jnp.ones((6, 2)), jnp.eye(6), 0.5, 4)


def test_half_precision_stays():
    weight, x = layer(8, 2)
    for prune in (sparsegpt, optimal_brain_surgeon):
        found, mask = jax.jit(prune, static_argnums=2)(jnp.asarray(weight, jnp.bfloat16), moment_of(x), 0.5)
        assert (found.dtype, mask.dtype) == (jnp.bfloat16, jnp.bool_)
