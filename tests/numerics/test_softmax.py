"""Checks softmax in codes by hand, against exact reals, and against whole numbers of any size."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.numerics import softmax

BOTH = pytest.mark.parametrize("function", [softmax.by_table, softmax.in_fixed_point])
ROWS = st.lists(st.integers(-128, 127), min_size=1, max_size=12)


@BOTH
def test_by_hand(function):
    assert function(jnp.int8([[5, 5]]), np.float32(0.1)).tolist() == [[0, 0]]  # a half is 128 of 256
    assert function(jnp.int8([[-3]]), np.float32(0.1)).tolist() == [[127]]  # one is 256, which is cut
    assert function(jnp.int8([[127, -128, -128]]), np.float32(1.0)).tolist() == [[127, -128, -128]]
    assert function(jnp.int8([[0, 0, 0, 0]]), np.float32(9.0)).tolist() == [[-64] * 4]


@BOTH
@given(ROWS, st.floats(-12, 3))
@settings(max_examples=40, deadline=None)
def test_within_a_unit_of_the_exact_one(function, row, power):
    scale = np.float32(2.0**power)
    exact = [math.exp(float(scale) * (code - max(row))) for code in row]
    wanted = np.clip(256 * np.array(exact) / sum(exact) - 128, -128, 127)
    found = np.asarray(function(jnp.int8([row]), scale))[0]
    assert np.abs(found - wanted).max() <= 0.5 + 0.02 * (function is softmax.in_fixed_point) + 1e-4


@BOTH
def test_leading_axes_and_order_change_nothing(function):
    codes = np.random.default_rng(0).integers(-128, 128, (2, 3, 7)).astype(np.int8)
    found = np.asarray(function(jnp.asarray(codes), np.float32(0.03)))
    for i in np.ndindex(2, 3):
        np.testing.assert_array_equal(found[i], function(jnp.asarray(codes[i]), np.float32(0.03)))


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=200, deadline=None)
def test_the_division_is_right_to_a_few_of_its_last_bits(fraction):
    found = int(softmax._reciprocal_of_one_plus(jnp.int32(fraction)))
    assert abs(found - 2**62 // (2**31 + fraction)) <= 8


def test_the_exponential_is_right_to_a_few_of_its_last_bits():
    values = -np.arange(0, 2**31, 2**31 // 999, dtype=np.int64)
    exact = np.minimum(np.exp(values / 2.0**26) * 2.0**31, 2**31 - 1)
    found = np.asarray(softmax._exponential_of(jnp.asarray(values.astype(np.int32))), np.float64)
    assert np.abs(found - exact).max() <= 2**31 * 2e-7


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**-28])
def test_a_scale_below_what_kernels_take_is_refused(scale):
    with pytest.raises(ValueError, match="a softmax of scale .* is below what its kernels take"):
        softmax.in_fixed_point(jnp.int8([[1, 2]]), np.float32(scale))
