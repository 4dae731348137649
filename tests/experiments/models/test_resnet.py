"""Shortcuts and depths of the residual networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models import ResNet, ResNet8
from experiments.models.blocks import batch_norm
from experiments.models.resnet import ResidualBlock
from tests.experiments.models import draws


@pytest.fixture
def x():
    return draws.normal(2, 6, 4, 3)


def through_the_shortcut(x, shortcut, strides, features):
    """Runs a block whose 3x3 kernels are zero, so that the shortcut alone is left; returns output and parameters."""
    block = ResidualBlock(features, None, shortcut, strides)
    params = draws.variables(block, x.shape[1:])["params"]
    zeroed = {name: jax.tree.map(jnp.zeros_like, layer) for name, layer in params.items() if name != "shortcut"}
    return np.asarray(block.apply({"params": {**params, **zeroed}}, x)), params


def test_identity_shortcut_takes_every_second_pixel_and_appends_zeros(x):
    found, params = through_the_shortcut(x, "identity", 2, 5)
    assert set(params) == {"conv1", "conv2"}
    np.testing.assert_array_equal(found[..., :3], np.maximum(x[:, ::2, ::2], 0))
    np.testing.assert_array_equal(found[..., 3:], np.zeros((2, 3, 2, 2)))


def test_projection_shortcut_is_a_strided_product(x):
    found, params = through_the_shortcut(x, "projection", 2, 5)
    kernel, bias = (np.asarray(params["shortcut"][part], np.float64) for part in ("kernel", "bias"))
    expected = np.maximum(np.asarray(x, np.float64)[:, ::2, ::2] @ kernel[0, 0] + bias, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_normalized_shortcut_has_the_normalization_of_the_block(x):
    block = ResidualBlock(5, batch_norm(True, train=False), "normalized", bias=False)
    params = draws.shapes(block, x.shape[1:])["params"]
    assert set(params["shortcut"]) == {"kernel"} and set(params["shortcut_norm"]) == {"scale", "bias"}


@pytest.mark.parametrize("stem", [0, 5])
def test_impossible_stems_are_refused(stem):
    with pytest.raises(ValueError, match=f"stem={stem}: it has from 1 to width=4"):
        ResNet(8, width=4, stem=stem)


@pytest.mark.parametrize("shortcut", ["identity", "projection", "normalized"])
def test_a_block_that_keeps_the_shape_keeps_its_input(x, shortcut):
    found, params = through_the_shortcut(x, shortcut, 1, 3)
    assert set(params) == {"conv1", "conv2"}
    np.testing.assert_array_equal(found, np.maximum(x, 0))


@pytest.mark.parametrize("depth", [8, 20, 32])
def test_depth_counts_the_layers(depth):
    model = ResNet(depth)
    assert len(model.layers) == depth and model.layers[0] == "stem" and model.layers[-1] == "fc"


@pytest.mark.parametrize("depth", [2, 0, -4, 9, 18, 21])
def test_impossible_depths_are_refused(depth):
    with pytest.raises(ValueError, match=f"depth={depth}: the depth is 6n . 2"):
        ResNet(depth)


@pytest.mark.parametrize(("model", "bias"), [(ResNet8(), True), (ResNet(8), False)])
def test_biases_before_a_normalization_are_as_published(model, bias):
    params = draws.shapes(model, (32, 32, 3))["params"]
    assert ("bias" in params["stem"]) == bias
