"""Means of activated normals, against their integrals."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from jaxcompress.numerics.normal import clipped_mean, rectified_mean

MOMENTS = [(0.0, 1.0), (1.5, 0.5), (-2.0, 1.0), (-0.3, 4.0), (5.0, 0.1), (8.0, 3.0)]


def integral(activation, mean, deviation):
    density = lambda x: activation(x) * stats.norm.pdf(x, mean, deviation)
    breaks = sorted({-40.0, 0.0, 6.0, mean - 8 * deviation, mean, mean + 8 * deviation, 40.0})
    return sum(integrate.quad(density, a, b)[0] for a, b in zip(breaks, breaks[1:], strict=False))


@pytest.mark.parametrize(("mean", "deviation"), MOMENTS)
def test_means_are_the_integrals(mean, deviation):
    given_ = jnp.float32(mean), jnp.float32(deviation)
    np.testing.assert_allclose(
        rectified_mean(*given_), integral(lambda x: max(x, 0), mean, deviation), rtol=1e-5, atol=1e-6
    )
    for low, high in ((0.0, 6.0), (-1.0, 2.0)):
        expected = integral(lambda x, low=low, high=high: np.clip(x, low, high), mean, deviation)
        np.testing.assert_allclose(clipped_mean(*given_, low, high), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("mean", "deviation"), MOMENTS)
def test_clipped_means_are_the_four_terms_of_the_paper(mean, deviation):
    a, b = 0.0, 6.0
    alpha, beta = (a - mean) / deviation, (b - mean) / deviation
    pdf, cdf = stats.norm.pdf, stats.norm.cdf
    inside = mean * (cdf(beta) - cdf(alpha)) + deviation * (pdf(alpha) - pdf(beta))
    expected = inside + a * cdf(alpha) + b * (1 - cdf(beta))
    np.testing.assert_allclose(clipped_mean(jnp.float32(mean), jnp.float32(deviation), a, b), expected, rtol=1e-4)


@given(st.floats(-50, 50, width=32), st.floats(0, 2.0**-100, width=32))
def test_hardly_any_deviation_is_a_constant(mean, deviation):
    given_ = jnp.float32(mean), jnp.float32(deviation)
    np.testing.assert_allclose(rectified_mean(*given_), max(mean, 0), rtol=1e-6, atol=1e-29)
    np.testing.assert_allclose(clipped_mean(*given_, 0.0, 6.0), np.clip(mean, 0, 6), rtol=1e-5, atol=1e-5)
