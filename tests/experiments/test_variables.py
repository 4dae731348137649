"""Weights and running statistics are one tree, and come apart again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models import MLP
from experiments.variables import joined, on_weights, split, variables
from jaxcompress.paths import flatten

IMAGES = jnp.zeros((1, 2, 2, 1))


def initial(norm):
    return MLP((3,), 2, norm=norm).init(jax.random.key(0), IMAGES)


@pytest.mark.parametrize("norm", [True, False])
def test_what_was_joined_comes_apart(norm):
    given = initial(norm)
    params = joined(given)
    assert jax.tree.structure(variables(params)) == jax.tree.structure(given)
    weights, statistics = split(params)
    assert weights == given["params"] and statistics == {k: v for k, v in given.items() if k == "batch_stats"}
    assert weights | statistics == params


def test_paths_of_weights_are_those_without_statistics():
    assert set(flatten(joined(initial(False)))) == {"fc1/kernel", "fc1/bias", "fc2/kernel", "fc2/bias"}
    paths = set(flatten(joined(initial(True))))
    weights = {"fc1/kernel", "fc1_norm/scale", "fc1_norm/bias", "fc2/kernel", "fc2_norm/scale", "fc2_norm/bias"}
    assert weights < paths
    assert paths - weights == {f"batch_stats/fc{i}_norm/{name}" for i in (1, 2) for name in ("mean", "var")}


def test_other_collections_are_left_out():
    assert joined({"params": {"fc1": 1}, "cache": {"fc1": 2}}) == {"fc1": 1}


def test_function_on_weights_does_not_see_the_statistics():
    params = joined(initial(True))
    twice = on_weights(lambda weights: jax.tree.map(lambda a: a + 1, weights), params)
    np.testing.assert_array_equal(twice["fc1"]["kernel"], params["fc1"]["kernel"] + 1)
    assert twice["batch_stats"] is params["batch_stats"]
