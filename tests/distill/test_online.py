"""Networks that are trained together teach each other; equal ones have nothing to learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import distill

A, B, C = (jax.random.normal(jax.random.key(seed), (4, 5)) for seed in range(3))
online = distill.online


def test_each_network_is_moved_by_its_own_row_alone():
    for row in range(3):
        slopes = jax.grad(lambda logits, row=row: online.mutual(logits)[row].sum())([A, B, C])
        moved = [bool(np.any(np.asarray(slope))) for slope in slopes]
        assert moved == [index == row for index in range(3)]


def test_equal_networks_teach_nothing():
    np.testing.assert_allclose(online.mutual([A, A, A]), np.zeros((3, 4)), atol=1e-6)
    np.testing.assert_allclose(online.ensemble(jnp.zeros((4, 2)), [A, A]), np.zeros((2, 4)), atol=1e-6)
    np.testing.assert_allclose(online.own_teacher([A, A]), np.zeros((1, 4)), atol=1e-6)


def test_a_gate_weighs_branches():
    gate = jnp.log(jnp.array([[3.0, 1.0]] * 4))
    np.testing.assert_allclose(online.gated(gate, [A, B]), 0.75 * A + 0.25 * B, rtol=1e-5, atol=1e-6)


def test_teachers_are_averaged_in_what_they_give():
    found = jax.nn.softmax(online.averaged([A, B, C], 2.0) / 2)
    np.testing.assert_allclose(found, sum(jax.nn.softmax(x / 2) for x in (A, B, C)) / 3, rtol=1e-5)
    np.testing.assert_allclose(jax.nn.softmax(online.averaged([A])), jax.nn.softmax(A), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: online.mutual([A]), "1 networks cannot teach each other"),
        (lambda: online.mutual([A, B[:, :4]]), "differ in shape"),
        (lambda: online.gated(jnp.zeros((4, 3)), [A, B]), r"a gate \(4, 3\) does not weigh 2 branches"),
        (lambda: online.own_teacher([A]), "1 exits have no earlier one"),
        (lambda: online.own_teacher([A, B], 0.0), "temperature 0.0 is not positive"),
        (lambda: online.averaged([]), "there is no teacher"),
        (lambda: online.averaged([A, B[:, :4]]), "differ in shape"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
