"""Checks masked weights with gradients of their own on tables worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.numerics.straight_through import by_movement, straight_through

W, MASK = jnp.array([1.0, -2.0, 3.0, -0.0]), jnp.array([True, False, False, True])
UPSTREAM = jnp.array([10.0, 20.0, 30.0, 40.0])


def test_values_are_those_of_the_mask_in_every_bit():
    expected = np.where(MASK, W, np.float32(0))
    for found in (straight_through(W, MASK, jnp.float32(0.5)), by_movement(W, UPSTREAM, MASK)):
        assert np.asarray(found).tobytes() == expected.tobytes()


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_gradients_pass_straight_and_removed_weights_decay(decay):
    slope = jax.jit(jax.grad(lambda w: jnp.sum(UPSTREAM * straight_through(w, MASK, jnp.float32(decay)))))(W)
    np.testing.assert_allclose(slope, [10, 20 - 2 * decay, 30 + 3 * decay, 40])


def test_scores_move_by_gradient_times_weight():
    weight, scores = jax.grad(lambda w, s: jnp.sum(UPSTREAM * by_movement(w, s, MASK)), (0, 1))(W, jnp.zeros(4))
    np.testing.assert_array_equal(weight, [10, 0, 0, 40])
    np.testing.assert_array_equal(scores, [10, -40, 90, 0])


def test_half_precision_stays():
    weight = W.astype(jnp.bfloat16)
    loss = lambda w, s: jnp.sum(by_movement(w, s, MASK) + straight_through(w, MASK, jnp.float32(0.5)))
    slopes = jax.grad(loss, (0, 1))(weight, jnp.zeros(4))
    assert (slopes[0].dtype, slopes[1].dtype) == (jnp.bfloat16, jnp.float32)
