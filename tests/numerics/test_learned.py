"""Checks LSQ, LSQ+, PACT and DoReFa: tables and gradients worked by hand, the grid, traced bits, extreme ranges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.numerics import learned
from tests.traces import Compiled

SIZE = 12
REALS = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 2.0**-60)
VALUES = st.lists(REALS | st.integers(-9, 9).map(float), min_size=SIZE, max_size=SIZE).map(
    lambda values: np.array(values, np.float32)
)
BITS = st.integers(2, 8)
EXTREMES = {
    "zeros": np.zeros(SIZE),
    "constant": np.full(SIZE, 0.3),
    "denormal": np.full(SIZE, 1e-42),
    "tiny": np.linspace(-1e-37, 1e-37, SIZE),
    "huge": np.linspace(-1e30, 1e30, SIZE),
    "one_outlier": np.r_[np.zeros(SIZE - 1), 1e30],
    "negative_zero": np.full(SIZE, -0.0),
}


def gaussian(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def pulled(function, *arguments):
    """Returns the value of `function` and what its pullback makes of ones."""
    value, pullback = jax.vjp(function, *arguments)
    return value, *pullback(jnp.ones_like(value))


# LSQ.


def test_lsq_by_hand():
    values = jnp.array([-9.0, -2.0, -0.6, -0.5, 0.0, 0.26, 0.75, 1.2, 1.5, 9.0])
    # Step 0.5, 3 bits: codes -4..3; v / s = -18, -4, -1.2, -1, 0, 0.52, 1.5, 2.4, 3, 18.
    value, to_values, to_step = pulled(lambda v, s: learned.lsq(v, s, 3, count=1), values, jnp.float32(0.5))
    assert value.tolist() == [-2, -2, -0.5, -0.5, 0, 0.5, 1, 1, 1.5, 1.5]
    assert to_values.tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 0, 0]  # eq. 5: strictly inside
    slopes = [-4, -4, 0.2, 0, 0, 0.48, 0.5, -0.4, 3, 3]  # eq. 3
    np.testing.assert_allclose(to_step, sum(slopes) / np.sqrt(3), rtol=1e-5)  # N = 1, Q_P = 3


def test_lsq_unsigned_by_hand():
    values = jnp.array([-1.0, 0.0, 0.3, 2.9, 3.0, 5.0])  # 2 bits: codes 0..3, so Q_P = 3
    value, to_values, to_step = pulled(lambda v, s: learned.lsq(v, s, 2, False, count=4), values, jnp.float32(1))
    assert value.tolist() == [0, 0, 0, 3, 3, 3]
    assert to_values.tolist() == [0, 0, 1, 1, 0, 0]
    np.testing.assert_allclose(to_step, (-0.3 + 0.1 + 3 + 3) / np.sqrt(4 * 3), rtol=1e-6)


def test_symmetric_leaves_out_the_most_negative_code():
    values = jnp.array([-9.0, 9.0])
    assert learned.lsq(values, 1.0, 3).tolist() == [-4, 3]
    assert learned.lsq(values, 1.0, 3, symmetric=True).tolist() == [-3, 3]
    assert learned.lsq(values, 1.0, 8, signed=False).tolist() == [0, 9]
    assert learned.lsq(values * 100, 1.0, 8, signed=False).tolist() == [0, 255]


def test_the_gradient_of_a_step_is_scaled_by_the_weights_that_share_it():
    values, steps = gaussian(6, 4), jnp.full((1, 4), 0.3)
    shared = jax.grad(lambda s: jnp.sum(learned.lsq(values, s, 4)))
    given = jax.grad(lambda s: jnp.sum(learned.lsq(values, s, 4, count=1)))
    np.testing.assert_allclose(shared(steps) * np.sqrt(6), given(steps), rtol=1e-6)
    np.testing.assert_allclose(shared(jnp.float32(0.3)) * np.sqrt(24), given(jnp.float32(0.3)), rtol=1e-6)


def test_lsq_step_by_hand():
    values = jnp.array([[1.0, -2.0], [3.0, 0.0]])
    np.testing.assert_allclose(learned.lsq_step(values, 3), [[2 * 1.5 / np.sqrt(3)]], rtol=1e-6)
    np.testing.assert_allclose(learned.lsq_step(values, 2, axes=(-2,)), [[4, 2]], rtol=1e-6)  # Q_P = 1
    np.testing.assert_allclose(learned.lsq_step(values, 2, signed=False), [[2 * 1.5 / np.sqrt(3)]], rtol=1e-6)
    kept = jnp.array([[True, False], [True, False]])
    np.testing.assert_allclose(learned.lsq_step(values, 2, axes=(-2,), kept=kept), [[4, 1]], rtol=1e-6)  # none kept: 1


@settings(deadline=None, max_examples=100)
@given(VALUES, BITS, st.booleans())
def test_lsq_values_are_integers_times_the_step_nearest_to_the_values(values, bits, signed):
    step = lsq_step_jit(values, bits)
    out = np.asarray(lsq_signed(values, step, bits) if signed else lsq_unsigned(values, step, bits))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    codes = np.round(np.asarray(out, np.float64) / np.float64(step))
    assert low <= codes.min() and codes.max() <= high
    np.testing.assert_array_equal(out, codes.astype(np.float32) * np.float32(step))
    inside = np.clip(values.astype(np.float64), low * np.float64(step), high * np.float64(step))
    assert np.all(np.abs(out - inside) <= 0.5 * np.float64(step) * (1 + 1e-4))


lsq_step_jit = jax.jit(lambda values, bits: learned.lsq_step(values, bits).reshape(()))
lsq_signed = jax.jit(lambda values, step, bits: learned.lsq(values, step, bits))
lsq_unsigned = jax.jit(lambda values, step, bits: learned.lsq(values, step, bits, False))


@pytest.mark.parametrize("step", [0.0, -1.0, -1e30, 1e-42])
def test_a_step_that_is_not_positive_still_has_a_finite_value_and_a_gradient(step):
    values = gaussian(SIZE)
    value, to_values, to_step = pulled(lambda v, s: learned.lsq(v, s, 4), values, jnp.float32(step))
    assert np.all(np.abs(value) < 1e-30) and np.isfinite(to_step) and to_step != 0
    assert to_values.tolist() == [0] * SIZE


# LSQ+.


def test_lsq_plus_by_hand():
    values = jnp.array([-3.0, -1.0, -0.7, 0.1, 1.8, 2.0, 7.0])  # offset -1, step 1: codes 0..3 mean -1..2
    quantizer = lambda v, s, b: learned.lsq_plus(v, s, b, 2, count=1)
    value, to_values, to_step, to_offset = pulled(quantizer, values, jnp.float32(1), jnp.float32(-1))
    assert value.tolist() == [-1, -1, -1, 0, 2, 2, 2]
    assert to_values.tolist() == [0, 0, 1, 1, 1, 0, 0]
    np.testing.assert_allclose(to_step, (0 + 0 - 0.3 - 0.1 + 0.2 + 3 + 3) / np.sqrt(3), rtol=1e-5)
    np.testing.assert_allclose(to_offset, 4 / np.sqrt(3), rtol=1e-6)  # four values at or beyond the ends


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_initial_range_of_lsq_plus_has_less_error_than_the_extremes(bits):
    values = jax.nn.swish(3 * gaussian(2000))
    step, offset = learned.lsq_plus_range(values, bits)
    extremes = (jnp.max(values) - jnp.min(values)) / (2**bits - 1), jnp.min(values)

    def error(step, offset):
        return np.mean(np.square(np.float64(learned.lsq_plus(values, step, offset, bits)) - np.float64(values)))

    assert error(step, offset) < (0.95 if bits < 8 else 1) * error(*extremes)


def test_the_initial_range_of_values_on_a_grid_is_that_grid():
    step, offset = learned.lsq_plus_range(jnp.array([-0.75, -0.5, -0.25, 0.0, -0.5]), 2)
    np.testing.assert_allclose([step, offset], [0.25, -0.75], rtol=1e-6)


# PACT.


def test_pact_by_hand():
    values = jnp.array([-1.0, 0.0, 0.4, 1.1, 1.9, 3.0, 4.0])  # alpha 3, 2 bits: levels 0, 1, 2, 3
    value, to_values, to_alpha = pulled(lambda x, a: learned.pact(x, a, 2), values, jnp.float32(3))
    assert value.tolist() == [0, 0, 0, 1, 2, 3, 3]
    assert to_values.tolist() == [0, 1, 1, 1, 1, 0, 0]
    assert to_alpha == 2  # eq. 3: one for each value from alpha up


def test_each_channel_may_have_a_clip_of_its_own():
    values = jnp.array([[1.0, 9.0], [5.0, 9.0]])
    to_alpha = jax.grad(lambda a: jnp.sum(learned.pact(values, a, 4)))(jnp.array([[2.0, 4.0]]))
    assert to_alpha.tolist() == [[1, 2]]


@pytest.mark.parametrize("alpha", [0.0, -2.0])
def test_a_clip_that_is_not_positive_maps_to_zero_and_can_come_back(alpha):
    value, _, to_alpha = pulled(lambda x, a: learned.pact(x, a, 4), jnp.array([-1.0, 1.0]), jnp.float32(alpha))
    assert np.all(np.abs(value) < 1e-30) and to_alpha == 1


@settings(deadline=None, max_examples=60)
@given(VALUES, BITS, st.floats(2.0**-20, 2.0**20, width=32))
def test_pact_errs_by_half_a_level_at_most(values, bits, alpha):
    out = np.asarray(pact_jit(values, alpha, bits), np.float64)
    level = alpha / (2**bits - 1)
    np.testing.assert_allclose(out / level, np.round(out / level), atol=1e-4)
    assert np.all(np.abs(out - np.clip(values.astype(np.float64), 0, alpha)) <= 0.5 * level * (1 + 1e-4))


pact_jit = jax.jit(learned.pact)


# DoReFa.


def test_dorefa_activations_by_hand():
    values = jnp.array([-0.5, 0.0, 0.3, 0.5, 1.0, 1.7])
    value, to_values = pulled(lambda x: learned.dorefa_activations(x, 2), values)
    np.testing.assert_array_equal(value, np.float32([0, 0, 1, 2, 3, 3]) / np.float32(3))  # 1.5 rounds to even
    assert to_values.tolist() == [0, 1, 1, 1, 1, 0]


def test_dorefa_weights_by_hand():
    # The tanh is -0.8, -0.2, 0, 0.3, 0.4; over the largest -1, -0.25, 0, 0.375, 0.5. Two bits: -1, -1/3, 1/3, 1.
    weight = jnp.arctanh(jnp.array([-0.8, -0.2, 0.0, 0.3, 0.4]))
    codes, scale = learned.dorefa_codes(weight, 2, (-1,))
    assert codes.tolist() == [-3, -1, 1, 1, 1]  # zero lies half way and goes to the even level
    np.testing.assert_array_equal(scale, np.float32([1 / 3]))
    np.testing.assert_array_equal(learned.dorefa_weights(weight, 2, (-1,)), codes * scale)


def test_dorefa_weights_of_one_bit_are_signs_times_the_mean():
    weight = jnp.array([0.5, -1.5, 0.0, 2.0])
    value, to_weight = pulled(lambda w: learned.dorefa_weights(w, 1, (-1,)), weight)
    assert value.tolist() == [1, -1, 1, 1]
    assert to_weight.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("bits", range(1, 9))
def test_dorefa_weights_take_two_to_the_bits_values_and_reach_one(bits):
    seen = np.unique(learned.dorefa_weights(gaussian(20000), bits, (-1,)))
    assert len(seen) == 2**bits
    np.testing.assert_array_equal(seen, -seen[::-1])
    if bits > 1:
        assert seen[-1] == 1
        np.testing.assert_allclose(seen, np.linspace(-1, 1, 2**bits), rtol=2e-7)


def test_pruned_weights_are_the_only_zeros_of_dorefa():
    kept = jnp.array([True, False, True, True])
    for bits in range(1, 9):
        out = learned.dorefa_weights(jnp.array([0.1, 0.0, 0.0, -0.2]), bits, (-1,), kept)
        assert (np.asarray(out) != 0).tolist() == kept.tolist()


# All of them.

QUANTIZERS = {
    "lsq": lambda x, bits: learned.lsq(x, 0.25, bits),
    "lsq_unsigned": lambda x, bits: learned.lsq(x, 0.25, bits, False),
    "lsq_plus": lambda x, bits: learned.lsq_plus(x, 0.25, -0.5, bits),
    "pact": lambda x, bits: learned.pact(x, 1.5, bits),
    "dorefa_activations": learned.dorefa_activations,
    "dorefa_weights": lambda x, bits: learned.dorefa_weights(x, bits, (-1,)),
}
EVERY_QUANTIZER = pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)


@EVERY_QUANTIZER
def test_bits_may_be_traced_and_swept_in_one_program(quantizer):
    values, traced = gaussian(50), Compiled(quantizer)
    swept = jax.jit(jax.vmap(quantizer, (None, 0)))(values, jnp.arange(2, 9))
    for bits, out in zip(range(2, 9), swept, strict=True):
        static = quantizer(values, bits)
        np.testing.assert_array_equal(traced(values, jnp.int32(bits)), static)
        np.testing.assert_array_equal(out, static)
    assert traced.calls == 1


@EVERY_QUANTIZER
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_rounded_once_at_the_end(quantizer, dtype):
    values = gaussian(50).astype(dtype)
    out = quantizer(values, 4)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, quantizer(values.astype(jnp.float32), 4).astype(dtype))
    assert jax.grad(lambda x: jnp.sum(quantizer(x, 4)).astype(jnp.float32))(values).dtype == dtype


@EVERY_QUANTIZER
@pytest.mark.parametrize("values", EXTREMES.values(), ids=EXTREMES)
def test_extreme_values_and_their_gradients_are_finite(quantizer, values):
    for bits in (2, 8):
        out, slope = pulled(lambda x, bits=bits: quantizer(x, bits), jnp.float32(values))
        assert np.isfinite(out).all() and np.isfinite(slope).all()


@pytest.mark.parametrize("values", EXTREMES.values(), ids=EXTREMES)
def test_initial_steps_of_extreme_values_are_finite_and_positive(values):
    for bits in (2, 8):
        steps = learned.lsq_step(jnp.float32(values), bits), learned.lsq_plus_range(jnp.float32(values), bits)[0]
        assert all(np.isfinite(step).all() and np.all(step > 0) for step in steps)


@pytest.mark.parametrize("name", ["lsq", "lsq_unsigned", "pact", "dorefa_activations"])
def test_infinite_activations_meet_the_last_level(name):
    out = QUANTIZERS[name](jnp.array([jnp.inf, 1e30]), 4)
    assert out[0] == out[1] and np.isfinite(out[0])
