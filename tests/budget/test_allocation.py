"""Checks choices within a budget: by hand, by trying every choice, and against a plain table over all costs."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.budget import allocate, allocate_within


def total(table, chosen):
    return sum(levels[j] for levels, j in zip(table, chosen, strict=True))


def test_a_choice_by_hand():
    costs, damages = [[1, 4, 6], [2, 3], [5]], [[9.0, 3.0, 0.0], [4.0, 1.0], [7.0]]
    assert allocate(costs, damages, 8) == [0, 0, 0]
    assert allocate(costs, damages, 9) == [0, 1, 0]
    assert allocate(costs, damages, 11) == [1, 0, 0]  # 3 + 4 beats 9 + 1
    assert allocate(costs, damages, 12) == [1, 1, 0]
    assert allocate(costs, damages, 14) == allocate(costs, damages, 10**30) == [2, 1, 0]


def test_a_dearer_level_that_does_more_damage_is_never_taken():
    assert allocate([[3, 5, 9]], [[1.0, 1.0, 2.0]], 100) == [0]


def test_no_items_cost_nothing():
    assert allocate([], [], 0) == []


tables = st.lists(
    st.lists(st.tuples(st.integers(0, 12), st.integers(-20, 20)), min_size=1, max_size=4), min_size=1, max_size=5
)


@settings(deadline=None, max_examples=300)
@given(tables, st.integers(0, 40))
def test_the_choice_is_the_best_of_all(table, above):
    costs, damages = ([[level[k] for level in item] for item in table] for k in (0, 1))
    budget = sum(map(min, costs)) + above
    every = itertools.product(*(range(len(item)) for item in table))
    # The least damage, and of those that do as little the least cost.
    best = min((total(damages, c), total(costs, c)) for c in every if total(costs, c) <= budget)
    chosen = allocate(costs, damages, budget)
    assert (total(damages, chosen), total(costs, chosen)) == best


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_many_items_are_as_good_as_a_table_over_all_costs(seed, part):
    rng = np.random.default_rng(seed)
    costs, damages = rng.integers(0, 30, (40, 3)), rng.normal(size=(40, 3))
    least, most = costs.min(1).sum(), costs.max(1).sum()
    budget = int(least + part * (most - least))
    table = np.full(budget + 1, 0.0)  # the least damage for at most so much
    for cost, damage in zip(costs, damages, strict=True):
        shifted = [
            np.concatenate([np.full(min(c, budget + 1), np.inf), table[: max(0, budget + 1 - c)]]) + d
            for c, d in zip(cost, damage, strict=True)
        ]
        table = np.min(shifted, axis=0)
    chosen = allocate(costs, damages, budget)
    assert total(costs, chosen) <= budget
    np.testing.assert_allclose(total(damages, chosen), table[budget], rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-5e-324, 1e300), min_size=2, max_size=2))
def test_damages_of_any_size_are_compared_exactly(damages):
    assert allocate([[1, 1]], [damages], 1) == [int(damages[1] < damages[0])]


@pytest.mark.parametrize(
    ("costs", "damages", "budget", "message"),
    [
        ([[3, 5], [4, 9]], [[1, 0], [1, 0]], 6, "a budget of 6 does not suffice; the cheapest levels cost 7"),
        ([[3]], [[1.0]], 3.5, "a budget of 3.5"),
        ([[3]], [[1.0], [2.0]], 9, "costs of 1 items and damages of 2"),
        ([[3], []], [[1.0], []], 9, r"item 1 has costs of shape \(0,\)"),
        ([[3, 4]], [[1.0]], 9, r"shape \(2,\) and damages of shape \(1,\)"),
        ([[3, -1]], [[1.0, 2.0]], 9, r"costs \[3, -1\] of item 0 are not integers of at least 0"),
        ([[3.0, 1.0]], [[1.0, 2.0]], 9, r"costs \[3.0, 1.0\]"),
        ([[3, 1]], [[1.0, np.nan]], 9, r"damages \[1.0, nan\] of item 0 are not finite"),
        ([[3, 1]], [[1.0, np.inf]], 9, "not finite"),
    ],
)
def test_tables_and_budgets_that_make_no_sense_are_refused(costs, damages, budget, message):
    with pytest.raises(ValueError, match=message):
        allocate(costs, damages, budget)


@settings(deadline=None, max_examples=100)
@given(tables, st.integers(0, 40), st.integers(0, 40), st.randoms())
def test_of_two_costs_the_choice_is_the_best_of_all(table, first, second, random):
    costs, damages = ([[level[k] for level in item] for item in table] for k in (0, 1))
    others = [[random.randrange(10) for _ in item] for item in table]
    budgets = [sum(map(min, costs)) + first, second]
    every = itertools.product(*(range(len(item)) for item in table))
    within = [c for c in every if total(costs, c) <= budgets[0] and total(others, c) <= budgets[1]]
    if not within:
        with pytest.raises(ValueError, match="no choice is within budgets"):
            allocate_within([costs, others], damages, budgets)
        return
    chosen = allocate_within([costs, others], damages, budgets)
    assert tuple(chosen) in within
    assert total(damages, chosen) == min(total(damages, c) for c in within)


def test_of_one_cost_both_searches_agree():
    costs, damages = [[1, 4, 6], [2, 3], [5]], [[9.0, 3.0, 0.0], [4.0, 1.0], [7.0]]
    for budget in range(8, 16):
        assert allocate_within([costs], damages, [budget]) == allocate(costs, damages, budget)


@pytest.mark.parametrize(
    ("costs", "budgets", "message"),
    [
        ([], [], "0 tables of costs and 0 budgets"),
        ([[[1, 2]]], [1, 2], "1 tables of costs and 2 budgets"),
        ([[[1, 2]]], [1.5], "a budget of 1.5 is not an integer"),
        ([[[1, -2]]], [3], "not integers of at least 0"),
    ],
)
def test_several_costs_that_make_no_sense_are_refused(costs, budgets, message):
    with pytest.raises(ValueError, match=message):
        allocate_within(costs, [[1.0, 2.0]], budgets)


def test_no_items_are_chosen_from_several_costs():
    assert allocate_within([[], []], [], [0, 0]) == []
