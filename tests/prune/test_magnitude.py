"""Checks magnitude pruning: counts, schedules, standing masks, thresholds, and the traces they cost."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import densify, quantize
from jaxcompress.arrays import Masked
from jaxcompress.prune import magnitude, threshold
from jaxcompress.schedules import cubic, cyclic, one_shot
from tests.traces import Compiled

CUBIC = cubic(0.0, 0.9, begin=2, end=12)


def weights(*shapes: tuple[int, ...], seed: int = 0) -> dict[str, jax.Array]:
    """Returns `a`, `b`, … of the given shapes; later ones are larger."""
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray((i + 1) * rng.standard_normal(shape), jnp.float32)
        for i, (name, shape) in enumerate(zip("abcd", shapes, strict=False))
    }


def kept(params) -> dict[str, int]:
    return {name: int(leaf.mask.sum()) for name, leaf in params.items()}


def test_layer_wise_by_hand():
    params = {"a": jnp.array([[1.0, -4.0], [3.0, -2.0]]), "b": jnp.array([10.0, -20.0])}
    pruned = densify(magnitude("a|b", 0.5).init(params))
    np.testing.assert_array_equal(pruned["a"], [[0, -4], [3, 0]])
    np.testing.assert_array_equal(pruned["b"], [0, -20])


def test_global_by_hand():
    params = {"a": jnp.array([[1.0, -4.0], [3.0, -2.0]]), "b": jnp.array([10.0, -20.0])}
    pruned = densify(magnitude("a|b", 0.5, scope="global").init(params))
    np.testing.assert_array_equal(pruned["a"], [[0, -4], [0, 0]])
    np.testing.assert_array_equal(pruned["b"], [10, -20])


def test_among_equals_the_earlier_entry_stays():
    params = {"a": jnp.full(3, -1.0), "b": jnp.ones(3)}
    assert kept(magnitude("a|b", 0.5, scope="global").init(params)) == {"a": 3, "b": 0}
    mask = magnitude("a", 2 / 3).init(params)["a"].mask
    np.testing.assert_array_equal(mask, [True, False, False])


@settings(deadline=None, max_examples=6)
@given(st.integers(0, 999), st.floats(0, 1, width=32))
def test_counts_are_exact(seed, sparsity):
    params = weights((3, 4), (8,), seed=seed)
    nearest = lambda size: size - round(sparsity * size)
    assert kept(magnitude("a|b", sparsity).init(params)) == {"a": nearest(12), "b": nearest(8)}
    assert sum(kept(magnitude("a|b", sparsity, scope="global").init(params)).values()) == nearest(20)


def test_leaves_without_a_match_are_left_alone():
    params = weights((4,), (4,))
    pruned = magnitude("a", 0.5).init(params)
    assert pruned["b"] is params["b"]
    assert magnitude("a", 0.5).update(pruned, 3)["b"] is params["b"]


def test_a_second_init_keeps_the_mask_of_the_first():
    transform = magnitude("a", 0.5)
    params = transform.init(weights((9,)))
    again = transform.init({"a": Masked(-params["a"].weight[::-1], params["a"].mask, params["a"].owner)})
    np.testing.assert_array_equal(again["a"].mask, params["a"].mask)


def test_gradual_pruning_follows_zhu_and_gupta_in_one_trace():
    transform = magnitude("a|b", CUBIC)
    params = transform.init(weights((10, 10), (40,)))
    update = Compiled(transform.update)
    for step in range(16):
        params = update(params, jnp.int32(step))
        # Zhu & Gupta 2017, eq. 1, from 0 to 0.9 over the steps 2 to 12.
        sparsity = 0.9 * (1 - (1 - np.clip((step - 2) / 10, 0, 1)) ** 3)
        assert abs(100 - 100 * sparsity - kept(params)["a"]) <= 0.51
        assert abs(40 - 40 * sparsity - kept(params)["b"]) <= 0.51
    assert kept(params) == {"a": 10, "b": 4}
    assert update.calls == 1


def test_a_training_step_with_gradual_pruning_is_traced_once():
    transform = magnitude("a", CUBIC)

    @Compiled
    def train_step(params, step):
        slope = jax.grad(lambda p: jnp.sum(jnp.sin(densify(p)["a"])), allow_int=True)(params)
        moved = Masked(params["a"].weight - 0.1 * slope["a"].weight, params["a"].mask, params["a"].owner)
        return transform.update({"a": moved}, step)

    params = transform.init(weights((5, 5)))
    for step in range(4):
        params = train_step(params, jnp.int32(step))
    assert train_step.calls == 1


def test_gradual_pruning_in_scan_is_the_loop():
    transform = magnitude("a", CUBIC)
    params = transform.init(weights((50,)))
    scanned, counts = jax.lax.scan(
        lambda p, step: (transform.update(p, step), p["a"].mask.sum()), params, jnp.arange(14)
    )
    update = jax.jit(transform.update)
    for step in range(14):
        params = update(params, jnp.int32(step))
    np.testing.assert_array_equal(scanned["a"].mask, params["a"].mask)
    assert counts[0] == 50 and np.all(np.diff(counts) <= 0) and int(scanned["a"].mask.sum()) == 5


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_vmap_over_steps_is_one_update_a_step(scope):
    transform = magnitude("a|b", CUBIC, scope=scope)
    params = transform.init(weights((10,), (10,)))
    steps = jnp.array([0, 5, 7, 20])
    batch = jax.jit(jax.vmap(transform.update, (None, 0)))(params, steps)
    update = jax.jit(transform.update)
    for i, step in enumerate(steps):
        single = update(params, step)
        for name in "ab":
            np.testing.assert_array_equal(batch[name].mask[i], single[name].mask)


def test_a_sweep_over_traced_sparsities_is_one_vmap():
    # DESIGN.md: "Sparsity, bits, temperature, learning rate and seed are traced values, so a whole grid is one vmap".
    params = weights((8,))
    masks = jax.vmap(lambda sparsity: magnitude("a", lambda step: sparsity).init(params)["a"].mask)(
        jnp.linspace(0, 1, 5)
    )
    assert masks.sum(1).tolist() == [8, 6, 4, 2, 0]


def test_a_mask_stands_while_the_sparsity_does():
    transform = magnitude("a", 0.5)
    params = transform.init({"a": jnp.array([1.0, 2.0, 3.0, 4.0])})
    shuffled = {"a": Masked(jnp.array([9.0, 8.0, 0.1, 0.2]), params["a"].mask, params["a"].owner)}
    for step in range(3):
        shuffled = transform.update(shuffled, step)
    np.testing.assert_array_equal(shuffled["a"].mask, [False, False, True, True])


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_when_the_sparsity_rises_the_weights_of_that_step_are_ranked(scope):
    transform = magnitude("a", one_shot(0.75, at=5, initial=0.5), scope=scope)
    params = transform.init({"a": jnp.array([1.0, 2.0, 3.0, 4.0])})
    trained = {"a": Masked(jnp.array([0.0, 0.0, 9.0, 8.0]), params["a"].mask, params["a"].owner)}
    np.testing.assert_array_equal(transform.update(trained, 4)["a"].mask, [False, False, True, True])
    np.testing.assert_array_equal(transform.update(trained, 5)["a"].mask, [False, False, True, False])


def test_one_shot_pruning_waits_for_its_step():
    transform = magnitude("a", one_shot(0.9, at=3))
    params = transform.init(weights((20,)))
    counts = []
    for step in range(5):
        params = transform.update(params, step)
        counts.append(kept(params)["a"])
    assert counts == [20, 20, 20, 2, 2]


def test_cyclic_pruning_brings_weights_back_with_their_last_value():
    params = {"a": jnp.array([1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0])}
    transform = magnitude("a", cyclic(0.0, 0.75, period=4))
    state, seen = transform.init(params), []
    for step in range(5):
        state = transform.update(state, step)
        seen.append(densify(state)["a"].tolist())
    assert seen[0] == seen[4] == [1, -2, 3, -4, 5, -6, 7, -8]
    assert seen[1] == seen[3] == [0, 0, 0, -4, 5, -6, 7, -8]  # 0.375 of 8
    assert seen[2] == [0, 0, 0, 0, 0, 0, 7, -8]


def test_every_asks_the_schedule_only_at_its_multiples():
    transform = magnitude("a", CUBIC, every=5)
    params, update = transform.init(weights((100,))), Compiled(transform.update)
    counts = []
    for step in range(17):
        params = update(params, jnp.int32(step))
        counts.append(kept(params)["a"])
    # Eq. 1 at the steps 0, 5, 10, 15: 0.9 * (1 - 0.7**3) = 0.5913, 0.9 * (1 - 0.2**3) = 0.8928, 0.9.
    assert counts == [100] * 5 + [41] * 5 + [11] * 5 + [10] * 2
    assert update.calls == 1


def test_removed_weights_get_no_gradient_and_kept_ones_the_dense_gradient():
    params = magnitude("a", 0.5).init({"a": jnp.array([1.0, -4.0, 3.0, -2.0])})
    slope = jax.grad(lambda p: jnp.sum(densify(p)["a"] ** 3), allow_int=True)(params)
    assert slope["a"].weight.tolist() == [0, 48, 27, 0]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_stays(dtype):
    pruned = magnitude("a", 0.5).init({"a": jnp.arange(6.0).astype(dtype)})
    assert densify(pruned)["a"].dtype == dtype
    assert densify(pruned)["a"].tolist() == [0, 0, 0, 3, 4, 5]


def test_pruning_a_quantized_weight_ranks_what_the_model_sees():
    params = quantize.weights("a", 2, granularity="tensor").init({"a": jnp.array([0.6, 0.9, 2.0, 1.1])})
    # Two bits round these to 0, 0, 2, 2 by a scale of 2.
    pruned = magnitude("a", 0.5).init(params)
    assert densify(pruned)["a"].tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("sparsity", [1.5, -0.1, float("nan")])
def test_a_sparsity_outside_of_zero_to_one_is_named_with_its_pattern(sparsity):
    with pytest.raises(ValueError, match=rf"sparsity {sparsity:g} for pattern 'fc1/kernel' .*\[0, 1\]"):
        magnitude("fc1/kernel", sparsity)


@pytest.mark.parametrize("schedule", [cubic(0.0, 1.5, end=4), one_shot(1.5, at=9), cubic(1.5, 0.5, end=4)])
def test_a_schedule_that_starts_or_ends_outside_is_refused(schedule):
    with pytest.raises(ValueError, match="sparsity 1.5 for pattern 'a'"):
        magnitude("a", schedule)


def test_an_unknown_scope_is_named_with_the_pattern():
    with pytest.raises(ValueError, match="scope 'network' for pattern 'a' is not 'layer' or 'global'"):
        magnitude("a", 0.5, scope="network")


@pytest.mark.parametrize("make", [lambda pattern: magnitude(pattern, 0.5), lambda pattern: threshold(pattern, 1.0)])
def test_a_pattern_without_a_match_lists_the_paths(make):
    with pytest.raises(ValueError, match=re.compile("'kernle' matches no parameter.*did you mean 'kernel'", re.DOTALL)):
        make("kernle").init({"kernel": jnp.ones(2)})


@pytest.mark.parametrize("make", [lambda: magnitude("a", 0.5), lambda: threshold("a", 1.0)])
def test_integers_are_refused_by_name(make):
    with pytest.raises(ValueError, match="a of dtype int32 cannot be pruned"):
        make().init({"a": jnp.arange(3)})


def test_threshold_by_hand():
    # The standard deviation of 1, 1, 5, -5 is sqrt(13 - 0.25) = 3.57.
    pruned = threshold("a", 1.0).init({"a": jnp.array([1.0, 1.0, 5.0, -5.0])})
    assert densify(pruned)["a"].tolist() == [0, 0, 5, -5]


@pytest.mark.parametrize("quality", [0.0, 0.5, 1.0, 2.0])
def test_threshold_is_quality_times_the_standard_deviation_of_each_array(quality):
    params = weights((40, 10), (300,))
    pruned = threshold("a|b", quality).init(params)
    for name, weight in params.items():
        weight = np.asarray(weight, np.float64)
        np.testing.assert_array_equal(pruned[name].mask, np.abs(weight) >= quality * weight.std())


def test_a_later_stage_with_a_higher_quality_measures_the_surviving_weights():
    weight = np.asarray(weights((400,))["a"], np.float64)
    params = threshold("a", 0.5).init(weights((400,)))
    first = np.abs(weight) >= 0.5 * weight.std()
    np.testing.assert_array_equal(params["a"].mask, first)
    params = threshold("a", 1.0).init(params)
    second = first & (np.abs(weight) >= 1.0 * weight[first].std())
    np.testing.assert_array_equal(params["a"].mask, second)
    assert first.sum() > second.sum() > 0
    assert second.sum() < (np.abs(weight) >= 1.0 * weight.std()).sum()  # not the deviation over all weights


def test_the_mask_of_a_threshold_stands():
    transform = threshold("a", 1.0)
    params = transform.init(weights((30,)))
    assert transform.update(params, 7, grads=None, key=None) is params


@pytest.mark.parametrize("quality", [-0.5, float("nan")])
def test_a_negative_quality_is_named_with_its_pattern(quality):
    with pytest.raises(ValueError, match=f"quality {quality!r} for pattern 'fc1/kernel'"):
        threshold("fc1/kernel", quality)


def test_the_largest_and_denormal_weights_are_counted():
    largest = np.finfo(np.float32).max
    weight = np.array([largest, -1e-45, 0, 1e-45, -largest, 3e-45], np.float32)
    mask = magnitude("a", 0.5).init({"a": jnp.asarray(weight)})["a"].mask
    np.testing.assert_array_equal(mask, [True, False, False, False, True, True])
