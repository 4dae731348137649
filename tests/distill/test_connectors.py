"""Layers between a student and its teacher keep places, change channels, and refuse others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import distill

KEY = jax.random.key(0)
MAPS = jax.random.normal(jax.random.key(1), (5, 6, 6, 4))


def test_a_regressor_of_two_numbers_is_linear():
    params = distill.regressor(KEY, 4, 7)
    both = distill.regress(params, 2 * MAPS) - distill.regress(params, MAPS)
    np.testing.assert_allclose(both, distill.regress(params, MAPS), rtol=1e-4, atol=1e-5)
    assert distill.regress(params, MAPS).shape == (5, 6, 6, 7) and distill.regress(params, MAPS[0, 0, 0]).shape == (7,)


def test_a_connector_normalizes_by_the_batch():
    out = np.asarray(distill.connect(distill.connector(KEY, 4, 7, size=3), MAPS))
    np.testing.assert_allclose(out.mean((0, 1, 2)), np.zeros(7), atol=1e-5)
    np.testing.assert_allclose(out.std((0, 1, 2)), np.ones(7), rtol=1e-3)


def test_a_paraphraser_comes_back_to_its_channels():
    params = distill.paraphraser(KEY, 4, rate=0.75)
    assert distill.translated(params["encoder"], MAPS).shape == (5, 6, 6, 3)
    assert distill.reconstruction(params, MAPS).shape == (5,)
    assert distill.translated(distill.translator(KEY, 4, 3), MAPS).shape == (5, 6, 6, 3)


def test_fusions_take_stages_of_any_size():
    stages = [MAPS, jnp.ones((5, 3, 3, 5))]
    teacher = [jnp.ones((5, 4, 4, 8)), jnp.ones((5, 5, 5, 9))]  # smaller, and larger than the student's
    assert distill.review(distill.fusions(KEY, [4, 5], [8, 9], width=6), stages, teacher).shape == (5,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distill.regressor(KEY, 4), r"channels \(4,\) are not two or more"),
        (lambda: distill.regressor(KEY, 4, 0), r"channels \(4, 0\) are not two or more positive"),
        (lambda: distill.regress(distill.regressor(KEY, 3, 7), MAPS), r"\(5, 6, 6, 4\) do not have the 3 channels"),
        (lambda: distill.connect(distill.connector(KEY, 3, 7), MAPS), r"\(5, 6, 6, 4\) do not have the 3 channels"),
        (lambda: distill.connector(KEY, 3, 0), "3 to 0 channels"),
        (lambda: distill.paraphraser(KEY, 4, rate=0.1), "rate 0.1 of 4 channels leaves no factor"),
        (lambda: distill.factor_transfer(MAPS, MAPS[..., :3]), "the translator makes as many as the paraphraser"),
        (lambda: distill.fusions(KEY, [4], [4, 5], width=3), "do not pair up"),
        (lambda: distill.review(distill.fusions(KEY, [4], [4], width=3), [MAPS] * 2, [MAPS] * 2), "2 stages .* not 1"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
