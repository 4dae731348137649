"""Checks Hutchinson's estimator: exact where it must be, and right on average with the variance that it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.numerics.hessian import quadratic_forms, rademacher

POINT = {"a": jnp.array([0.3, -0.2, 0.5]), "b": jnp.array([[0.1, 0.4]])}


def coupled(point):
    """A function whose Hessian couples everything."""
    x = jnp.concatenate([point["a"], point["b"].reshape(-1)])
    return jnp.sum(jnp.tanh(jnp.outer(x, jnp.arange(1.0, 4.0))) ** 2) + jnp.prod(x[:4]) + jnp.sum(x) ** 3


def hessian(function, point):
    flat, restore = jax.flatten_util.ravel_pytree(point)
    return np.asarray(jax.hessian(lambda v: function(restore(v)))(flat), np.float64)


def test_directions_are_signs_and_differ_between_arrays_and_keys():
    tree = {"a": jnp.zeros(400), "b": jnp.zeros(400)}
    first, other = rademacher(tree, jax.random.key(0)), rademacher(tree, jax.random.key(1))
    for signs in jax.tree.leaves((first, other)):
        assert set(np.unique(signs)) == {-1, 1} and abs(np.mean(signs)) < 0.2
    assert abs(np.mean(first["a"] * first["b"])) < 0.2 and abs(np.mean(first["a"] * other["a"])) < 0.2


@pytest.mark.parametrize("seed", range(5))
def test_a_diagonal_hessian_is_exact_whatever_the_key(seed):
    weights = {"a": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array([[3.0, 0.0]])}

    def function(point):
        return sum(jnp.sum(weights[name] * x**2) for name, x in point.items())

    forms = quadratic_forms(function, POINT, jax.random.key(seed))
    assert forms["a"] == 2 * (1 - 2 + 0.5) and forms["b"] == 6


def test_mean_and_variance_are_those_of_the_exact_hessian():
    samples = 4000
    keys = jax.random.split(jax.random.key(0), samples)
    forms = jax.jit(jax.vmap(lambda key: quadratic_forms(coupled, POINT, key)))(keys)
    exact = hessian(coupled, POINT)
    for name, own in (("a", slice(0, 3)), ("b", slice(3, 5))):
        block = exact[own, own]
        off = np.sum(block**2) - np.sum(np.diag(block) ** 2)
        variance = 2 * off + np.sum(exact[own] ** 2) - np.sum(block**2)
        drawn = np.asarray(forms[name], np.float64)
        assert abs(drawn.mean() - np.trace(block)) < 4 * np.sqrt(variance / samples)
        np.testing.assert_allclose(drawn.var(), variance, rtol=0.15)
        assert variance > 0.01


def test_one_sign_of_one_weight_is_its_second_derivative():
    found = quadratic_forms(lambda x: jnp.sum(jnp.sin(x)), jnp.array([0.7]), jax.random.key(3))
    np.testing.assert_allclose(found, -np.sin(0.7), rtol=1e-6)
