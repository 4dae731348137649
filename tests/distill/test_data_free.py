"""Losses of images without data, by hand, and images made by descending them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxcompress as jc

free = jc.distill.data_free


def test_flat_images_have_no_variation_and_a_step_its_own():
    assert free.total_variation(jnp.ones((2, 4, 4, 3))) == 0
    step = jnp.zeros((1, 2, 2, 1)).at[:, :, 1].set(3.0)  # two pairs across, and one on each diagonal
    np.testing.assert_allclose(free.total_variation(step), 3 * np.sqrt(2) + 3 + 3, rtol=1e-6)


def test_classes_drawn_alike_balance_best():
    alike, one = 20 * jnp.eye(4), 20 * jnp.eye(4)[jnp.zeros(4, int)]
    np.testing.assert_allclose(free.balance(alike), -np.log(4), rtol=1e-4)
    np.testing.assert_allclose(free.balance(one), 0, atol=1e-5)


def test_who_agrees_does_not_compete():
    logits = 30 * jnp.eye(3)
    np.testing.assert_allclose(free.competition(logits, logits), np.ones(3), atol=1e-6)
    np.testing.assert_allclose(free.competition(logits, jnp.roll(logits, 1, 0)), np.full(3, 1 - np.log(2)), rtol=1e-4)


def test_statistics_of_other_layers_are_refused():
    one = {"bn1": (jnp.zeros(2), jnp.ones(2))}
    with pytest.raises(ValueError, match=r"statistics of \['bn1'\] are compared with those of \['bn2'\]"):
        free.normalization(one, {"bn2": one["bn1"]})


def test_images_are_drawn_to_the_statistics_of_a_teacher():
    """Noise that descends the statistics' loss, read by taps in an unmodified model, comes near to the data's."""

    class Teacher(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(4, (3, 3), name="conv")(x)
            return nn.Dense(3, name="fc")(nn.relu(nn.BatchNorm(use_running_average=True, name="bn")(x)).mean((1, 2)))

    noise = jax.random.normal(jax.random.key(0), (16, 5, 5, 2))
    variables = Teacher().init(jax.random.key(1), noise)
    running = {"bn": (jnp.full(4, 0.5), jnp.full(4, 2.0))}
    tapped = jc.taps(Teacher().apply, ["bn:input"])

    def loss(images):
        _, found = tapped(variables, images)
        return free.normalization(free.statistics({"bn": found["bn:input"]}), running)

    @jax.jit
    def made(images):
        optimiser = optax.adam(0.05)

        def step(state, _):
            images, moments = state
            value, slope = jax.value_and_grad(loss)(images)
            updates, moments = optimiser.update(slope, moments)
            return (optax.apply_updates(images, updates), moments), value

        return jax.lax.scan(step, (images, optimiser.init(images)), length=200)[1]

    with jax.numpy_dtype_promotion("standard"):
        values = made(noise)
    assert values[-1] < 0.1 * values[0]
