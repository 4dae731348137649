"""Checks that factors which cost more than they save are found, by counted and by measured cost."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress import factorize
from jaxcompress.arrays import LowRank, Tucker2

DRAW = np.random.default_rng(0)
PARAMS = {
    "strided": jnp.asarray(DRAW.standard_normal((3, 3, 8, 8)), jnp.float32),
    "fc": jnp.asarray(DRAW.standard_normal((8, 32)), jnp.float32),
}
X = jnp.ones((1, 16, 16, 8))


def apply(params, x):
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    return lax.conv_general_dilated(x, params["strided"], (4, 4), "SAME", **options) @ params["fc"]


def test_a_stride_makes_the_factor_before_it_too_dear():
    recipe = factorize.tucker2("strided", (6, 6))
    factored = factorize.svd("fc", 2).init(recipe.init(PARAMS))
    assert isinstance(factored["strided"], Tucker2)  # 420 weights for 576
    cost = factorize.multiply_adds(apply, X)
    assert cost(PARAMS) == 16 * (576 + 256)
    with pytest.warns(factorize.Declined, match="strided stays as it is: the model would cost 22336 with its factors"):
        kept = factorize.paying(PARAMS, factored, cost)  # 256 * 48 + 16 * (324 + 48) + 4096
    assert kept["strided"] is PARAMS["strided"] and isinstance(kept["fc"], LowRank)


def test_factors_that_pay_stay():
    factored = factorize.svd("fc", 2).init(PARAMS)
    assert factorize.paying(PARAMS, factored, factorize.multiply_adds(apply, X))["fc"] is factored["fc"]


def test_seconds_are_those_of_calls():
    large, small = jnp.ones((600, 600)), jnp.ones((6, 6))
    measure = lambda w: factorize.seconds(
        lambda params, x: x @ params["w"] @ params["w"], jnp.ones((len(w), len(w))), repeats=5
    )
    assert measure(large)({"w": large}) > measure(small)({"w": small}) > 0
