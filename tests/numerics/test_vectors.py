import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.numerics.vectors import length, unit


def test_lengths_and_directions():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(length(x), [[5.0], [0.0]])
    np.testing.assert_allclose(unit(x), [[0.6, 0.8], [0.0, 0.0]])
    np.testing.assert_allclose(unit(x, axis=0), [[1.0, 1.0], [0.0, 0.0]])


def test_zeros_have_finite_slopes():
    for function in (length, unit):
        assert np.all(np.isfinite(jax.grad(lambda x, f=function: f(x).sum())(jnp.zeros((2, 3)))))
