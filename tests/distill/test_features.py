"""Losses of features are zero for equal ones, move the student alone, and refuse what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import distill


def maps(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape), jnp.float32)


X, Y = maps(3, 6, 6, 4), maps(3, 6, 6, 4, seed=1)
PARAMS = distill.variational(jax.random.key(0), 4, 4)
LOSSES = {
    "hint": distill.hint,
    "attention": distill.attention,
    "fsp": lambda s, t: distill.fsp((s, s[:, ::2, ::2]), (t, t[:, ::2, ::2])),
    "nst": distill.nst,
    "vid": lambda s, t: distill.vid(PARAMS, s, t),
    "activation_boundary": distill.activation_boundary,
    "overhaul": lambda s, t: distill.overhaul(s, t, jnp.full(4, -0.5)),
    "hierarchical": distill.hierarchical,
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_one_number_an_example_that_moves_the_student_alone(loss):
    assert jax.jit(loss)(X, Y).shape == (3,)
    ours, theirs = jax.grad(lambda s, t: loss(s, t).sum(), argnums=(0, 1))(X, Y)
    assert np.any(np.asarray(ours) != 0) and not np.any(np.asarray(theirs))


@pytest.mark.parametrize("name", ["hint", "attention", "fsp", "nst", "hierarchical"])
def test_equal_features_cost_nothing(name):
    np.testing.assert_allclose(LOSSES[name](X, X), np.zeros(3), atol=1e-6)


def test_features_beyond_their_margin_on_the_teachers_side_cost_nothing():
    far = jnp.where(X > 0, 1.0, -1.0)
    np.testing.assert_array_equal(distill.activation_boundary(far, X), np.zeros(3))
    np.testing.assert_allclose(distill.activation_boundary(-far, X), np.full(3, 4.0))


def test_a_student_below_a_teacher_that_is_cut_off_costs_nothing():
    deep = jnp.full_like(X, -9.0)
    np.testing.assert_array_equal(distill.overhaul(deep, -jnp.abs(X), jnp.full(4, -0.5)), np.zeros(3))


def test_dead_maps_have_finite_slopes():
    dead = jnp.zeros_like(X)
    for name in ("attention", "nst"):
        slope = jax.grad(lambda s, loss=LOSSES[name]: loss(s, Y).sum())(dead)
        assert np.all(np.isfinite(slope))


def test_margins_by_hand():
    # A standard normal below zero has the mean -sqrt(2 / pi); far above zero it is minus three deviations.
    found = distill.margins(jnp.array([1.0, -2.0, 0.1]), jnp.array([0.0, 0.0, 2.0]))
    np.testing.assert_allclose(found, [-np.sqrt(2 / np.pi), -2 * np.sqrt(2 / np.pi), -0.3], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distill.hint(X, maps(3, 6, 6, 5)), r"\(3, 6, 6, 4\) and teacher features \(3, 6, 6, 5\).*regressor"),
        (lambda: distill.attention(X, maps(4, 6, 6, 4)), "not of the same batch"),
        (lambda: distill.attention(maps(3, 8), maps(3, 8)), r"features \(3, 8\) are no maps"),
        (lambda: distill.attention(X, Y, power=0), "power 0 is not positive"),
        (lambda: distill.fsp((X, X), (Y, maps(3, 6, 6, 5))), r"flows \(3, 4, 4\) and teacher flows \(3, 4, 5\)"),
        (lambda: distill.nst(X, maps(2, 6, 6, 4)), "not of the same batch"),
        (lambda: distill.vid(PARAMS, maps(3, 6, 6, 5), Y), "do not have the 4 channels"),
        (lambda: distill.vid(PARAMS, X, maps(3, 5, 6, 4)), "differ in shape"),
        (lambda: distill.variational(jax.random.key(0), 4, 4, variance=0.0), "variance 0.0 is not above 1e-05"),
        (lambda: distill.activation_boundary(X, Y, margin=0), "margin 0 is not positive"),
        (lambda: distill.overhaul(X, Y, jnp.zeros(3)), "margins .* are not one for each of the 4 channels"),
        (lambda: distill.hierarchical(X, maps(3, 5, 6, 4)), "differ in shape"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
