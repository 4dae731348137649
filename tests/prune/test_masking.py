"""Checks pruning by score: allocations, structures, given scores, schedules, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import chain, densify, quantize, schedules
from jaxcompress.arrays import Masked
from jaxcompress.prune import Blocks, PerOutput, Runs, by_score, n_m
from jaxcompress.prune.allocation import lamp
from tests.traces import Compiled

SHAPES = {"a": (8, 12), "b": (4, 4, 4), "c": (16,)}


def params(seed=0):
    """Whole numbers, so that many magnitudes are tied."""
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.integers(-4, 5, shape), jnp.float32) for name, shape in SHAPES.items()}


def kept(tree):
    return {name: int(leaf.mask.sum()) for name, leaf in tree.items() if isinstance(leaf, Masked)}


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 99), st.floats(0, 1, width=32), st.sampled_from(["uniform", "global", "lamp"]))
def test_counts_are_exact_ties_included(seed, sparsity, allocation):
    found = kept(by_score("a|b|c", sparsity, allocation=allocation).init(params(seed)))
    left = lambda size: size - round(sparsity * size)
    if allocation == "uniform":
        assert found == {"a": left(96), "b": left(64), "c": left(16)}
    else:
        assert sum(found.values()) == left(176)


def test_erk_counts_are_those_of_its_densities():
    found = kept(by_score("a|b", 0.8, allocation="erk").init(params()))
    # Of 160 weights 32 stay, 20 to 12 in proportion.
    assert found == {"a": 20, "b": 12}


def test_lamp_ranks_the_rescaled_scores():
    tree = {"a": jnp.array([1.0, 2.0, 4.0, 2.0]), "b": jnp.array([100.0, 50.0, 10.0, 10.0])}
    masks = by_score("a|b", 0.5, allocation="lamp").init(tree)
    scores = np.concatenate([lamp(tree["a"]), lamp(tree["b"])])  # 1/25, 4/20, 1, 4/24, 1, 0.2, ...
    whole = np.zeros(8, bool)
    whole[np.argsort(-scores, kind="stable")[:4]] = True
    np.testing.assert_array_equal(np.concatenate([masks["a"].mask, masks["b"].mask]), whole)
    assert kept(masks) == {"a": 2, "b": 2}


def test_given_scores_are_ranked_globally_and_exactly():
    rng = np.random.default_rng(0)
    scores = {name: jnp.asarray(rng.integers(-3, 3, shape), jnp.float32) for name, shape in SHAPES.items()}
    masks = by_score("a|b|c", 0.7, scores, allocation="global").init(params())
    flat = np.concatenate([np.ravel(scores[name]) for name in "abc"])
    expected = np.zeros(176, bool)
    expected[np.argsort(-flat, kind="stable")[: 176 - 123]] = True
    np.testing.assert_array_equal(np.concatenate([np.ravel(masks[name].mask) for name in "abc"]), expected)


def test_given_scores_serve_a_schedule_and_are_found_inside_other_leaves():
    tree, scores = {"a": jnp.ones(8)}, {"a": jnp.arange(8.0)}
    ramp = schedules.linear(0.0, 0.5, end=4)
    transform = chain(by_score("a", ramp, scores), quantize.weights("a", 4, granularity="tensor"))
    tree, update = transform.init(tree), Compiled(transform.update)
    for step in range(6):
        tree = update(tree, jnp.int32(step))
        assert densify(tree)["a"].tolist() == [0.0] * min(step, 4) + [1.0] * (8 - min(step, 4))
    assert update.calls == 1


def test_a_score_function_sees_the_weights_as_they_were_when_last_in_use():
    tree = {"a": jnp.array([4.0, -3.0, 2.0, -1.0])}
    transform = by_score("a", schedules.cyclic(0.0, 0.5, period=2), lambda weights: {"a": -weights["a"]})
    tree = transform.update(transform.init(tree), 1)
    assert densify(tree)["a"].tolist() == [0, -3, 0, -1]
    assert densify(transform.update(tree, 2))["a"].tolist() == [4, -3, 2, -1]


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 99), st.floats(0, 1, width=32), st.sampled_from(["uniform", "global", "erk", "lamp"]))
def test_whole_tiles_live_or_go_and_are_counted(seed, sparsity, allocation):
    masks = by_score("a|b", sparsity, allocation=allocation, structure=Blocks(4, 2)).init(params(seed))
    counts = []
    for name in "ab":
        *stack, rows, columns = SHAPES[name]
        tiles = np.asarray(masks[name].mask).reshape(-1, rows // 4, 4, columns // 2, 2).transpose(0, 1, 3, 2, 4)
        alive = tiles.reshape(-1, 8).sum(1)
        assert set(alive) <= {0, 8}
        counts.append(int((alive == 8).sum()))
    left = lambda size: size - round(sparsity * size)
    if allocation == "uniform":
        assert counts == [left(12), left(8)]
    elif allocation != "erk":
        assert sum(counts) == left(20)


@pytest.mark.parametrize(("n", "m", "axis"), [(2, 4, -2), (1, 4, -1), (4, 8, 0), (3, 4, 1)])
def test_every_run_keeps_its_n_largest(n, m, axis):
    weight = params()["a"] if m == 4 else jnp.ones((8, 3))
    mask = np.asarray(n_m("a", n, m, axis=axis).init({"a": weight})["a"].mask)
    runs = np.moveaxis(mask, axis, -1).reshape(-1, m)
    values = np.moveaxis(np.abs(weight), axis, -1).reshape(-1, m)
    expected = np.zeros_like(runs)
    np.put_along_axis(expected, np.argsort(-values, axis=1, kind="stable")[:, :n], True, axis=1)
    np.testing.assert_array_equal(runs, expected)


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 99), st.floats(0, 1, width=32))
def test_every_output_keeps_the_same_number(seed, sparsity):
    masks = by_score("a|b", sparsity, structure=PerOutput()).init(params(seed))
    a, b = (np.asarray(masks[name].mask) for name in "ab")
    left = lambda size: size - round(sparsity * size)
    assert set(a.sum(0)) == {left(8)} and set(b.sum((0, 1))) == {left(16)}
    for kept, column in zip(a.T, np.abs(np.asarray(masks["a"].weight)).T, strict=True):
        assert set(np.flatnonzero(kept)) == set(np.argsort(-column, kind="stable")[: left(8)])


def test_n_m_waits_for_its_step_and_a_schedule_steps_down_by_one():
    tree = {"a": jnp.arange(1.0, 9.0).reshape(8, 1)}
    transform = n_m("a", 2, 4, at=3)
    before = transform.init(tree)
    assert kept(transform.update(before, 2)) == {"a": 8} and kept(transform.update(before, 3)) == {"a": 4}
    gradual = by_score("a", schedules.linear(0.0, 0.75, end=3), structure=Runs(4))
    tree, counts = gradual.init(tree), []
    for step in range(5):
        tree = gradual.update(tree, step)
        counts.append(kept(tree)["a"])
    assert counts == [8, 6, 4, 2, 2]


def test_a_mask_stands_while_its_count_does():
    transform = by_score("a", 0.5, structure=Blocks(1, 2), allocation="global")
    tree = transform.init({"a": jnp.array([[1.0, 1.0, 2.0, 2.0]])})
    moved = {"a": Masked(-9 * tree["a"].weight[:, ::-1], tree["a"].mask, tree["a"].owner)}
    np.testing.assert_array_equal(transform.update(moved, 4)["a"].mask, [[False, False, True, True]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: by_score("a", 1.5), r"sparsity 1.5 for pattern 'a' .*\[0, 1\]"),
        (lambda: by_score("a", schedules.cubic(0.0, -0.5, end=4)), "sparsity -0.5"),
        (lambda: by_score("a", 0.5, allocation="even"), "allocation 'even' .* uniform, global, erk, lamp"),
        (lambda: by_score("a", 0.5, structure=Runs(4), allocation="global"), "allocation 'global' .* not for Runs"),
        (lambda: by_score("a", 0.5, structure=PerOutput(), allocation="erk"), "not for PerOutput"),
        (lambda: by_score("a", 0.5, structure=PerOutput()).init({"a": jnp.float32(1)}), "a is a scalar"),
        (lambda: by_score("a", 0.5, {"a": jnp.array([jnp.nan])}), "score of a holds NaN"),
        (lambda: by_score("a", 0.5, {"b": jnp.ones(3)}).init({"a": jnp.ones(3)}), "no score for a; .* b"),
        (lambda: by_score("a", 0.5, {"a": jnp.ones(2)}).init({"a": jnp.ones(3)}), r"score of a has shape \(2,\)"),
        (lambda: by_score("a", 0.5).init({"a": jnp.arange(3)}), "a of dtype int32 cannot be pruned"),
        (lambda: by_score("a", 0.5).init({"b": jnp.ones(3)}), "'a' matches no parameter"),
        (lambda: n_m("a", 4, 4), r"4:4 for pattern 'a' .* \[1, m\)"),
        (lambda: n_m("a", 0, 4), "0:4"),
        (
            lambda: n_m("a/kernel", 2, 4).init({"a": {"kernel": jnp.ones((6, 4))}}),
            "runs of 4 do not divide .* a/kernel",
        ),
        (lambda: by_score("a", 0.5, structure=Blocks(2, 2)).init({"a": jnp.ones((3, 4))}), "do not fill .* a of"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_an_earlier_mask_removed_goes_first():
    earlier = by_score("a", 0.5, {"a": jnp.arange(8.0)}).init({"a": jnp.ones(8)})
    later = by_score("a", 0.75, {"a": -jnp.arange(8.0)}, name="later").init(earlier)
    assert densify(later)["a"].tolist() == [0, 0, 0, 0, 1, 1, 0, 0]


def test_lamp_refuses_negative_scores():
    with pytest.raises(ValueError, match="the score of a is negative in places; allocation 'lamp'"):
        by_score("a", 0.5, {"a": -jnp.arange(8.0)}, allocation="lamp")
