"""Checks affine integers: tables worked by hand, the exact zero, the bound on the error, the straight-through value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.numerics import affine
from tests.traces import Compiled

SIZE = 16
# Within float32's normal range by a wide margin, so that a scale never underflows.
REALS = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 2.0**-60)
WEIGHTS = st.lists(REALS | st.sampled_from([0.0, 1.0, -1.0]), min_size=SIZE, max_size=SIZE).map(
    lambda values: np.array(values, np.float32)
)
BITS = st.integers(2, 8)


@jax.jit
def codes_and_range(weight, bits):
    """Returns `(codes, scale, zero_point)` of the symmetric and of the asymmetric form."""

    def one(symmetric):
        scale, zero = affine.weight_range(weight, bits, None, symmetric)
        return affine.quantize(weight, scale, zero, bits, symmetric), scale, zero

    return one(True), one(False)


@pytest.mark.parametrize(
    ("bits", "symmetric", "expected"),
    [(2, True, (-1, 1)), (2, False, (-2, 1)), (3, True, (-3, 3)), (8, True, (-127, 127)), (8, False, (-128, 127))],
)
def test_code_range_by_hand(bits, symmetric, expected):
    assert tuple(map(float, affine.code_range(bits, symmetric))) == expected


def test_code_range_is_exact_for_traced_bits():
    low, high = jax.jit(lambda bits: affine.code_range(bits, False))(jnp.arange(2, 9))
    assert low.tolist() == [-2, -4, -8, -16, -32, -64, -128]
    assert high.tolist() == [1, 3, 7, 15, 31, 63, 127]


def test_symmetric_by_hand():
    weight = jnp.array([-1.5, -0.6, 0.0, 0.5, 0.25, 0.75, 1.2])
    scale, zero = affine.weight_range(weight, 3, None, True)
    codes = affine.quantize(weight, scale, zero, 3, True)
    assert scale.item() == 0.5 and zero.item() == 0  # 1.5 / 3
    assert codes.tolist() == [-3, -1, 0, 1, 0, 2, 2]  # 0.25 and 0.75 lie half way and go to the even code
    assert affine.dequantize(codes, scale, zero).tolist() == [-1.5, -0.5, 0, 0.5, 0, 1, 1]


def test_asymmetric_by_hand():
    weight = jnp.array([-1.0, 0.0, 0.4, 1.1, 2.0])
    scale, zero = affine.weight_range(weight, 2, None, False)
    codes = affine.quantize(weight, scale, zero, 2, False)
    assert scale.item() == 1 and zero.item() == -1  # (2 - -1) / 3, and -1 must get the code -2
    assert codes.tolist() == [-2, -1, -1, 0, 1]
    assert affine.dequantize(codes, scale, zero).tolist() == [-1, 0, 0, 1, 2]


@pytest.mark.parametrize(("values", "zero"), [([1.5, 3.0], -2), ([-1.5, -3.0], 1)])
def test_a_range_on_one_side_is_widened_to_zero(values, zero):
    scale, zero_point = affine.weight_range(jnp.array(values), 2, None, False)
    assert (scale.item(), zero_point.item()) == (1, zero)


def test_values_beyond_the_range_are_cut():
    codes = affine.quantize(jnp.array([-9.0, 9.0]), jnp.float32(1), jnp.float32(0), 3, True)
    assert codes.tolist() == [-3, 3]


@pytest.mark.parametrize("symmetric", [True, False])
def test_all_zero_weights_get_scale_one(symmetric):
    scale, zero = affine.weight_range(jnp.zeros(4), 4, None, symmetric)
    codes = affine.quantize(jnp.zeros(4), scale, zero, 4, symmetric)
    assert scale.item() == 1
    assert affine.dequantize(codes, scale, zero).tolist() == [0, 0, 0, 0]


def test_ranges_are_taken_over_the_named_axes():
    weight = jnp.array([[1.0, -20.0], [-3.0, 6.0]])
    scale, _ = affine.weight_range(weight, 2, (0,), True)
    assert scale.tolist() == [[3, 20]]
    scale, _ = affine.weight_range(weight, 2, (-1,), True)
    assert scale.tolist() == [[20], [6]]


@settings(deadline=None, max_examples=100)
@given(WEIGHTS, BITS)
def test_zero_is_exact(weight, bits):
    weight[3] = 0
    for codes, scale, zero in codes_and_range(weight, bits):
        assert affine.dequantize(codes, scale, zero)[3] == 0


@settings(deadline=None, max_examples=150)
@given(WEIGHTS, BITS)
def test_the_error_is_at_most_half_a_scale(weight, bits):
    for codes, scale, zero in codes_and_range(weight, bits):
        error = np.abs(np.asarray(affine.dequantize(codes, scale, zero), np.float64) - weight)
        assert np.all(error <= 0.5 * np.float64(scale) * (1 + 1e-4))  # float32 divisions of up to 255 scales


@settings(deadline=None, max_examples=100)
@given(WEIGHTS, BITS)
def test_codes_are_integers_of_that_many_bits(weight, bits):
    for (codes, _, zero), symmetric in zip(codes_and_range(weight, bits), [True, False], strict=True):
        smallest = -(2 ** (bits - 1)) + symmetric
        for integers in (np.asarray(codes), np.asarray(zero)):
            np.testing.assert_array_equal(integers, np.round(integers))
            assert smallest <= integers.min() and integers.max() <= 2 ** (bits - 1) - 1


@settings(deadline=None, max_examples=60)
@given(WEIGHTS, BITS)
def test_symmetric_codes_of_the_negative_are_the_negative_codes(weight, bits):
    codes = codes_and_range(weight, bits)[0][0]
    np.testing.assert_array_equal(codes_and_range(-weight, bits)[0][0], -codes)


def test_traced_bits_are_one_trace_and_the_values_of_static_ones():
    weight = jnp.asarray(np.random.default_rng(0).standard_normal(50), jnp.float32)

    def rounded(weight, bits):
        scale, zero = affine.weight_range(weight, bits, None, True)
        return affine.dequantize(affine.quantize(weight, scale, zero, bits, True), scale, zero)

    traced = Compiled(rounded)
    for bits in range(2, 9):
        np.testing.assert_array_equal(traced(weight, jnp.int32(bits)), rounded(weight, bits))
    assert traced.calls == 1
    swept = jax.vmap(rounded, (None, 0))(weight, jnp.arange(2, 9))
    np.testing.assert_array_equal(swept[3], rounded(weight, 5))


@settings(deadline=None, max_examples=100)
@given(WEIGHTS, WEIGHTS)
def test_straight_through_returns_every_bit_of_the_quantized(values, quantized):
    quantized = quantized + np.float32(0)  # -0.0 would come out as 0.0; integers times a scale are never -0.0
    for function in (affine.straight_through, jax.jit(affine.straight_through)):
        out = np.asarray(function(jnp.asarray(values), jnp.asarray(quantized)))
        np.testing.assert_array_equal(out.view(np.uint32), quantized.view(np.uint32))


def test_straight_through_passes_the_gradient_to_the_values_alone():
    values, quantized, upstream = jnp.array([0.1, -7.0]), jnp.array([5.0, 0.0]), jnp.array([2.0, -3.0])
    _, pullback = jax.vjp(affine.straight_through, values, quantized)
    to_values, to_quantized = pullback(upstream)
    np.testing.assert_array_equal(to_values, upstream)
    np.testing.assert_array_equal(to_quantized, [0, 0])


# Runs that share a scale, and noise before rounding.


def test_the_range_of_runs_by_hand():
    weight = jnp.array([[1.0, -7.0], [-3.5, 0.0], [0.0, 14.0], [0.0, 1.0]])
    scale, zero = affine.group_range(weight, 4, -2, 2, True)
    assert scale.tolist() == [[0.5, 1], [1, 2]] and not np.any(zero)
    assert affine.spread(scale, (4, 2)).tolist() == [[0.5, 1], [0.5, 1], [1, 2], [1, 2]]


def test_spreading_leaves_alone_what_broadcasts():
    scale = jnp.ones((1, 3))
    assert affine.spread(scale, (6, 3)) is scale and affine.spread(scale[0, 0], (6, 3)).shape == ()
    assert affine.spread(jnp.arange(6.0).reshape(2, 3), (4, 3)).tolist() == [[0, 1, 2]] * 2 + [[3, 4, 5]] * 2


@pytest.mark.parametrize("axis", [-3, -2, -1])
def test_one_run_is_the_whole_axis(axis):
    weight = jnp.asarray(np.random.default_rng(0).standard_normal((4, 6, 8)), jnp.float32)
    for symmetric in (True, False):
        whole = affine.weight_range(weight, 4, (axis,), symmetric)
        runs = affine.group_range(weight, 4, axis, weight.shape[axis], symmetric)
        jax.tree.map(np.testing.assert_array_equal, whole, runs)


@pytest.mark.parametrize("value", [0.0, 0.125, 0.3, 0.5, 2.75, -0.3, -6.5, 6.9999])
def test_rounding_under_noise_of_all_sizes_is_right_in_the_mean(value):
    noise = (jnp.arange(4096.0) + 0.5) / 4096 - 0.5
    values = jnp.full(4096, value)
    codes = affine.quantize(values, jnp.float32(1), jnp.float32(0), 4, True, noise)
    assert set(codes.tolist()) <= {int(np.floor(value)), int(np.ceil(value))}
    assert abs(np.mean(codes) - value) <= 1 / 4096


@settings(deadline=None, max_examples=30)
@given(st.integers(-127, 127), st.floats(-0.5, 0.5, width=32, exclude_max=True))
def test_no_noise_moves_an_integer(code, noise):
    codes = affine.quantize(jnp.float32([code]), jnp.float32(1), jnp.float32(0), 8, True, jnp.float32([noise]))
    assert codes.tolist() == [code]


def test_no_noise_at_all_rounds_half_to_even():
    values = jnp.array([0.5, 1.5, -0.5, -1.5, 2.5])
    codes = affine.quantize(values, jnp.float32(1), jnp.float32(0), 4, True, jnp.zeros(5))
    assert codes.tolist() == [0, 2, 0, -2, 2]
