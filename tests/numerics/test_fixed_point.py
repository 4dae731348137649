"""Checks fixed-point products against Python's own integers, which know no overflow, up to the ends of int32."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxcompress.numerics import fixed_point
from jaxcompress.numerics.fixed_point import Multiplier

SIZE = 32
LOW, HIGH = -(2**31), 2**31 - 1
EDGES = [LOW, LOW + 1, -(2**30), -(2**30) + 1, -3, -2, -1, 0, 1, 2, 3, 2**30 - 1, 2**30, HIGH - 1, HIGH]
INT32 = st.integers(LOW, HIGH) | st.sampled_from(EDGES)
SEVERAL = st.lists(INT32, min_size=SIZE, max_size=SIZE)
FACTORS = st.integers(0, HIGH) | st.sampled_from([0, 1, 2**30, 2**30 + 1, HIGH - 1, HIGH])
SHIFTS = st.integers(-31, 30)

high_product = jax.jit(fixed_point.doubling_high_product)
divide = jax.jit(fixed_point.divide_by_power)


def multiply(values, by):
    return fixed_point.multiply(jnp.asarray(values, jnp.int32), by)


def int32(values):
    return np.asarray(values, np.int64).astype(np.int32)


def oracle_high_product(a, b):
    """Rounds as gemmlowp: the product is nudged and then truncated towards zero."""
    product = a * b
    nudged = product + (2**30 if product >= 0 else 1 - 2**30)
    return -(-nudged >> 31) if nudged < 0 else nudged >> 31


def oracle_divide(value, exponent):
    """Rounds half away from zero."""
    half = 2**exponent // 2
    return (abs(value) + half >> exponent) * (1 if value >= 0 else -1)


def oracle_multiply(value, multiplier, shift):
    wrapped = (value << max(shift, 0)) + 2**31 & 2**32 - 1
    return oracle_divide(oracle_high_product(wrapped - 2**31, multiplier), max(-shift, 0))


@given(SEVERAL, st.lists(FACTORS, min_size=SIZE, max_size=SIZE))
@example([LOW] * SIZE, [HIGH] * SIZE)
@example(([LOW + 1, HIGH] * SIZE)[:SIZE], [HIGH] * SIZE)
@example(([1, -1, 3, -3] * SIZE)[:SIZE], [2**30] * SIZE)
@settings(max_examples=100, deadline=None)
def test_doubling_high_product_equals_that_of_wide_integers(a, b):
    expected = [oracle_high_product(x, y) for x, y in zip(a, b, strict=True)]
    assert high_product(int32(a), int32(b)).tolist() == expected


def test_doubling_high_product_by_hand_at_halves():
    ones = int32([1, -1, 3, -3, 2, -2])  # times 2**30 / 2**31: halves; negative ones go up
    assert high_product(ones, int32([2**30] * 6)).tolist() == [1, 0, 2, -1, 1, -1]


@given(SEVERAL, st.lists(st.integers(0, 31), min_size=SIZE, max_size=SIZE))
@example([LOW] * SIZE, list(range(32)))
@example([LOW + 1] * SIZE, list(range(32)))
@example([HIGH] * SIZE, list(range(32)))
@example([-(2**30)] * SIZE, list(range(32)))
@example([2**30] * SIZE, list(range(32)))
@settings(max_examples=100, deadline=None)
def test_divide_by_power_rounds_half_away_from_zero(values, exponents):
    expected = [oracle_divide(x, e) for x, e in zip(values, exponents, strict=True)]
    assert divide(int32(values), int32(exponents)).tolist() == expected


def test_divide_by_power_by_hand():
    values = int32([5, 6, 7, -5, -6, -7, 2, -2])
    assert divide(values, int32([2] * 8)).tolist() == [1, 2, 2, -1, -2, -2, 1, -1]


@given(SEVERAL, st.lists(FACTORS, min_size=SIZE, max_size=SIZE), st.lists(SHIFTS, min_size=SIZE, max_size=SIZE))
@example([LOW + 1] * SIZE, [HIGH] * SIZE, list(range(-31, 1)))
@example([HIGH] * SIZE, [HIGH] * SIZE, list(range(-1, 31)))
@example([LOW] * SIZE, [HIGH] * SIZE, list(range(-1, 31)))
@settings(max_examples=100, deadline=None)
def test_multiply_shifts_left_with_wrap_and_rounds_twice(values, multipliers, shifts):
    expected = [oracle_multiply(*each) for each in zip(values, multipliers, shifts, strict=True)]
    assert multiply(int32(values), Multiplier(int32(multipliers), int32(shifts))).tolist() == expected


def test_multiply_rounds_twice_where_once_would_give_less():
    # 17 * 0.19873 = 3.378; the first rounding gives 13.51 -> 14 quarters, the second 3.5 -> 4.
    by = fixed_point.multiplier_of(np.float64(0.19872553820337852))
    assert int(by.shift) == -2 and int(multiply(jnp.int32(17), by)) == 4


@given(st.floats(2.0**-31, 2.0**30, exclude_max=True))
@example(1.0 - 2.0**-53)
@example(1.0)
@example(0.5)
@example(2.0**-31)
@settings(max_examples=100, deadline=None)
def test_multiplier_of_is_within_half_a_unit_and_normalized(real):
    multiplier, shift = map(int, fixed_point.multiplier_of(np.float64(real)))
    assert 2**30 <= multiplier < 2**31
    unit = Fraction(2) ** (shift - 31)
    assert abs(multiplier * unit - Fraction(real)) <= unit / 2


def test_multiplier_of_by_hand():
    reals = np.array([1.0, 0.5, 0.75, 3.0, 2.0**-10, 1 - 2.0**-40, 2.0**-32, 2.0**-33, 0.0])
    multiplier, shift = fixed_point.multiplier_of(reals)
    half = 2**30
    expected = [half, half, 3 * 2**29, 3 * 2**29, half, half, half, 0, 0]
    assert multiplier.tolist() == expected and multiplier.dtype == np.int32  # what carries becomes a half
    assert shift.tolist() == [1, 0, 0, 2, -9, 1, -31, 0, 0] and shift.dtype == np.int32


def test_multiplier_of_breaks_a_tie_away_from_zero():
    assert int(fixed_point.multiplier_of(np.float64(0.5 + 2.0**-32)).multiplier) == 2**30 + 1


@pytest.mark.parametrize("real", [2.0**-31, 3e-7, 0.0123, 0.999999, 1.0, 1.7, 40.0])
def test_multiply_by_a_real_is_within_one_of_the_product(real):
    top = min(HIGH, int(HIGH / max(real, 1) / 2))
    values = np.random.default_rng(0).integers(-top, top, 1000).astype(np.int32)
    found = np.asarray(multiply(values, fixed_point.multiplier_of(np.float64(real))), np.float64)
    np.testing.assert_allclose(found, values * np.float64(real), rtol=2.0**-30, atol=1.0)


def test_multipliers_broadcast_over_the_last_axis():
    values = np.random.default_rng(1).integers(-1000, 1000, (4, 5, 3)).astype(np.int32)
    reals = [0.3, 0.07, 1.9]
    found = np.asarray(multiply(values, fixed_point.multiplier_of(np.array(reals).reshape(1, 1, 3))))
    for channel, real in enumerate(reals):
        single = fixed_point.multiplier_of(np.float64(real))
        np.testing.assert_array_equal(found[..., channel], multiply(values[..., channel], single))


WIDE = st.integers(-(2**46), 2**46) | st.sampled_from([0, 1, -1, 2**31, -(2**31), 2**46, -(2**46)])


@given(
    st.lists(WIDE, min_size=SIZE, max_size=SIZE),
    st.lists(st.integers(2**30, HIGH), min_size=SIZE, max_size=SIZE),
    st.integers(-31, 7),
)
@example([2**46] * SIZE, [HIGH] * SIZE, -16)
@example([3, -3] * (SIZE // 2), [2**30] * SIZE, 0)
@settings(max_examples=100, deadline=None)
def test_wide_products_keep_sixteen_bits_of_the_factor(values, factors, shift):
    reduced = [min(factor + 2**15 >> 16, 2**15 - 1) for factor in factors]
    exact = [Fraction(v * r) * Fraction(2) ** (shift - 15) for v, r in zip(values, reduced, strict=True)]
    expected = [(x + Fraction(1, 2)).__floor__() for x in exact]
    with jax.enable_x64(True):
        by = Multiplier(int32(factors), np.full(SIZE, shift, np.int32))
        found = fixed_point.multiply_wide(jnp.asarray(values, jnp.int64), by)
    assert found.dtype == jnp.int32
    assert found.tolist() == [(x + 2**31) % 2**32 - 2**31 for x in expected]  # what does not fit is cut, as by a cast


def test_traced_reals_have_the_multipliers_of_known_ones():
    """Within a step of 32 bits, in a scope of 64 that ends before the step is compiled."""
    draws = np.random.default_rng(0).uniform(-40, 12, 2000)
    edges = [1.0, 0.5, 2.0**-30, 2.0**-31, 2.0**-32, 2.0**-33, 1e-38, 1e-45, 0.0]
    reals = np.concatenate([2.0**draws, edges]).astype(np.float32)

    @jax.jit
    def step(reals):
        with jax.enable_x64(True):
            wide = reals.astype(jnp.float64)
            return fixed_point.multiplier_of(wide), fixed_point.multiplier_of(wide / 3)

    for traced, known in zip(step(reals), (reals.astype(np.float64), reals.astype(np.float64) / 3), strict=True):
        expected = fixed_point.multiplier_of(known)
        np.testing.assert_array_equal(traced.multiplier, expected.multiplier)
        np.testing.assert_array_equal(traced.shift, expected.shift)
