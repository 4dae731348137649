"""Checks distillation from logits: the value, the frozen teacher, the temperature, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import distill
from jaxcompress.distill import kd

LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=15, max_size=15).map(
    lambda values: jnp.asarray(np.array(values, np.float32).reshape(3, 5))
)
TEMPERATURES = st.floats(0.5, 20, width=32).map(np.float32)
kd_jit = jax.jit(kd)


def gaussian(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(3 * np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_by_hand():
    # The teacher's softmax at temperature 1 is 3/4, 1/4, the student's 1/2, 1/2: 3/4 log(3/2) + 1/4 log(1/2).
    loss = kd(jnp.zeros(2), jnp.array([np.log(3.0), 0.0], jnp.float32), 1.0)
    np.testing.assert_allclose(loss, 0.75 * np.log(1.5) + 0.25 * np.log(0.5), rtol=1e-5)


def test_the_temperature_divides_logits_and_its_square_multiplies_the_loss():
    student, teacher = gaussian(4, 6), gaussian(4, 6, seed=1)
    np.testing.assert_allclose(kd(student, teacher, 5.0), 25 * kd(student / 5, teacher / 5, 1.0), rtol=1e-4)


def test_the_default_temperature_is_four():
    student, teacher = gaussian(4, 6), gaussian(4, 6, seed=1)
    np.testing.assert_array_equal(kd(student, teacher), kd(student, teacher, 4.0))


@settings(deadline=None, max_examples=50)
@given(LOGITS, TEMPERATURES)
def test_equal_logits_cost_nothing_and_pull_nowhere(logits, temperature):
    np.testing.assert_array_equal(kd_jit(logits, logits, temperature), np.zeros(3))
    slope = jax.grad(lambda student: kd_jit(student, logits, temperature).sum())(logits)
    np.testing.assert_allclose(slope, np.zeros((3, 5)), atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(LOGITS, LOGITS, TEMPERATURES)
def test_the_loss_is_finite_and_not_negative(student, teacher, temperature):
    loss = np.asarray(kd_jit(student, teacher, temperature))
    assert np.all(np.isfinite(loss)) and np.all(loss >= -1e-4 * temperature**2)


def test_the_gradient_is_the_difference_of_the_softened_outputs():
    # Hinton et al. 2015, eq. 2, times T**2: T (q - p).
    student, teacher, temperature = gaussian(6), gaussian(6, seed=1), 3.0
    slope = jax.grad(kd)(student, teacher, temperature)
    expected = temperature * (jax.nn.softmax(student / temperature) - jax.nn.softmax(teacher / temperature))
    np.testing.assert_allclose(slope, expected, atol=1e-5)


def test_no_gradient_reaches_the_teacher():
    slope = jax.grad(lambda teacher: kd(gaussian(4, 6), teacher).sum())(gaussian(4, 6, seed=1))
    np.testing.assert_array_equal(slope, np.zeros((4, 6)))


def test_a_shift_of_the_logits_changes_nothing():
    student, teacher = gaussian(4, 6), gaussian(4, 6, seed=1)
    np.testing.assert_allclose(kd(student + 7.0, teacher - 3.0), kd(student, teacher), rtol=1e-4)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_one_loss_per_example(batch):
    assert kd(gaussian(*batch, 5), gaussian(*batch, 5, seed=1)).shape == batch


def test_vmap_is_the_batch():
    student, teacher = gaussian(4, 6), gaussian(4, 6, seed=1)
    np.testing.assert_allclose(jax.vmap(kd)(student, teacher), kd(student, teacher), rtol=1e-6)


def test_temperatures_may_be_swept_in_one_program():
    student, teacher, temperatures = gaussian(4, 6), gaussian(4, 6, seed=1), jnp.array([0.5, 1.0, 8.0])
    swept = jax.jit(jax.vmap(kd, (None, None, 0)))(student, teacher, temperatures)
    np.testing.assert_allclose(swept, jnp.stack([kd(student, teacher, float(t)) for t in temperatures]), rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 5), (3, 6), (6,), (1, 4, 6)])
def test_shapes_that_differ_are_named(shape):
    with pytest.raises(ValueError, match=r"student logits \(4, 6\) and teacher logits \(.*\) differ in shape"):
        kd(gaussian(4, 6), gaussian(*shape))


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_named(temperature):
    with pytest.raises(ValueError, match=f"temperature {temperature!r} is not positive"):
        kd(gaussian(4, 6), gaussian(4, 6), temperature)


LABELS = jnp.array([0, 2, 1, 4])
LOSSES = {
    "dkd": lambda s, t: distill.dkd(s, t, LABELS),
    "dist": distill.dist,
    "nkd": lambda s, t: distill.nkd(s, t, LABELS),
    "standardized": lambda s, t: kd(distill.standardized(s), distill.standardized(t), 2.0),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_one_number_an_example_that_moves_the_student_alone(loss):
    student, teacher = gaussian(4, 6), gaussian(4, 6, seed=1)
    assert jax.jit(loss)(student, teacher).shape == (4,)
    ours, theirs = jax.grad(lambda s, t: loss(s, t).sum(), argnums=(0, 1))(student, teacher)
    assert np.any(np.asarray(ours) != 0) and not np.any(np.asarray(theirs))


def test_decoupled_losses_of_equal_weight_are_those_of_a_teacher_that_is_as_sure():
    # KD is TCKD + (1 - p of the label) NCKD (Zhao et al. 2022, eq. 6).
    student, teacher, temperature = gaussian(4, 6), gaussian(4, 6, seed=1), 3.0
    target = distill.dkd(student, teacher, LABELS, temperature=temperature, alpha=1.0, beta=0.0)
    others = distill.dkd(student, teacher, LABELS, temperature=temperature, alpha=0.0, beta=1.0)
    sure = jnp.take_along_axis(jax.nn.softmax(teacher / temperature), LABELS[:, None], 1)[:, 0]
    np.testing.assert_allclose(target + (1 - sure) * others, kd(student, teacher, temperature), rtol=1e-4)


@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_losses_are_finite_when_a_teacher_is_certain(size):
    student, teacher = gaussian(4, 6), size * 100 * jax.nn.one_hot(LABELS, 6)
    for loss in LOSSES.values():
        value, slope = jax.value_and_grad(lambda s, loss=loss: loss(s, teacher).sum())(student)
        assert np.isfinite(value) and np.all(np.isfinite(slope))


def test_standardized_logits_have_no_scale_and_no_shift():
    x = gaussian(4, 6)
    np.testing.assert_allclose(distill.standardized(5 * x + 3), distill.standardized(x), atol=1e-5)
    np.testing.assert_allclose(np.std(distill.standardized(x), axis=-1), np.ones(4), rtol=1e-5)


def test_a_teacher_made_by_hand_is_matched_by_what_it_gives():
    given = jax.nn.softmax(jnp.full((4, 6), 0.02 / 5) + (0.98 - 0.02 / 5) * jax.nn.one_hot(LABELS, 6))
    np.testing.assert_allclose(
        distill.teacher_free(jnp.log(given), LABELS, correct=0.98, temperature=1.0), np.zeros(4), atol=1e-6
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: distill.dkd(x, x[:, :5], LABELS), r"logits \(4, 6\) and teacher logits \(4, 5\) differ in shape"),
        (lambda x: distill.dkd(x, x, LABELS[:3]), r"labels are int32 \(3,\); logits \(4, 6\) need integers"),
        (lambda x: distill.nkd(x, x, LABELS.astype(jnp.float32)), r"labels are float32 \(4,\)"),
        (lambda x: distill.dkd(x, x, LABELS, temperature=0.0), "temperature 0.0 is not positive"),
        (lambda x: distill.dist(x, x, temperature=-1), "temperature -1 is not positive"),
        (lambda x: distill.teacher_free(x, LABELS, correct=0.1), "correct 0.1 is not above 1/6 and below 1"),
        (lambda x: distill.teacher_free(x, LABELS, correct=1.0), "correct 1.0 is not above 1/6 and below 1"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(gaussian(4, 6))
