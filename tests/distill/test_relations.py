"""Relations of a batch do not hang on what leaves them alone, and refuse another batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import distill

LOSSES = [
    distill.rkd_distance,
    distill.rkd_angle,
    distill.similarity,
    distill.correlation_congruence,
    distill.pkt,
]


def embeddings(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape), jnp.float32)


X, Y = embeddings(5, 4), embeddings(5, 2, 3)


@pytest.mark.parametrize("loss", LOSSES)
def test_one_number_an_example_that_moves_the_student_alone(loss):
    assert jax.jit(loss)(X, Y).shape == (5,)
    ours, theirs = jax.grad(lambda s, t: loss(s, t).sum(), argnums=(0, 1))(X, Y)
    assert np.any(np.asarray(ours) != 0) and not np.any(np.asarray(theirs))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_rotation_is_no_difference(loss):
    turn, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((4, 4)))
    np.testing.assert_allclose(loss(X @ jnp.asarray(turn, jnp.float32), X), np.zeros(5), atol=1e-6)


@pytest.mark.parametrize("loss", [distill.rkd_distance, distill.rkd_angle])
def test_a_shift_and_a_scale_are_no_difference(loss):
    np.testing.assert_allclose(loss(3 * X + 2, X), np.zeros(5), atol=1e-5)


def test_angles_by_hand():
    # In the first triangle the angle at the corner is right, in the second it is flat: cosines of 0 and of -1.
    corner, flat = jnp.array([[0.0, 0], [1, 0], [0, 1]]), jnp.array([[0.0, 0], [1, 0], [-1, 0]])
    at_corner = distill.rkd_angle(corner, flat)[0]
    np.testing.assert_allclose(at_corner, 2 * 0.5 / 9, rtol=1e-5)  # two of nine pairs, Huber's half each


@pytest.mark.parametrize("loss", LOSSES)
def test_two_examples_alike_have_finite_slopes(loss):
    twice = jnp.concatenate([X, X])
    slope = jax.grad(lambda s: loss(s, jnp.concatenate([Y, Y])).sum())(twice)
    assert np.all(np.isfinite(slope))


@pytest.mark.parametrize("loss", LOSSES)
def test_another_batch_is_refused(loss):
    with pytest.raises(ValueError, match=r"student embeddings \(5, 4\) and teacher embeddings \(4, 4\) are not of"):
        loss(X, X[:4])


def test_an_expansion_needs_a_positive_gamma_and_order():
    with pytest.raises(ValueError, match="gamma -1 is not positive"):
        distill.correlation_congruence(X, Y, gamma=-1)
    with pytest.raises(ValueError, match="order 0 is not positive"):
        distill.correlation_congruence(X, Y, order=0)
