"""Checks the canonical polyadic decomposition: exact where it can be, never worse by another sweep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.numerics.cp import composed, cp

DRAW = np.random.default_rng(0)
FACTORS = [DRAW.standard_normal((size, 2)) for size in (3, 3, 5, 6)]
LOW = np.einsum("ar,br,cr,dr->abcd", *FACTORS)


def test_factors_compose_to_the_sum_of_outer_products():
    np.testing.assert_allclose(composed([jnp.asarray(f, jnp.float32) for f in FACTORS]), LOW, rtol=1e-4, atol=1e-4)


def test_a_tensor_of_the_rank_comes_back_and_its_error_is_the_one_told():
    fits = [cp(jnp.asarray(LOW, jnp.float32), 2, jax.random.key(seed)) for seed in range(4)]
    best = min(fits, key=lambda fit: float(fit.error))
    np.testing.assert_allclose(composed(best.factors), LOW, atol=1e-2 * np.abs(LOW).max())
    for fit in fits:
        missed = np.linalg.norm(np.asarray(composed(fit.factors)) - LOW) / np.linalg.norm(LOW)
        assert float(fit.error) == pytest.approx(missed, abs=1e-4)


def test_rank_one_is_found_by_power_iteration_too():
    """Of a matrix the best rank one is the leading singular triple."""
    matrix = DRAW.standard_normal((6, 7))
    u, s, vt = np.linalg.svd(matrix)
    fit = cp(jnp.asarray(matrix, jnp.float32), 1, jax.random.key(0), 200)
    np.testing.assert_allclose(composed(fit.factors), s[0] * np.outer(u[:, 0], vt[0]), atol=1e-3)
    assert float(fit.largest) == pytest.approx(s[0] / np.linalg.norm(s), abs=1e-4)


def test_more_sweeps_are_never_worse_and_columns_share_their_norm():
    tensor = jnp.asarray(DRAW.standard_normal((3, 3, 8, 8)), jnp.float32)
    fits = [cp(tensor, 4, jax.random.key(1), sweeps) for sweeps in (1, 5, 25)]
    errors = [float(fit.error) for fit in fits]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1
    norms = np.stack([np.linalg.norm(factor, axis=0) for factor in fits[-1].factors])
    np.testing.assert_allclose(norms, np.broadcast_to(norms[:1], norms.shape), rtol=1e-3)


def test_the_key_decides():
    tensor = jnp.asarray(LOW, jnp.float32)
    one, same, other = (cp(tensor, 2, jax.random.key(seed), 3) for seed in (0, 0, 1))
    for a, b in zip(one.factors, same.factors, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(np.asarray(one.factors[0]) != np.asarray(other.factors[0]))
