"""Checks histograms against numpy's, whatever the batches, and the ranges they suggest against searches in float64."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.numerics import affine, histograms

BINS = 64
SIZE = 12
# Zeros, ties, powers of two, and values far apart.
REALS = st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False) | st.sampled_from([0.0, 1.0, -1.0, 2.0, -4.0])
BATCHES = st.lists(st.lists(REALS, min_size=SIZE, max_size=SIZE), min_size=1, max_size=5)


def histogram(*batches, bins=BINS):
    state = histograms.empty(bins)
    for batch in batches:
        state = histograms.add(*state, jnp.asarray(batch, jnp.float32))
    return state


def peak_exponent(values):
    """Returns the least e, from LOWEST_EXPONENT, with every magnitude below 2**e."""
    return max(histograms.LOWEST_EXPONENT, math.frexp(np.abs(values).max())[1])


def reference(values, bins):
    """Counts in float64, with one range for all values."""
    values = np.asarray(values, np.float32).astype(np.float64).reshape(-1)
    exponent = peak_exponent(values)
    places = np.floor(values[values != 0] * 2.0 ** (math.log2(bins) - 1 - exponent)).astype(int) + bins // 2
    return np.bincount(places, minlength=bins), exponent


@settings(deadline=None, max_examples=150)
@given(BATCHES)
def test_counts_are_those_of_all_values_at_once(batches):
    counts, exponent = histogram(*batches)
    expected, expected_exponent = reference(batches, BINS)
    np.testing.assert_array_equal(counts, expected)
    if np.any(np.array(batches, np.float32)):
        assert exponent == expected_exponent


@settings(deadline=None, max_examples=60)
@given(BATCHES)
def test_the_order_of_the_batches_does_not_count(batches):
    for forwards, backwards in zip(histogram(*batches), histogram(*batches[::-1]), strict=True):
        np.testing.assert_array_equal(forwards, backwards)


def test_bins_by_hand():
    counts, exponent = histogram([1.0, -1.0, 0.0, 1.9, 0.49, -0.01], bins=8)  # over [-2, 2), each 0.5 wide
    assert exponent == 1
    assert counts.tolist() == [0, 0, 1, 1, 1, 0, 1, 1]
    counts, exponent = histograms.add(counts, exponent, jnp.array([2.0]))  # over [-4, 4): pairs are merged
    assert exponent == 2
    assert counts.tolist() == [0, 0, 0, 2, 1, 2, 1, 0]


def test_zeros_alone_leave_the_narrowest_range():
    counts, exponent = histogram([0.0] * SIZE)
    assert exponent == histograms.LOWEST_EXPONENT and counts.sum() == 0


def test_values_that_are_not_finite_are_left_out():
    counts, exponent = histogram([jnp.nan, jnp.inf, -jnp.inf, 3.0])
    assert counts.sum() == 1 and exponent == 2


@pytest.mark.parametrize("peak", [np.finfo(np.float32).max, np.finfo(np.float32).tiny, 2.0**-100, 2.0**100])
def test_the_ends_of_float32_have_a_bin(peak):
    counts, exponent = histogram([peak, -peak])
    assert counts.sum() == 2 and exponent == peak_exponent(np.float64(peak))
    assert counts[: BINS // 2].sum() == 1


def test_counts_beyond_float32_are_exact():
    counts, exponent = histogram([1.5])
    assert histograms.add(counts + jnp.uint32(2**24), exponent, jnp.array([1.5]))[0].max() == 2**24 + 2


@pytest.mark.parametrize("bins", [0, 2, 12, 8191])
def test_bins_that_cannot_be_merged_are_refused(bins):
    with pytest.raises(ValueError, match=f"bins {bins} is not a power of two from 4"):
        histograms.empty(bins)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([50.05, 90.05, 99.05, 99.95, 100.0]))
def test_the_percentile_is_numpys_to_a_bin(seed, percent):
    values = np.random.default_rng(seed).laplace(size=1000).astype(np.float32)
    values[:100] = 0
    counts, exponent = histogram(values, bins=1024)
    threshold = histograms.absolute_percentile(counts, exponent, jnp.uint32(1000), percent)
    expected = np.percentile(np.abs(values), percent, method="inverted_cdf")
    width = 2.0 ** (int(exponent) - 9)
    np.testing.assert_allclose(threshold, expected, atol=1.001 * width)


def test_the_percentile_of_mostly_zeros_is_zero():
    counts, exponent = histogram([0.0] * 11 + [5.0])
    assert histograms.absolute_percentile(counts, exponent, jnp.uint32(12), 90.0) == 0


@pytest.mark.parametrize(
    ("extremes", "expected"),
    [
        ((-3, 5), (-2, 2)),
        ((-1, 5), (-1, 2)),
        ((-1, 1), (-1, 1)),
        ((3, 5), (3, 3)),
        ((1, 5), (1, 2)),
        ((-5, -3), (-3, -3)),
    ],
)
def test_clipping_to_two_by_hand(extremes, expected):
    low, high = histograms.clipped(*map(jnp.float32, extremes), jnp.float32(2))
    assert (low, high) == expected


DATA = {
    "normal": lambda rng: rng.standard_normal(20_000),
    "laplace": lambda rng: rng.laplace(size=20_000),
    "rectified": lambda rng: np.maximum(rng.standard_normal(20_000), 0),
    "shifted": lambda rng: rng.standard_normal(20_000) + 4,
    "outlier": lambda rng: np.append(rng.standard_normal(20_000), [60.0, -25.0]),
}


def data(name):
    return DATA[name](np.random.default_rng(0)).astype(np.float32)


def rounding_error(values, low, high, bits, symmetric):
    """Returns the mean squared error of rounding `values` for the range, in float64."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    smallest, largest = -(2 ** (bits - 1)) + symmetric, 2 ** (bits - 1) - 1
    if symmetric:
        scale, zero = max(-low, high) / largest, 0
    else:
        scale = (high - low) / (largest - smallest)
        zero = np.clip(np.round(smallest - low / scale), smallest, largest)
    codes = np.clip(np.round(values.astype(np.float64) / scale) + zero, smallest, largest)
    return np.square((codes - zero) * scale - values).mean()


