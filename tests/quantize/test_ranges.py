"""Checks calibrators: limits by hand and against numpy, in jit and scan, and states that must be refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxcompress.numerics import affine
from jaxcompress.quantize import ranges

CALIBRATORS = {
    "min_max": ranges.min_max(),
    "moving_average": ranges.moving_average(),
    "percentile": ranges.percentile(),
    "mse": ranges.mse(),
    "mse_symmetric": ranges.mse(4, symmetric=True),
    "entropy": ranges.entropy(),
    "entropy_symmetric": ranges.entropy(8, symmetric=True),
}
EXACT = ["min_max", "percentile", "mse", "mse_symmetric", "entropy", "entropy_symmetric"]
every_calibrator = pytest.mark.parametrize("calibrator", CALIBRATORS.values(), ids=CALIBRATORS)


def observe(calibrator, *batches):
    state, update = calibrator.init(), jax.jit(calibrator.update)
    for batch in batches:
        state = update(state, jnp.asarray(batch, jnp.float32))
    return state


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_min_max_by_hand():
    state = observe(ranges.min_max(), [1.0, 3.0], [-2.0, 0.5])
    assert ranges.min_max().limits(state) == (-2, 3)
    assert ranges.min_max().limits(observe(ranges.min_max(), [1.5, 3.0])) == (1.5, 3)  # zero is affine_range's affair


def test_moving_average_by_hand():
    calibrator = ranges.moving_average(0.75)
    state = observe(calibrator, [-1.0, 4.0], [-5.0, 8.0], [0.0, 0.0])
    # low -1, then 0.75 * -1 + 0.25 * -5 = -2, then -1.5; high 4, 5, 3.75.
    assert calibrator.limits(state) == (-1.5, 3.75)
    assert ranges.moving_average(0.0).limits(state := observe(ranges.moving_average(0.0), [9.0], [2.0])) == (2, 2)
    assert state.batches == 2


def test_the_percentile_clips_the_largest_magnitudes():
    values = np.append(normal(9_990), [1000.0] * 9 + [-2000.0])
    low, high = ranges.percentile(99.9).limits(observe(ranges.percentile(99.9), values))
    threshold = np.sort(np.abs(values))[9_989]
    np.testing.assert_allclose([low, high], [-threshold, threshold], atol=2 * 2048 / 8192)
    assert ranges.percentile(100).limits(observe(ranges.percentile(100), values)) == (-2000, 1000)


def test_the_percentile_keeps_the_extreme_of_the_short_side():
    values = np.append(np.linspace(-0.25, 1.0, 1000), 50.0)
    low, high = ranges.percentile(99.5).limits(observe(ranges.percentile(99.5), values))
    assert low == -0.25 and 0.9 < high < 1.05


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 6])
def test_mse_rounds_with_less_error_than_the_extremes(bits, symmetric):
    values = jnp.asarray(np.random.default_rng(0).standard_t(3, size=5000), jnp.float32)
    calibrator = ranges.mse(bits, symmetric)

    def error(low, high):
        scale, zero = affine.affine_range(low, high, bits, symmetric)
        rounded = affine.dequantize(affine.quantize(values, scale, zero, bits, symmetric), scale, zero)
        return float(jnp.mean((rounded - values) ** 2))

    assert error(*calibrator.limits(observe(calibrator, values))) < 0.9 * error(values.min(), values.max())


@pytest.mark.parametrize("symmetric", [True, False])
def test_entropy_clips_a_lone_outlier(symmetric):
    calibrator = ranges.entropy(8, symmetric)
    low, high = calibrator.limits(observe(calibrator, normal(20_000), [40.0]))
    assert -4.5 < low < -2.5 and 2.5 < high < 6


@every_calibrator
def test_limits_lie_within_the_extremes(calibrator):
    values = normal(2000) + np.float32(0.5)
    low, high = calibrator.limits(observe(calibrator, values))
    assert low.dtype == high.dtype == jnp.float32 and low.shape == high.shape == ()
    assert values.min() <= low < high <= values.max()


@every_calibrator
@pytest.mark.parametrize("sign", [1, -1])
def test_values_far_from_zero_have_a_range_that_reaches_them(calibrator, sign):
    values = sign * np.linspace(10, 11, 500)
    low, high = calibrator.limits(observe(calibrator, values))
    near, far = sorted((abs(float(low)), abs(float(high))))
    assert low <= high and near <= 10 and 10.1 < far <= 11
    low, high = calibrator.limits(observe(calibrator, np.full(9, sign * 10.3)))
    assert low <= high and max(abs(low), abs(high)) == np.float32(10.3)


@every_calibrator
def test_a_tree_of_states_is_carried_through_scan(calibrator):
    batches = {"a": jnp.asarray(normal(5, 40, 3)), "b": 10 * jnp.asarray(normal(5, 7, seed=1))}

    def step(states, batch):
        return {name: calibrator.update(states[name], batch[name]) for name in batch}, None

    traced = []
    states, _ = jax.jit(lambda b: (traced.append(1), lax.scan(step, {n: calibrator.init() for n in b}, b))[1])(batches)
    assert len(traced) == 1
    for name in batches:
        alone = observe(calibrator, *batches[name])
        for ours, theirs in zip(jax.tree.leaves(states[name]), jax.tree.leaves(alone), strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from(EXACT))
@pytest.mark.slow
def test_the_cut_into_batches_does_not_count(seed, name):
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal(64) * 2.0 ** rng.integers(-8, 8, 64)).astype(np.float32)
    calibrator = CALIBRATORS[name]
    whole, parts = observe(calibrator, values), observe(calibrator, *rng.permutation(values).reshape(4, 16))
    if name != "min_max":
        np.testing.assert_array_equal(whole.counts, parts.counts)
    assert calibrator.limits(whole) == calibrator.limits(parts)


@every_calibrator
def test_limits_are_the_same_within_jit(calibrator):
    state = observe(calibrator, normal(500))
    np.testing.assert_allclose(jax.jit(calibrator.limits)(state), calibrator.limits(state), rtol=1e-6)


@every_calibrator
def test_half_precision_batches_are_observed(calibrator):
    low, high = calibrator.limits(calibrator.update(calibrator.init(), jnp.array([-1.0, 0.0, 2.5], jnp.bfloat16)))
    assert low.dtype == jnp.float32 and -1 <= low <= 0 <= high <= 2.5


@every_calibrator
def test_zeros_have_an_empty_range(calibrator):
    assert calibrator.limits(observe(calibrator, np.zeros(50))) == (0, 0)


@every_calibrator
def test_no_batch_is_refused(calibrator):
    with pytest.raises(ValueError, match="no batch was observed"):
        calibrator.limits(calibrator.init())
    assert all(map(jnp.isnan, jax.jit(calibrator.limits)(calibrator.init())))


@every_calibrator
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_even_when_finite_batches_follow(calibrator, poison):
    state = observe(calibrator, [1.0, 2.0], [poison, 1.0], [0.0, 3.0])
    with pytest.raises(ValueError, match="a batch held NaN or infinity"):
        calibrator.limits(state)
    assert all(map(jnp.isnan, jax.jit(calibrator.limits)(state)))


def test_more_values_than_can_be_counted_are_refused():
    calibrator = ranges.percentile(100)
    state = observe(calibrator, [1.0, 2.0])._replace(total=jnp.uint32(2**32 - 3))
    full = observe(calibrator._replace(init=lambda: state), [1.0, 2.0])
    assert int(full.total) == 2**32 - 1 and calibrator.limits(full)[1] == 2
    over = observe(calibrator._replace(init=lambda: full), [1.0, 2.0])
    with pytest.raises(ValueError, match="more than 4294967295 values were observed"):
        calibrator.limits(over)
    assert all(map(jnp.isnan, jax.jit(calibrator.limits)(over)))


@every_calibrator
@pytest.mark.parametrize(
    ("batch", "message"), [(jnp.zeros((0, 3)), "shape (0, 3)"), (jnp.ones(3, jnp.int32), "dtype int32")]
)
def test_batches_without_reals_are_refused(calibrator, batch, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        calibrator.update(calibrator.init(), batch)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ranges.moving_average(1.0), r"decay 1.0 of a moving average is not in \[0, 1\)"),
        (lambda: ranges.moving_average(-0.1), "decay -0.1"),
        (lambda: ranges.percentile(0), r"percent 0 is not in \(0, 100\]"),
        (lambda: ranges.percentile(100.1), "percent 100.1"),
        (lambda: ranges.mse(1), "bits 1 of mse is not an integer from 2 to 8"),
        (lambda: ranges.mse(16), "for more let min_max take the range"),
        (lambda: ranges.entropy(9), "bits 9 of entropy"),
        (lambda: ranges.entropy(4.0), "bits 4.0 of entropy"),
    ],
)
def test_settings_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
