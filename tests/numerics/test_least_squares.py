"""Checks least squares from sums against NumPy on the examples themselves."""

import numpy as np
import pytest

from jaxcompress.numerics.least_squares import minimizer


def sums(x, y):
    return (x.T @ x).astype(np.float32), (x.T @ y).astype(np.float32)


def test_the_minimizer_is_that_of_the_examples():
    draws = np.random.default_rng(0)
    x, y = draws.normal(size=(50, 6)), draws.normal(size=(50, 3))
    np.testing.assert_allclose(minimizer(*sums(x, y)), np.linalg.lstsq(x, y)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("copies", [1, 2])
def test_inputs_that_say_the_same_share_the_weight(copies):
    draws = np.random.default_rng(1)
    x = draws.normal(size=(40, 3))
    twice = np.concatenate([x, x[:, :copies]], axis=1)
    y = x @ np.array([[2.0], [4.0], [6.0]])
    wanted = [[1.0], [2.0 if copies == 2 else 4.0], [6.0], *[[1.0], [2.0]][:copies]]
    np.testing.assert_allclose(minimizer(*sums(twice, y)), wanted, rtol=1e-4)


def test_an_input_that_is_never_there_gets_no_weight():
    x = np.array([[1.0, 0], [2, 0]])
    np.testing.assert_allclose(minimizer(*sums(x, x @ [[3.0], [9.0]])), [[3], [0]], atol=1e-6)
