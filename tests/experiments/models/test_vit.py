"""The vision transformer against the same formulas in float64."""

import jax
import numpy as np
import pytest

from experiments.models import ViT
from tests.experiments.models import draws

SMALL = ViT(classes=3, patch=2, width=8, depth=2, heads=2, hidden=12)


@pytest.fixture(scope="module")
def small():
    x = draws.normal(2, 4, 6, 3)
    return draws.variables(SMALL, x.shape[1:])["params"], x


def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def layer_norm(layer, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attention(layer, tokens, heads):
    """Attends within one image, tokens (tokens, width), head after head."""
    query, key, value = (np.split(dense(layer[name], tokens), heads, axis=1) for name in ("query", "key", "value"))
    mixed = []
    for q, k, v in zip(query, key, value, strict=True):
        weights = np.exp(q @ k.T / np.sqrt(q.shape[1]))
        mixed.append(weights / weights.sum(1, keepdims=True) @ v)
    return dense(layer["out"], np.concatenate(mixed, axis=1))


def reference(params, image):
    """Computes the logits of one image."""
    rows = [image[i : i + 2, j : j + 2].ravel() for i in (0, 2) for j in (0, 2, 4)]
    tokens = dense({**params["patches"], "kernel": params["patches"]["kernel"].reshape(-1, 8)}, np.array(rows))
    tokens = tokens + params["positions"][0]
    for block in (params["block1"], params["block2"]):
        tokens = tokens + attention(block["attention"], layer_norm(block["norm1"], tokens), heads=2)
        tokens = tokens + dense(block["fc2"], gelu(dense(block["fc1"], layer_norm(block["norm2"], tokens))))
    return dense(params["fc"], layer_norm(params["norm"], tokens).mean(0))


def test_logits_equal_the_formulas(small):
    params, x = small
    exact = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    expected = [reference(exact, image) for image in np.asarray(x, np.float64)]
    np.testing.assert_allclose(SMALL.apply({"params": params}, x), expected, rtol=1e-4, atol=1e-5)


def test_places_matter(small):
    params, x = small
    assert np.max(np.abs(SMALL.apply({"params": params}, x) - SMALL.apply({"params": params}, x[:, ::-1]))) > 1e-3


def test_dropout_acts_in_training_alone(small):
    params, x = small
    wet = SMALL.clone(dropout=0.5)
    np.testing.assert_array_equal(wet.apply({"params": params}, x), SMALL.apply({"params": params}, x, train=True))
    trained = wet.apply({"params": params}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert np.any(np.asarray(trained) != np.asarray(wet.apply({"params": params}, x)))


@pytest.mark.parametrize("heads", [0, -1, 3])
def test_heads_must_divide_the_width(heads):
    with pytest.raises(ValueError, match=f"width=8 cannot be cut into heads={heads}"):
        ViT(width=8, heads=heads)


@pytest.mark.parametrize("shape", [(30, 32, 3), (32, 33, 3)])
def test_patches_must_cover_the_image(shape):
    with pytest.raises(ValueError, match=f"{shape[0]}x{shape[1]} cannot be cut into whole patches of 4"):
        draws.shapes(ViT(), shape)
