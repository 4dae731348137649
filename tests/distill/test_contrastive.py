"""Negatives are of other classes, memory takes the bytes it says, and contrast prefers an example's own teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import distill

STATE = distill.memory(jax.random.key(0), 12, 4)
X = jnp.eye(4)
CHOSEN = jnp.arange(4)
OTHERS = jnp.full((4, 3), 7)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=3, max_size=30).filter(lambda labels: len(set(labels)) > 1))
@pytest.mark.slow
def test_negatives_have_another_label(labels):
    labels = jnp.asarray(labels)
    chosen = jnp.arange(len(labels))
    found = distill.negatives(jax.random.key(len(labels)), labels, chosen, 40)
    assert found.shape == (len(labels), 40)
    assert not np.any(np.asarray(labels)[np.asarray(found)] == np.asarray(labels)[:, None])


def test_negatives_are_all_others_alike():
    labels = jnp.array([0, 1, 0, 2, 1, 2])
    found = np.asarray(distill.negatives(jax.random.key(0), labels, jnp.array([1]), 8000))[0]
    counts = np.bincount(found, minlength=6)
    assert counts[1] == counts[4] == 0 and np.all(np.abs(counts[[0, 2, 3, 5]] - 2000) < 200)


def test_memory_takes_eight_bytes_a_feature_and_starts_within_its_bounds():
    assert STATE.student.nbytes + STATE.teacher.nbytes == 8 * 12 * 4
    for bank in STATE[:2]:
        assert np.all(np.abs(bank) <= (4 / 3) ** -0.5 + 1e-6)
    assert np.any(np.asarray(STATE.student) != np.asarray(STATE.teacher))


def test_constants_are_set_by_the_first_batch_alone():
    _, first = distill.crd(STATE, X, X, CHOSEN, OTHERS)
    _, second = distill.crd(first, -X, -X, CHOSEN, OTHERS)
    assert first.student_constant > 0 and first.teacher_constant > 0
    assert (second.student_constant, second.teacher_constant) == (first.student_constant, first.teacher_constant)


def test_the_loss_falls_as_an_example_comes_to_its_own_teacher():
    known = distill.Memory(jnp.tile(X, (3, 1)), jnp.tile(X, (3, 1)), jnp.float32(12), jnp.float32(12))
    own, other = (distill.crd(known, x, x, CHOSEN, (CHOSEN[:, None] + 1) % 4)[0] for x in (X, jnp.roll(X, 1, axis=0)))
    assert np.all(np.asarray(own) < np.asarray(other))


def test_no_slope_reaches_the_memory():
    def loss(state):
        return distill.crd(state, X, X, CHOSEN, OTHERS)[1].student.sum()

    assert not np.any(np.asarray(jax.grad(loss)(STATE).student))


def test_in_batch_by_hand():
    # Cosines are one for an example's own teacher and zero for the three others.
    np.testing.assert_allclose(distill.in_batch(X, 5 * X, temperature=1.0), np.full(4, np.log(np.e + 3) - 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distill.memory(jax.random.key(0), 0, 4), "examples 0 is not positive"),
        (lambda: distill.negatives(jax.random.key(0), CHOSEN, CHOSEN, 0), "number 0 is not positive"),
        (lambda: distill.crd(STATE, X, X[:, :3], CHOSEN, OTHERS), "differ in shape"),
        (lambda: distill.crd(STATE, X[:, :3], X[:, :3], CHOSEN, OTHERS), r"\(4, 3\) do not fit a memory \(12, 4\)"),
        (lambda: distill.crd(STATE, X, X, CHOSEN, OTHERS, momentum=1.0), r"momentum 1.0 is not in \[0, 1\)"),
        (lambda: distill.crd(STATE, X, X, CHOSEN, OTHERS, temperature=0), "temperature 0 is not positive"),
        (lambda: distill.in_batch(X, X, temperature=-0.1), "temperature -0.1 is not positive"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
