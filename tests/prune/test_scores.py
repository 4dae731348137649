"""Checks scores on models small enough to differentiate by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import densify, factorize, lift
from jaxcompress.arrays import Masked
from jaxcompress.prune import by_score, magnitude, scores

W = jnp.array([1.0, -2.0, 3.0])
CURVES = jnp.array([2.0, 5.0, -1.0])


def quadratic(params):
    """Half of a diagonal quadratic form, whose gradient is ``CURVES * w`` and whose Hessian is diagonal."""
    return 0.5 * jnp.sum(CURVES * densify(params)["w"] ** 2)


def test_scores_of_a_quadratic_by_hand():
    params = {"w": W}
    products = np.array([2.0, 20.0, -9.0])  # gradient times weight
    np.testing.assert_array_equal(scores.magnitude(params, "w")["w"], [1, 2, 3])
    np.testing.assert_allclose(scores.taylor(params, "w", quadratic)["w"], products**2)
    np.testing.assert_allclose(scores.snip(params, "w", quadratic)["w"], np.abs(products) / 31, rtol=1e-6)
    np.testing.assert_allclose(scores.grasp(params, "w", quadratic)["w"], [4, 100, 9])  # w * H @ (H @ w)


def test_fisher_by_hand():
    examples = {"x": jnp.array([[1.0, 0.0, 2.0], [3.0, 4.0, 0.0]]), "y": jnp.array([1.0, -1.0])}
    loss = lambda params, example: example["y"] * jnp.dot(example["x"], params["w"])
    expected = 0.5 * W**2 * jnp.array([(1 + 9) / 2, 16 / 2, 4 / 2])
    np.testing.assert_allclose(scores.fisher({"w": W}, "w", loss, examples)["w"], expected)


def test_grasp_counts_the_other_weights_of_the_hessian_and_has_either_sign():
    loss = lambda params: jnp.prod(params["a"]) * params["b"][0]
    params = {"a": jnp.array([2.0, -1.0]), "b": jnp.array([3.0])}
    gradient = np.array([-3.0, 6.0, -2.0])
    hessian = np.array([[0.0, 3.0, -1.0], [3.0, 0.0, 2.0], [-1.0, 2.0, 0.0]])
    found = scores.grasp(params, "a|b", loss)
    np.testing.assert_allclose(
        np.concatenate([found["a"], found["b"]]), [2.0, -1.0, 3.0] * (hessian @ gradient), rtol=1e-6
    )
    only = scores.grasp(params, "a", loss)["a"]  # of the matched weights alone
    np.testing.assert_allclose(only, [2.0, -1.0] * (hessian[:2, :2] @ gradient[:2]), rtol=1e-6)


def test_random_scores_are_drawn_by_the_key():
    params = {"a": jnp.ones(1000), "b": jnp.ones((20, 50))}
    one, two = (scores.random(params, "a|b", jax.random.key(seed)) for seed in (0, 1))
    assert one["b"].shape == (20, 50) and not np.array_equal(one["a"], one["b"].reshape(-1))
    assert not np.array_equal(one["a"], two["a"])
    masks = by_score("a|b", 0.9, one, allocation="global").init(params)
    counts = [int(masks[name].mask.sum()) for name in "ab"]
    assert sum(counts) == 200 and 70 < counts[0] < 130


def test_removed_weights_score_nothing_by_their_value_but_have_a_gradient():
    params = {"w": Masked(W, jnp.array([True, False, True]))}
    np.testing.assert_array_equal(scores.magnitude(params, "w")["w"], [1, 0, 3])
    loss = lambda tree: jnp.sum((lift(lambda p: p["w"] + 1)(tree)) ** 2)
    np.testing.assert_allclose(scores.snip(params, "w", loss)["w"], np.array([4, 0, 24]) / 28)


def test_scores_reach_into_factors():
    params = factorize.svd("w", 1).init({"w": jnp.outer(W, W)})
    loss = lambda tree: jnp.sum(densify(tree)["w"])
    found = scores.taylor(params, "w/u", loss)
    u, v = params["w"].u, params["w"].v
    np.testing.assert_allclose(found["w/u"], (u * jnp.sum(v)) ** 2, rtol=1e-5)


def test_half_precision_weights_have_scores_in_single():
    params = {"w": W.astype(jnp.bfloat16)}
    for found in (scores.magnitude(params, "w"), scores.snip(params, "w", lambda p: jnp.sum(p["w"] ** 2))):
        assert found["w"].dtype == jnp.float32


def flow(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"] + params["bias"]


def linear(params, x):
    return x @ params["a"] @ params["b"]


def test_synflow_in_one_round_by_hand():
    params = {"a": jnp.array([[1.0, -2.0], [3.0, 0.0]]), "b": jnp.array([[1.0], [-5.0]]), "bias": jnp.zeros(1)}
    found = scores.synflow(params, "a|b", linear, (1, 2), 0.5, rounds=1)
    np.testing.assert_allclose(found["a"], [[1, 10], [3, 0]])  # |a| times |b| of its output
    np.testing.assert_allclose(found["b"], [[4], [10]])  # |b| times the sum of its input's |a|


def test_synflow_prunes_in_rounds_as_a_loop_in_double_precision_does():
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((6, 5)), rng.standard_normal((5, 4))
    params = {"a": jnp.asarray(a, jnp.float32), "b": jnp.asarray(b, jnp.float32)}
    sparsity, rounds = 0.8, 7
    found = scores.synflow(params, "a|b", linear, (1, 6), sparsity, rounds)
    mask = np.ones(50, bool)
    for k in range(1, rounds + 1):
        kept = np.abs(np.concatenate([a.ravel(), b.ravel()])) * mask
        kept_a, kept_b = kept[:30].reshape(6, 5), kept[30:].reshape(5, 4)
        score = np.concatenate([(kept_a * kept_b.sum(1)).ravel(), (kept_b * kept_a.sum(0)[:, None]).ravel()])
        mask[:] = False
        mask[np.argsort(-score, kind="stable")[: round(50 * (1 - sparsity) ** (k / rounds))]] = True
    np.testing.assert_allclose(np.concatenate([found["a"].ravel(), found["b"].ravel()]), score, rtol=1e-5)
    masks = by_score("a|b", sparsity, found, allocation="global").init(params)
    np.testing.assert_array_equal(np.concatenate([masks["a"].mask.ravel(), masks["b"].mask.ravel()]), mask)
    assert mask.sum() == 10
    by_size = magnitude("a|b", sparsity, scope="global").init(params)["a"].mask
    assert np.any(np.ravel(by_size) != mask[:30])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scores.magnitude({"w": W}, "v"), "'v' matches no parameter"),
        (lambda: scores.snip({"w": jnp.arange(3)}, "w", quadratic), "w of dtype int32 cannot be pruned"),
        (lambda: scores.synflow({"a": W}, "a", flow, (1, 2), 1.0), r"sparsity 1.0 for pattern 'a' is not in \[0, 1\)"),
        (lambda: scores.synflow({"a": W}, "a", flow, (1, 2), 0.5, 0), "rounds 0"),
        (lambda: scores.synflow({"a": 0 * W}, "a", lambda p, x: p["a"], (1,), 0.5), "synaptic flow .* is 0"),
        (
            lambda: scores.synflow({"a": 2e38 * jnp.sign(W)}, "a", lambda p, x: p["a"], (1,), 0.5),
            "synaptic flow .* is inf",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
