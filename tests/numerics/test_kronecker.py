"""Checks the nearest sum of Kronecker products against numpy's."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.numerics.kronecker import kronecker, rearranged

DRAW = np.random.default_rng(0)


def whole(factors):
    a, b = (np.asarray(factor, np.float64) for factor in factors)
    return sum(np.kron(*pair) for pair in zip(a, b, strict=True))


@pytest.mark.parametrize("terms", [1, 2])
def test_sums_of_products_come_back(terms):
    products = [(DRAW.standard_normal((2, 3)), DRAW.standard_normal((4, 5))) for _ in range(terms)]
    matrix = sum(np.kron(*pair) for pair in products)
    found = kronecker(jnp.asarray(matrix, jnp.float32), (2, 3), terms)
    assert (found[0].shape, found[1].shape) == ((terms, 2, 3), (terms, 4, 5))
    np.testing.assert_allclose(whole(found), matrix, atol=1e-4)


def test_a_product_is_of_rank_one_when_rearranged():
    a, b = DRAW.standard_normal((2, 3)), DRAW.standard_normal((4, 5))
    expected = np.outer(a.reshape(-1), b.reshape(-1))
    np.testing.assert_allclose(rearranged(jnp.asarray(np.kron(a, b), jnp.float32), (2, 3)), expected, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 3])
def test_the_error_is_the_tail_of_what_is_rearranged(rank):
    matrix = jnp.asarray(DRAW.standard_normal((8, 15)), jnp.float32)
    tail = np.linalg.svd(np.asarray(rearranged(matrix, (2, 3))), compute_uv=False)[rank:]
    error = np.sum((whole(kronecker(matrix, (2, 3), rank)) - np.asarray(matrix)) ** 2)
    assert error == pytest.approx(np.sum(tail**2), rel=1e-4)


def test_a_window_belongs_to_the_second_factor():
    kernel = DRAW.standard_normal((3, 3, 4, 6))
    a, b = kronecker(jnp.asarray(kernel, jnp.float32), (2, 2), 4)
    assert (a.shape, b.shape) == ((4, 2, 2), (4, 3, 3, 2, 3))
    np.testing.assert_allclose(np.einsum("rac,rhwbd->hwabcd", a, b).reshape(kernel.shape), kernel, atol=1e-4)
