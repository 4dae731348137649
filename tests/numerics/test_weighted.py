"""Checks the weighted decomposition: no other factors of that rank leave less error in the products."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.numerics.factors import truncated_svd
from jaxcompress.numerics.weighted import weighted_svd

DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((200, 12)) @ np.diag(np.geomspace(10, 0.1, 12)) @ DRAW.standard_normal((12, 12))
W = DRAW.standard_normal((12, 8))


def product_error(u, v) -> float:
    return float(np.sum((X @ W - X @ (np.asarray(u, np.float64) @ np.asarray(v, np.float64))) ** 2))


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_the_error_of_the_products_is_the_least_there_is(rank):
    u, v = weighted_svd(jnp.asarray(W, jnp.float32), rank, jnp.asarray(X.T @ X, jnp.float32))
    # The products have rank at most `rank`, so their tail energy bounds the error; reduced-rank regression attains it.
    bound = float(np.sum(np.linalg.svd(X @ W, compute_uv=False)[rank:] ** 2))
    assert product_error(u, v) == pytest.approx(bound, rel=1e-3)
    assert product_error(u, v) <= product_error(*truncated_svd(jnp.asarray(W, jnp.float32), rank)) * (1 + 1e-5)


def test_either_factor_is_the_least_squares_solution_for_the_other():
    u, v = (np.asarray(f, np.float64) for f in weighted_svd(jnp.float32(W), 3, jnp.float32(X.T @ X)))
    best_v = np.linalg.lstsq(X @ u, X @ W, rcond=None)[0]
    np.testing.assert_allclose(v, best_v, rtol=1e-3, atol=1e-3)


def test_a_diagonal_is_a_metric_too():
    weights = np.float32(np.geomspace(4, 0.1, 12))
    whole = weighted_svd(jnp.float32(W), 3, jnp.diag(weights))
    diagonal = weighted_svd(jnp.float32(W), 3, jnp.asarray(weights))
    np.testing.assert_allclose(whole[0] @ whole[1], diagonal[0] @ diagonal[1], rtol=1e-3, atol=1e-4)


def test_the_identity_weighs_nothing():
    u, v = weighted_svd(jnp.float32(W), 3, jnp.eye(12))
    plain = truncated_svd(jnp.float32(W), 3)
    np.testing.assert_allclose(u @ v, plain[0] @ plain[1], rtol=1e-4, atol=1e-5)
