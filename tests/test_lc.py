"""Checks the LC algorithm: its steps by hand, and that it ends where weights and compressed ones agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import chain, factorize, lc, prune, quantize
from jaxcompress.arrays import Masked, densify

W = jnp.float32([[3.0, -1.0], [0.5, 2.0]])
PARAMS = {"fc": {"kernel": W, "bias": jnp.float32([1.0, -1.0])}}


def keep_half(params, strength):
    return prune.magnitude("fc/kernel", 0.5).init(params)


def test_the_start_by_hand():
    constraint = lc.direct(keep_half, PARAMS)
    assert list(constraint.compressed) == ["fc/kernel"]
    np.testing.assert_array_equal(constraint.compressed["fc/kernel"], [[3.0, 0.0], [0.0, 2.0]])
    np.testing.assert_array_equal(constraint.multipliers["fc/kernel"], jnp.zeros((2, 2)))


def test_the_penalty_and_its_slope_by_hand():
    constraint = lc.direct(keep_half, PARAMS)._replace(multipliers={"fc/kernel": jnp.float32([[0.2, 0.0], [0.0, 0.0]])})
    # w - D - l/m = [[-0.4, -1], [0.5, 0]] with m = 0.5
    assert float(lc.penalty(PARAMS, constraint, 0.5)) == pytest.approx(0.25 * (0.16 + 1 + 0.25))
    slope = jax.grad(lambda p: lc.penalty(p, constraint, 0.5))(PARAMS)
    np.testing.assert_allclose(slope["fc"]["kernel"], [[-0.2, -0.5], [0.25, 0.0]], atol=1e-6)
    np.testing.assert_array_equal(slope["fc"]["bias"], [0.0, 0.0])


def test_the_steps_by_hand():
    first = lc.direct(keep_half, PARAMS)._replace(multipliers={"fc/kernel": jnp.float32([[0.0, 1.0], [0.0, 0.0]])})
    moved = {"fc": {"kernel": jnp.float32([[2.0, -1.5], [0.5, 1.0]]), "bias": PARAMS["fc"]["bias"]}}
    after = lc.compress(keep_half, moved, first, 0.5)
    # w - l/m = [[2, -3.5], [0.5, 1]], of which the two largest stay; then l - m (w - D)
    np.testing.assert_array_equal(after.shifted["fc/kernel"], [[2.0, -3.5], [0.5, 1.0]])
    np.testing.assert_array_equal(after.compressed["fc/kernel"], [[2.0, -3.5], [0.0, 0.0]])
    np.testing.assert_allclose(after.multipliers["fc/kernel"], [[0.0, 0.0], [-0.25, -0.5]])
    assert float(after.strength) == 0.5
    out = lc.result(keep_half, moved, after)
    assert isinstance(out["fc"]["kernel"], Masked) and out["fc"]["bias"] is moved["fc"]["bias"]
    np.testing.assert_array_equal(densify(out)["fc"]["kernel"], after.compressed["fc/kernel"])


@pytest.mark.parametrize("name", ["pruned", "shared", "low rank"])
def test_it_ends_at_the_least_loss_that_the_compression_allows(name):
    """The loss is quadratic with its least at no compressible weight, and a Hessian that is not the identity."""
    draw = np.random.default_rng(0).standard_normal
    x, goal = jnp.float32(draw((60, 4)) * np.float32([3.0, 1.0, 0.5, 2.0])), jnp.float32(draw((4, 3)))
    compress = {
        "pruned": lambda p, _: prune.magnitude("w", 0.5).init(p),
        "shared": lambda p, _: quantize.codebook("w", 1).init(p),
        "low rank": lambda p, _: factorize.svd("w", 1).init(p),
    }[name]

    def loss(params):
        return jnp.mean(jnp.square(x @ params["w"] - x @ goal))

    params = {"w": goal}
    constraint = lc.direct(compress, params)
    step = jax.jit(
        lambda p, c, m: jax.tree.map(lambda w, g: w - 0.05 * g, p, jax.grad(lambda p: loss(p) + lc.penalty(p, c, m))(p))
    )
    direct = float(loss({"w": constraint.compressed["w"]}))
    for strength in 1e-2 * 1.3 ** np.arange(28):
        for _ in range(200):
            params = step(params, constraint, strength)
        constraint = lc.compress(compress, params, constraint, float(strength))
    out = densify(lc.result(compress, params, constraint))
    np.testing.assert_allclose(out["w"], params["w"], atol=2e-2)
    assert float(loss(out)) < 0.95 * direct


def test_a_chain_compresses_each_weight_in_its_own_way():
    recipe = chain(prune.magnitude("a", 0.5), factorize.svd("b", 1))
    params = {"a": W, "b": jnp.float32(np.random.default_rng(0).standard_normal((4, 4))), "c": W}
    constraint = lc.direct(lambda p, _: recipe.init(p), params)
    assert sorted(constraint.compressed) == ["a", "b"]
    assert np.linalg.matrix_rank(np.asarray(constraint.compressed["b"]), tol=1e-4) == 1


def test_learned_ranks_grow_with_the_strength():
    matrix = jnp.diag(jnp.float32([4.0, 2.0, 1.0, 0.5]))
    # A rank costs 8 alpha and saves strength / 2 times its squared singular value.
    ranks = [factorize.penalized(0.1, strength)(matrix) for strength in (0.0, 0.09, 0.2, 0.5, 2.0, 7.0)]
    assert ranks == [0, 0, 1, 2, 3, 4]


def test_a_compression_that_compresses_nothing_is_refused():
    with pytest.raises(ValueError, match="leaves every weight as it is"):
        lc.direct(lambda params, _: params, PARAMS)


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan")])
def test_a_strength_that_is_none_is_named(strength):
    with pytest.raises(ValueError, match=f"strength={strength} of the LC algorithm must be above 0"):
        lc.compress(keep_half, PARAMS, lc.direct(keep_half, PARAMS), strength)


@pytest.mark.parametrize("numbers", [(-1.0, 1.0), (1.0, -1.0), (float("nan"), 1.0)])
def test_numbers_of_a_penalized_rank_below_zero_are_named(numbers):
    with pytest.raises(ValueError, match=f"alpha={numbers[0]} and strength={numbers[1]}"):
        factorize.penalized(*numbers)
