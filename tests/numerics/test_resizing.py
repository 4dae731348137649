import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.numerics.resizing import average_pool_to, common_size, nearest_to

X = jnp.arange(2 * 5 * 4, dtype=jnp.float32).reshape(1, 5, 4, 2)


def test_places_are_averaged_whether_or_not_sizes_divide():
    out = average_pool_to(X, 2, 2)
    assert out.shape == (1, 2, 2, 2)
    np.testing.assert_allclose(out[0, 0, 1], X[0, 0:3, 2:4].mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(out[0, 1, 0], X[0, 2:5, 0:2].mean((0, 1)), rtol=1e-6)  # the middle row counts twice
    assert average_pool_to(X, 5, 4) is X


def test_nearest_places_are_repeated_or_left_out():
    np.testing.assert_array_equal(nearest_to(X, 10, 4)[0, :, 0, 0], np.repeat(X[0, :, 0, 0], 2))
    np.testing.assert_array_equal(nearest_to(X, 2, 4)[0, :, 0, 0], X[0, [0, 2], 0, 0])


def test_the_larger_comes_to_the_smaller_along_each_axis():
    one, other = common_size(X, jnp.ones((1, 3, 6, 5)))
    assert one.shape == (1, 3, 4, 2) and other.shape == (1, 3, 4, 5)


@pytest.mark.parametrize("size", [(6, 4), (0, 4), (5, 5)])
def test_more_places_than_there_are_are_refused(size):
    with pytest.raises(ValueError, match=rf"maps of 5 x 4 cannot be pooled to {size[0]} x {size[1]}"):
        average_pool_to(X, *size)
