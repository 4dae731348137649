"""Checks 8-bit floats against all 256 numbers written down from their definition, and against ml_dtypes."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.numerics import float8

DTYPES = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}
LARGEST = {"e4m3": 448.0, "e5m2": 57344.0}
EVERY_FORMAT = pytest.mark.parametrize("format", DTYPES)
encode, decode = (jax.jit(f, static_argnums=1) for f in (float8.encode, float8.decode))


def number(code, format):
    """Returns the value of one pattern, a Python float, from table 1 of Micikevicius et al. 2022."""
    width, bias = {"e4m3": (3, 7), "e5m2": (2, 15)}[format]
    sign, field, fraction = code >> 7, (code >> width) & (2 ** (7 - width) - 1), code & (2**width - 1)
    if format == "e4m3" and (field, fraction) == (15, 7):
        return float("nan")
    if format == "e5m2" and field == 31:
        return float("nan") if fraction else float("inf") * (-1) ** sign
    power, one = (field - bias, 1.0) if field else (1 - bias, 0.0)
    return (-1) ** sign * (one + fraction / 2**width) * 2.0**power


def nearest(value, format):
    """Returns the pattern of the nearest finite number, of an even pattern between two; zero has no sign."""
    numbers = {code: number(code, format) for code in range(128)}
    finite = {code: x for code, x in numbers.items() if np.isfinite(x)}
    code = min(finite, key=lambda c: (abs(abs(value) - finite[c]), c % 2))
    return code | 0x80 if value < 0 and code else code


@EVERY_FORMAT
def test_all_256_patterns(format):
    codes = np.arange(256, dtype=np.uint8)
    expected = np.array([number(int(code), format) for code in codes])
    expected = np.where(np.isinf(expected), np.nan, expected)  # no finite number
    np.testing.assert_array_equal(decode(codes, format), expected)
    finite = np.isfinite(expected)
    assert finite.sum() == {"e4m3": 254, "e5m2": 248}[format] and np.nanmax(expected) == LARGEST[format]
    again = np.asarray(encode(jnp.asarray(expected[finite], jnp.float32), format))
    np.testing.assert_array_equal(again, np.where(codes == 0x80, 0, codes)[finite])


@EVERY_FORMAT
def test_every_number_half_way_and_its_neighbours_go_where_they_should(format):
    numbers = np.array([number(code, format) for code in range(128)])
    numbers = numbers[np.isfinite(numbers)].astype(np.float32)
    middle = (numbers[1:] + numbers[:-1]) / 2
    values = np.concatenate([middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(1e9))])
    values = np.concatenate([values, -values])
    for function in (encode, float8.encode):
        found = np.asarray(function(jnp.asarray(values), format))
        assert found.tolist() == [nearest(float(value), format) for value in values]


@EVERY_FORMAT
@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_subnormal=False), min_size=8, max_size=8))
def test_rounds_as_ml_dtypes_does_after_saturating(format, values):
    given_values = np.array(values, np.float32)
    largest = np.float32(LARGEST[format])
    expected = np.clip(given_values, -largest, largest).astype(DTYPES[format]).view(np.uint8)
    np.testing.assert_array_equal(encode(given_values, format), np.where(expected == 0x80, 0, expected))


@EVERY_FORMAT
def test_magnitudes_over_many_exponents_round_as_ml_dtypes_does(format):
    draw = np.random.default_rng(0)
    values = (draw.standard_normal(20000) * 10.0 ** draw.uniform(-8, 6, 20000)).astype(np.float32)
    expected = np.clip(values, -LARGEST[format], LARGEST[format]).astype(DTYPES[format]).view(np.uint8)
    np.testing.assert_array_equal(encode(values, format), np.where(expected == 0x80, 0, expected))


@EVERY_FORMAT
def test_what_is_beyond_saturates_and_nan_stays_nan(format):
    largest = LARGEST[format]
    values = jnp.float32([largest, 1.06 * largest, 1e38, jnp.inf, -jnp.inf, 1e-40, -0.0])
    assert decode(encode(values, format), format).tolist() == [largest] * 4 + [-largest, 0.0, 0.0]
    assert jnp.isnan(decode(encode(jnp.float32([jnp.nan]), format), format))[0]


def test_the_scale_maps_the_largest_magnitude_to_the_largest_number_by_hand():
    weight = jnp.float32([[448.0, -1.0], [-896.0, 0.5]])
    assert float8.largest_scale(weight, (0, 1), "e4m3").tolist() == [[2.0]]
    assert float8.largest_scale(weight, (0,), "e4m3")[0, 0] == 2.0
    codes = float8.quantize(weight, jnp.float32([[2.0]]), "e4m3")
    assert float8.dequantize(codes, jnp.float32([[2.0]]), "e4m3").tolist() == [[448, -1], [-896, 0.5]]
    assert float8.largest_scale(jnp.zeros((2, 2)), (0, 1), "e5m2").tolist() == [[1.0]]


@EVERY_FORMAT
@settings(deadline=None, max_examples=40)
@given(st.floats(2.0**-100, 2.0**100, width=32), st.integers(0, 5))
def test_the_largest_weight_of_any_size_gets_the_largest_pattern(format, peak, seed):
    weight = np.random.default_rng(seed).uniform(-1, 1, 6).astype(np.float32) * np.float32(peak)
    weight[2] = -peak
    scale = float8.largest_scale(jnp.asarray(weight), (0,), format)
    codes = np.asarray(float8.quantize(jnp.asarray(weight), scale, format))
    assert codes[2] == float8.LAYOUTS[format].largest_code | 0x80
    assert np.all((codes & 0x7F) <= float8.LAYOUTS[format].largest_code)
    reals = np.asarray(float8.dequantize(jnp.asarray(codes), scale, format), np.float64)
    spacing = np.maximum(np.abs(weight) * 2.0 ** -(4 if format == "e4m3" else 3), peak * 2.0**-17)
    assert np.all(np.abs(reals - weight) <= 1.001 * spacing)
