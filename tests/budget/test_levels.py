"""One form of every kernel within a budget: damages by hand, and the best of all choices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import factorize
from jaxcompress.arrays import densify
from jaxcompress.budget import leaf_errors, leaf_losses, levels_within

DRAW = np.random.default_rng(0).standard_normal
WEIGHTS = {"a": jnp.float32(DRAW((12, 12))), "b": jnp.float32(DRAW((12, 3)) @ DRAW((3, 20))), "c": jnp.ones(4)}


def low_rank(ranks=(1, 2, 3, 4)):
    """Returns the factors of every rank, by path; a rank costs 24 weights of `a` and 32 of `b`."""
    made = {r: factorize.svd("a|b", r).init(WEIGHTS) for r in ranks}
    return {path: {r: made[r][path] for r in ranks} for path in "ab"}


def weights_of(params):
    return sum(part.size for part in jax.tree.leaves(params))


def test_error_curves_fall_to_zero_at_the_rank_of_a_matrix():
    errors = leaf_errors(WEIGHTS, low_rank())
    squared = np.linalg.svd(np.asarray(WEIGHTS["a"], np.float64), compute_uv=False) ** 2
    expected = [float(squared[r:].sum() / squared.sum()) for r in (1, 2, 3, 4)]
    assert list(errors["a"].values()) == pytest.approx(expected, rel=1e-4)
    assert errors["b"][2] > 1e-2 and errors["b"][3] < 1e-9


def test_losses_are_those_with_one_leaf_in_its_place():
    loss = lambda params: jnp.sum((jnp.ones((1, 12)) @ densify(params)["a"]) ** 2)
    losses = leaf_losses(WEIGHTS, low_rank(), loss)
    alone = float(loss({**WEIGHTS, "a": low_rank()["a"][2]})) - float(loss(WEIGHTS))
    assert losses["a"][2] == pytest.approx(alone) and set(losses["b"].values()) == {0.0}


@pytest.mark.parametrize("search", ["exact", "greedy"])
def test_a_layer_of_low_rank_gives_way_first(search):
    leaves = low_rank()
    errors = leaf_errors(WEIGHTS, leaves)
    assert weights_of(WEIGHTS) == 144 + 240 + 4
    found = levels_within(WEIGHTS, leaves, errors, weights_of, 388, search=search)
    assert found["a"] is None
    assert levels_within(WEIGHTS, leaves, errors, weights_of, 144 + 96 + 4, search=search) == {"a": None, "b": 3}


def test_the_exact_choice_is_the_best_of_all_and_the_greedy_one_no_better():
    leaves = low_rank()
    errors = leaf_errors(WEIGHTS, leaves)
    size = {"a": {None: 144, **{r: 24 * r for r in leaves["a"]}}, "b": {None: 240, **{r: 32 * r for r in leaves["b"]}}}
    harm = {path: {None: 0.0, **errors[path]} for path in "ab"}
    for budget in range(60, 400, 20):
        pairs = [(r, s) for r in size["a"] for s in size["b"] if size["a"][r] + size["b"][s] + 4 <= budget]
        best = min(harm["a"][r] + harm["b"][s] for r, s in pairs)
        chosen = levels_within(WEIGHTS, leaves, errors, weights_of, budget)
        greedy = levels_within(WEIGHTS, leaves, errors, weights_of, budget, search="greedy")
        assert sum(harm[path][chosen[path]] for path in "ab") == pytest.approx(best, abs=1e-9)
        assert sum(harm[path][greedy[path]] for path in "ab") >= best - 1e-9
        assert sum(size[path][greedy[path]] for path in "ab") + 4 <= budget


def test_bad_tables_of_levels_are_named():
    leaves = low_rank()
    with pytest.raises(ValueError, match=r"there is no damage for \[4\] of b"):
        levels_within(WEIGHTS, leaves, {**leaf_errors(WEIGHTS, low_rank((1, 2, 3))), "a": leaves["a"]}, weights_of, 388)
    with pytest.raises(ValueError, match="a budget of 59 does not suffice; the cheapest levels cost 60"):
        levels_within(WEIGHTS, leaves, leaf_errors(WEIGHTS, leaves), weights_of, 59)
