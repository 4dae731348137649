"""Checks the penalty on the scales of normalizations, and network slimming as a whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from experiments import models
from jaxcompress.prune import importance, select, slimming_penalty
from tests.prune.coupled import variables_of

PARAMS = {"norm": {"scale": jnp.asarray([1.5, -2.0, 0.0]), "bias": jnp.ones(3)}, "scale": jnp.asarray([-0.5])}


def test_the_penalty_and_its_subgradient_by_hand():
    assert float(slimming_penalty(PARAMS, strength=0.1)) == pytest.approx(0.4)
    assert float(slimming_penalty(PARAMS, "norm/scale")) == pytest.approx(3.5)
    gradient = jax.grad(lambda p: slimming_penalty(p, strength=2.0))(PARAMS)
    np.testing.assert_array_equal(gradient["norm"]["scale"], [2, -2, 0])
    np.testing.assert_array_equal(gradient["norm"]["bias"], [0, 0, 0])
    assert float(gradient["scale"][0]) == -2


def test_the_strength_may_be_traced():
    values = jax.vmap(lambda s: slimming_penalty(PARAMS, strength=s))(jnp.asarray([0.0, 1.0]))
    np.testing.assert_allclose(values, [0, 4])


def test_a_pattern_without_a_match_is_refused():
    with pytest.raises(ValueError, match="pattern 'gamma' matches no parameter"):
        slimming_penalty(PARAMS, "gamma")


def test_one_threshold_cuts_the_scales_of_the_whole_model():
    model = models.DSCNN(width=6, blocks=2, norm=True)
    x = jnp.zeros((1, 49, 10, 1))
    variables = variables_of(model, x)
    draws = np.random.default_rng(0)
    variables = jc.paths.rewrite(variables, ".*/scale", lambda _, s: jnp.asarray(draws.normal(size=s.shape), s.dtype))
    channels = jc.channels(model.apply, variables, x)
    scores = importance.norm_scale(variables, channels)
    kept = select(scores, channels, 0.5, scope="global", normalize="none")
    every = np.concatenate([np.asarray(score) for score in scores.values()])
    threshold = np.sort(every)[len(every) // 2]
    assert {n: m.tolist() for n, m in kept.items()} == {n: (s >= threshold).tolist() for n, s in scores.items()}
