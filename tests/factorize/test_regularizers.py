"""Checks the penalties against numpy, and their slopes against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import factorize

DRAW = np.random.default_rng(0).standard_normal


def test_the_nuclear_norm_is_the_sum_of_singular_values():
    params = {"a": jnp.float32(DRAW((6, 4))), "b": jnp.float32(DRAW((3, 3, 2, 5)))}
    matrices = [np.asarray(params["a"]), np.asarray(params["b"]).reshape(-1, 5)]
    expected = sum(np.linalg.svd(m, compute_uv=False).sum() for m in matrices)
    np.testing.assert_allclose(factorize.nuclear_norm(params, "a|b"), expected, rtol=1e-5)


def test_its_slope_is_that_of_differences():
    weight, direction = jnp.float32(DRAW((6, 4))), jnp.float32(DRAW((6, 4)))
    norm = lambda t: factorize.nuclear_norm({"w": weight + t * direction}, "w")
    slope = jnp.sum(jax.grad(lambda w: 3.0 * factorize.nuclear_norm({"w": w}, "w"))(weight) * direction)
    np.testing.assert_allclose(slope / 3, (norm(1e-2) - norm(-1e-2)) / 2e-2, rtol=1e-2)


def test_its_slope_is_finite_at_equal_and_zero_singular_values():
    for weight in (jnp.eye(4), jnp.ones((4, 4)), jnp.zeros((4, 3))):
        slope = jax.grad(lambda w: factorize.nuclear_norm({"w": w}, "w"))(weight)
        assert bool(jnp.all(jnp.isfinite(slope))) and float(jnp.max(jnp.abs(slope))) <= 1 + 1e-5


def test_descent_on_it_lowers_the_rank():
    weight = jnp.float32(DRAW((8, 8)))
    for _ in range(200):
        weight = weight - 0.01 * jax.grad(lambda w: factorize.nuclear_norm({"w": w}, "w"))(weight)
    assert np.linalg.matrix_rank(np.asarray(weight), tol=0.05) < 8


def test_orthogonality_is_zero_for_the_factors_of_an_svd_and_falls_by_descent():
    params = factorize.svd("w", 3).init({"w": jnp.float32(DRAW((9, 8)))})
    assert float(factorize.orthogonality(params, "w")) == pytest.approx(0, abs=1e-9)
    skewed = {"w": jax.tree.map(lambda f: f + 0.5, params["w"])}
    before = float(factorize.orthogonality(skewed, "w"))
    slopes = jax.grad(lambda p: factorize.orthogonality(p, "w"))(skewed)
    moved = jax.tree.map(lambda f, s: f - 0.1 * s, skewed, slopes)
    assert 0 < float(factorize.orthogonality(moved, "w")) < before


def test_leaves_without_two_factors_are_named():
    with pytest.raises(ValueError, match="w is .*, not LowRank: it has no two factors"):
        factorize.orthogonality({"w": jnp.ones((3, 3))}, "w")
