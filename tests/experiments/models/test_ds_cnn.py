"""Dropout of the keyword spotter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models import DSCNN
from tests.experiments.models import draws


@pytest.mark.parametrize("dropout", [(0.5, 0.0), (0.0, 0.5)])
def test_dropout_acts_in_training_alone_and_follows_its_key(dropout):
    model, x = DSCNN(width=8, blocks=1, dropout=dropout, norm=False), jnp.ones((2, 49, 10, 1))
    variables = draws.variables(model, x.shape[1:])
    run = lambda seed: np.asarray(model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(seed)}))
    np.testing.assert_array_equal(run(1), run(1))
    assert np.any(run(1) != run(2))
    dry = DSCNN(width=8, blocks=1, norm=False)
    np.testing.assert_array_equal(model.apply(variables, x), dry.apply(variables, x, train=True))
