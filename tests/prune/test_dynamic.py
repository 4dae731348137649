"""Holds SET and RigL to a reading of Evci et al. 2020 in numpy, with exact counts and places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import chain, densify, lift, quantize
from jaxcompress.arrays import Masked
from jaxcompress.prune import rigl, sparse_evolution
from jaxcompress.prune.dynamic import exchange
from tests.traces import Compiled

KEY = jax.random.key(0)
SHAPES = {"a": (6, 8), "b": (8, 4)}


def params():
    rng = np.random.default_rng(1)
    return {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in SHAPES.items()}


def apply(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


def loss(params, batch):
    return jnp.mean(lift(apply)(params, batch["x"]) ** 2 + lift(apply)(params, batch["x"]))


def batch(seed=2):
    return {"x": jnp.asarray(np.random.default_rng(seed).standard_normal((5, 6)), jnp.float32)}


def counts(tree):
    return {name: int(tree[name].mask.sum()) for name in SHAPES}


def first(scores, count):
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores.reshape(-1), kind="stable")[:count]] = True
    return mask.reshape(scores.shape)


def exchanged(weight, mask, growth, fraction):
    """Reads algorithm 1: drop the smallest k of those in use, then grow k of all that did not stay."""
    n = int(mask.sum())
    k = round(fraction * n)
    stay = first(np.where(mask, np.abs(weight), -np.inf), n - k) & mask
    grown = first(np.where(stay, -np.inf, growth), k)
    return np.where(grown & ~mask, 0, weight), stay | grown


def test_exchange_by_hand():
    weight, mask = jnp.array([5.0, 1.0, 2.0, 9.0, 8.0, 3.0]), jnp.array([True, True, True, False, False, True])
    growth = jnp.array([9.0, 2.0, 4.0, 1.0, 3.0, 9.0])
    # Half of the four go, 1 and 2; of the four places then free the third (just dropped) and the fifth grow.
    after = exchange(Masked(weight, mask), growth, 0.5)
    np.testing.assert_array_equal(after.mask, [True, False, True, False, True, True])
    np.testing.assert_array_equal(after.dense(), [5, 0, 2, 0, 0, 3])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 9999), st.floats(0, 1, width=32))
def test_exchange_keeps_the_count_ties_included(seed, fraction):
    rng = np.random.default_rng(seed)
    weight, growth = rng.integers(-2, 3, 20).astype(np.float32), rng.integers(0, 3, 20).astype(np.float32)
    mask = rng.random(20) < rng.random()
    after = exchange(Masked(jnp.asarray(weight), jnp.asarray(mask)), jnp.asarray(growth), fraction)
    expected_weight, expected_mask = exchanged(weight, mask, growth, np.float32(fraction))
    assert int(after.mask.sum()) == mask.sum()
    np.testing.assert_array_equal(after.mask, expected_mask)
    np.testing.assert_array_equal(after.weight, expected_weight)


def test_rigl_starts_at_random_by_the_densities_of_erk():
    tree = rigl("a|b", 0.5, loss, key=KEY, end=10).init(params())
    # Of 80 weights 40 stay; 48 and 32 of them would be kept as 14 to 12.
    assert counts(tree) == {"a": round(40 * 14 / 26), "b": round(40 * 12 / 26)}
    assert not np.any(np.asarray(tree["a"].weight)[~np.asarray(tree["a"].mask)])
    other = rigl("a|b", 0.5, loss, key=jax.random.key(1), end=10).init(params())
    assert np.any(other["a"].mask != tree["a"].mask)
    uniform = rigl("a|b", 0.5, loss, key=KEY, end=10, allocation="uniform").init(params())
    assert counts(uniform) == {"a": 24, "b": 16}


def test_rigl_moves_at_its_steps_as_the_paper_does():
    transform = rigl("a|b", 0.6, loss, key=KEY, end=9, every=3, fraction=0.37)
    tree = transform.init(params())
    update = Compiled(transform.update)
    for step in range(13):
        before = tree
        tree = update(tree, jnp.int32(step), batch=batch(step))
        assert counts(tree) == counts(before)
        if step not in (3, 6):
            for name in SHAPES:
                np.testing.assert_array_equal(tree[name].mask, before[name].mask)
            continue
        gradient = jax.grad(lambda dense: loss(dense, batch(step)))(densify(before))  # noqa: B023
        fraction = 0.37 / 2 * (1 + np.cos(step * np.pi / 9))
        for name in SHAPES:
            old = np.asarray(before[name].weight), np.asarray(before[name].mask)
            weight, mask = exchanged(*old, np.abs(gradient[name]), fraction)
            np.testing.assert_array_equal(tree[name].mask, mask)
            np.testing.assert_array_equal(tree[name].weight, weight)
            assert np.any(mask != old[1])
        tree = {name: Masked(leaf.weight + 0.1, leaf.mask, leaf.owner) for name, leaf in tree.items()}
    assert update.calls == 1


def test_the_dense_gradient_reaches_a_leaf_below_another():
    transform = rigl("a|b", 0.6, loss, key=KEY, end=9, every=1, allocation="uniform")
    both = chain(transform, quantize.weights("a|b", 8))
    alone, nested = transform.init(params()), both.init(params())
    after, nested = transform.update(alone, 1, batch=batch()), both.update(nested, 1, batch=batch())
    assert np.any(after["a"].mask != alone["a"].mask)
    assert (np.asarray(nested["a"].weight.mask) == np.asarray(after["a"].mask)).mean() > 0.9  # but for the rounding
    assert counts(after) == {name: int(nested[name].weight.mask.sum()) for name in SHAPES}


def test_set_grows_by_the_key_and_the_step():
    transform = sparse_evolution("a", 0.5, key=KEY, every=2, fraction=0.25)
    start = transform.init({"a": params()["a"]})
    assert int(start["a"].mask.sum()) == 24
    same = transform.update(start, 1)
    np.testing.assert_array_equal(same["a"].mask, start["a"].mask)
    two, four = transform.update(start, 2), transform.update(start, 4)
    again = jax.jit(transform.update)(start, 2)
    np.testing.assert_array_equal(again["a"].mask, two["a"].mask)
    assert np.any(two["a"].mask != four["a"].mask)
    magnitudes = np.where(start["a"].mask, np.abs(start["a"].weight), np.inf)
    smallest = np.argsort(magnitudes.reshape(-1))[:6]
    kept = np.asarray(start["a"].mask).copy()
    kept.reshape(-1)[smallest] = False
    assert np.all(np.asarray(two["a"].mask)[kept]) and int(two["a"].mask.sum()) == 24
    ended = sparse_evolution("a", 0.5, key=KEY, every=2, end=4).update(start, 4)
    np.testing.assert_array_equal(ended["a"].mask, start["a"].mask)


def test_a_second_init_keeps_the_masks():
    transform = sparse_evolution("a|b", 0.5, key=KEY)
    moved = transform.update(transform.init(params()), 100)
    again = transform.init(moved)
    for name in SHAPES:
        np.testing.assert_array_equal(again[name].mask, moved[name].mask)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rigl("a", 1.2, loss, key=KEY, end=5), "sparsity 1.2 for pattern 'a'"),
        (lambda: rigl("a", 0.5, loss, key=KEY, end=0), "end=0"),
        (lambda: rigl("a", 0.5, loss, key=KEY, end=5, every=0), "every=0"),
        (lambda: rigl("a", 0.5, loss, key=KEY, end=5, fraction=1.5), "fraction 1.5 for pattern 'a'"),
        (lambda: sparse_evolution("a", 0.5, key=KEY, allocation="even"), "allocation 'even'"),
        (lambda: sparse_evolution("c", 0.5, key=KEY).init(params()), "'c' matches no parameter"),
        (lambda: sparse_evolution("a", 0.5, key=KEY).init({"a": jnp.arange(3)}), "a of dtype int32"),
        (
            lambda: sparse_evolution("a", 0.5, key=KEY).init(quantize.weights("a", 4).init(params())),
            "a is already Fake",
        ),
        (lambda: (t := rigl("a", 0.5, loss, key=KEY, end=500)).update(t.init(params()), 100), "needs a batch"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