def fine(values):
    """Returns a histogram of `values` and its edges, cut to the extremes as a calibrator has them."""
    counts, exponent = histogram(values, bins=8192)
    edges = np.ldexp(np.arange(-4096, 4097, dtype=np.float32) / 4096, int(exponent))
    return counts, exponent, jnp.clip(jnp.asarray(edges), values.min(), values.max())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", ["normal", "shifted"])
def test_the_squared_error_is_that_of_the_values(name, bits, symmetric):
    values = data(name)
    counts, _, edges = fine(values)
    for part in (0.02, 0.3, 1.0):  # clipped to this part of the extremes
        low, high = part * min(values.min(), 0), part * values.max()
        expected = histograms.squared_error(counts, edges, jnp.float32(low), jnp.float32(high), bits, symmetric)
        np.testing.assert_allclose(expected, rounding_error(values, low, high, bits, symmetric), rtol=0.02)


def test_the_squared_error_inside_wide_bins_is_integrated():
    # Two bins hold values spread evenly over [-1, 0] and [0, 1], of which 5-bit rounding errs by scale**2 / 12.
    counts, edges = jnp.array([1000, 1000], jnp.uint32), jnp.array([-1.0, 0.0, 1.0])
    error = histograms.squared_error(counts, edges, jnp.float32(-1), jnp.float32(1), 5, True)
    np.testing.assert_allclose(error, (1 / 15) ** 2 / 12, rtol=1e-5)
    # Clipped to [-0.5, 0.5]: half of the values still err so, the others by their distance from 0.5.
    error = histograms.squared_error(counts, edges, jnp.float32(-0.5), jnp.float32(0.5), 5, True)
    np.testing.assert_allclose(error, 0.5 * (1 / 30) ** 2 / 12 + 0.5**3 / 3, rtol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", DATA)
def test_no_range_of_a_grid_has_a_smaller_error(name, bits, symmetric):
    values = data(name)
    counts, exponent, _ = fine(values)
    low, high = histograms.least_error_range(
        counts, exponent, jnp.float32(values.min()), jnp.float32(values.max()), bits, symmetric
    )
    assert min(values.min(), 0) <= low <= 0 <= high <= values.max()
    parts = np.exp2(-np.arange(0, 6, 0.5))
    pairs = [(p, p) for p in parts] if symmetric else [(p, q) for p in parts for q in parts]
    least = min(rounding_error(values, p * values.min(), q * values.max(), bits, symmetric) for p, q in pairs)
    assert rounding_error(values, low, high, bits, symmetric) <= 1.02 * least


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("peak", [2.0**-90, 2.0**90])
def test_the_unit_of_the_values_does_not_count(peak, symmetric):
    values = data("normal")
    for search in (histograms.least_error_range, histograms.least_divergence_range):
        ranges = []
        for unit in (1.0, peak):
            scaled = values * np.float32(unit)
            counts, exponent = histogram(scaled, bins=8192)
            low, high = search(counts, exponent, jnp.float32(scaled.min()), jnp.float32(scaled.max()), 4, symmetric)
            ranges.append((float(low) / unit, float(high) / unit))
        assert ranges[0] == ranges[1]


def divergence(counts, reach, low, high, bits, symmetric):
    """Returns Migacz's KL(P, Q) for the threshold `reach` bins from zero, in float64 with loops over the codes."""
    half = len(counts) // 2
    scale, zero = affine.affine_range(jnp.float32(low), jnp.float32(high), bits, symmetric)
    centres = jnp.asarray((np.arange(-half, half) + 0.5) / half, jnp.float32)
    codes = np.asarray(affine.quantize(centres, scale, zero, bits, symmetric))[half - reach : half + reach]
    inside = counts[half - reach : half + reach].astype(np.float64)
    if inside.sum() < counts.sum() / 2:
        return np.inf
    p, q = inside.copy(), np.zeros_like(inside)
    p[0] += counts[: half - reach].sum()
    p[-1] += counts[half + reach :].sum()
    for code in np.unique(codes):
        filled = (codes == code) & (inside > 0)
        q[filled] = inside[filled].mean() if filled.any() else 0
    q[(p > 0) & (q == 0)] = 1
    p, q = p / p.sum(), q / q.sum()
    return np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0]))


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (8, True), (3, False)])
@pytest.mark.parametrize("name", ["normal", "rectified", "outlier", "shifted"])
@pytest.mark.sampled(3)
def test_the_divergence_is_the_least_of_all_thresholds(name, bits, symmetric):
    values = data(name)
    counts, exponent = histogram(values, bins=2048)
    unit = 2.0 ** int(exponent)
    low, high = histograms.least_divergence_range(
        counts, exponent, jnp.float32(values.min()), jnp.float32(values.max()), bits, symmetric
    )
    found, tried = None, []
    for reach in [*range(2**bits // (1 + symmetric), 1024, 8), 1024]:
        ends = max(values.min() / unit, -reach / 1024), min(values.max() / unit, reach / 1024)
        tried.append(divergence(np.asarray(counts), reach, *ends, bits, symmetric))
        if np.allclose([low / unit, high / unit], ends):
            found = tried[-1] if found is None else found
    assert found is not None and found <= min(tried) + 1e-5
    if name == "outlier":
        assert high < 30


@pytest.mark.parametrize("search", [histograms.least_error_range, histograms.least_divergence_range])
def test_no_value_but_zeros_has_the_range_of_its_extremes(search):
    counts, exponent = histogram([0.0], bins=8192)
    assert search(counts, exponent, jnp.float32(0), jnp.float32(0), 8, False) == (0, 0)


def test_too_few_bins_for_the_codes_are_refused():
    counts, exponent = histogram([1.0])
    with pytest.raises(ValueError, match="64 bins are too few to tell the 256 codes of 8 bits apart"):
        histograms.least_divergence_range(counts, exponent, jnp.float32(0), jnp.float32(1), 8, True)
