"""The LeNets: sizes by hand, normalization where it belongs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from experiments import models
from tests.experiments.models import draws

# Sums over the layers by hand: kernels and biases (or scales and shifts), statistics, multiply-adds.
SIZES = {
    "LeNet-300-100": (models.MLP(), 784 * 300 + 300 * 100 + 100 * 10 + 410, 0, 784 * 300 + 300 * 100 + 1000),
    "BinaryConnect": (
        models.MLP((1024, 1024, 1024), norm=True),
        784 * 1024 + 2 * 1024 * 1024 + 10240 + 2 * (3 * 1024 + 10),
        2 * (3 * 1024 + 10),
        784 * 1024 + 2 * 1024 * 1024 + 10240,
    ),
    "Caffe": (
        models.LeNet5(),
        500 + 20 + 25_000 + 50 + 800 * 500 + 500 + 5000 + 10,
        0,
        576 * 500 + 64 * 25_000 + 400_000 + 5000,
    ),
    "narrow": (
        models.LeNet5(filters=(4, 6), hidden=20),
        100 + 4 + 600 + 6 + 16 * 6 * 20 + 20 + 200 + 10,
        0,
        576 * 100 + 64 * 600 + 16 * 6 * 20 + 200,
    ),
    "TWN": (
        models.LeNet5BN(),
        25 * 32 + 25 * 32 * 64 + 1024 * 512 + 5120 + 10 + 2 * (32 + 64 + 512),
        2 * (32 + 64 + 512),
        576 * 25 * 32 + 64 * 25 * 32 * 64 + 1024 * 512 + 5120,
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_counted_by_hand(name):
    model, params, statistics, macs = SIZES[name]
    found = draws.shapes(model, (28, 28, 1))
    count = {part: sum(a.size for a in jax.tree.leaves(tree)) for part, tree in found.items()}
    assert (count["params"], count.get("batch_stats", 0)) == (params, statistics)
    assert jc.macs(model.apply, found, jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)) == macs


def relu(x):
    return np.maximum(x, 0)


def normed(x, norm, statistics, epsilon):
    """Normalizes by running statistics, in float64."""
    norm, statistics = ({k: np.float64(v) for k, v in tree.items()} for tree in (norm, statistics))
    return (x - statistics["mean"]) / np.sqrt(statistics["var"] + epsilon) * norm["scale"] + norm["bias"]


def test_multilayer_perceptron_normalizes_before_relu_and_after_the_last_layer():
    model = models.MLP((5, 4), 3, norm=True)
    given, images = draws.variables(model, (2, 3, 1)), draws.normal(7, 2, 3, 1)
    params, statistics = given["params"], given["batch_stats"]
    x = np.float64(images).reshape(7, 6)
    for layer in ("fc1", "fc2", "fc3"):
        assert set(params[layer]) == {"kernel"}
        x = x @ np.float64(params[layer]["kernel"])
        x = normed(x, params[f"{layer}_norm"], statistics[f"{layer}_norm"], 1e-4)
        x = x if layer == "fc3" else relu(x)
    np.testing.assert_allclose(model.apply(given, images), x, rtol=1e-4, atol=1e-5)


def correlated(x, kernel):
    """Slides a kernel over images without padding."""
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel)


def test_lenet_of_ternary_weight_networks_layer_by_layer():
    model = models.LeNet5BN(4)
    given, images = draws.variables(model, (16, 20, 1)), draws.normal(2, 16, 20, 1)
    params, statistics = given["params"], given["batch_stats"]
    x = np.float64(images)
    for layer in ("conv1", "conv2"):
        x = correlated(x, np.float64(params[layer]["kernel"]))
        x = relu(normed(x, params[f"{layer}_norm"], statistics[f"{layer}_norm"], 1e-5))
        n, h, w, c = x.shape
        x = x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
    x = x.reshape(2, -1) @ np.float64(params["fc1"]["kernel"])
    x = relu(normed(x, params["fc1_norm"], statistics["fc1_norm"], 1e-5))
    x = x @ np.float64(params["fc2"]["kernel"]) + np.float64(params["fc2"]["bias"])
    np.testing.assert_allclose(model.apply(given, images), x, rtol=1e-4, atol=1e-4)


def test_lenet_of_ternary_weight_networks_folded():
    model, images = models.LeNet5BN(4), draws.normal(2, 16, 20, 1)
    given = draws.variables(model, (16, 20, 1))
    layers = dict(given["params"])
    for layer in ("conv1", "conv2", "fc1"):
        norm, statistics = layers.pop(f"{layer}_norm"), given["batch_stats"][f"{layer}_norm"]
        scale = norm["scale"] / np.sqrt(statistics["var"] + 1e-5)
        kernel = layers[layer]["kernel"]
        scale_of = scale.reshape((1,) * (kernel.ndim - 1) + (-1,))
        layers[layer] = {"kernel": kernel * scale_of, "bias": norm["bias"] - statistics["mean"] * scale}
    found = models.LeNet5BN(4, norm=False).apply({"params": layers}, images)
    np.testing.assert_allclose(found, model.apply(given, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "momentum"), [(models.MLP((5,), 3, norm=True), 0.85), (models.LeNet5BN(3), 0.99)], ids=["MLP", "LeNet"]
)
def test_running_statistics_move_by_their_momentum(model, momentum):
    given, images = draws.variables(model, (16, 16, 1)), draws.normal(6, 16, 16, 1)
    _, moved = model.apply(given, images, train=True, mutable=["batch_stats"])
    first = "fc1_norm" if isinstance(model, models.MLP) else "conv1_norm"
    kernel = np.float64(given["params"][first.removesuffix("_norm")]["kernel"])
    x = np.float64(images)
    x = x.reshape(6, -1) @ kernel if kernel.ndim == 2 else correlated(x, kernel).reshape(-1, 32)
    for name, batch in (("mean", x.mean(0)), ("var", x.var(0))):
        before = np.float64(given["batch_stats"][first][name])
        expected = momentum * before + (1 - momentum) * batch
        np.testing.assert_allclose(moved["batch_stats"][first][name], expected, rtol=1e-4, atol=1e-5)


def test_uniform_kernels_fill_the_range_of_signs():
    kernel = models.MLP((50,), 3, initial="uniform").init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    values = np.asarray(kernel["fc1"]["kernel"])
    assert -1 <= values.min() < -0.99 and 0.99 < values.max() < 1
    np.testing.assert_allclose(values.std(), 1 / np.sqrt(3), rtol=0.03)
    assert np.any(np.asarray(kernel["fc2"]["kernel"]) > 0.9)


@pytest.mark.parametrize("model", [models.LeNet5(), models.LeNet5BN()], ids=["Caffe", "TWN"])
def test_images_that_vanish_under_the_windows_are_refused(model):
    with pytest.raises(ValueError, match="at least 16x16 pixels, not 28x15"):
        draws.shapes(model, (28, 15, 1))


def test_centred_tanh_perceptron_by_hand():
    model = models.MLP((4,), 3, activation="tanh", center=True)
    images = draws.normal(2, 3, 3, 1)
    found = draws.variables(model, images.shape[1:])
    first, last = found["params"]["fc1"], found["params"]["fc2"]
    mean = np.asarray(found["batch_stats"]["pixel_mean"])
    hidden = np.tanh(
        (np.asarray(images).reshape(2, 9) - mean) @ np.asarray(first["kernel"]) + np.asarray(first["bias"])
    )
    expected = hidden @ np.asarray(last["kernel"]) + np.asarray(last["bias"])
    np.testing.assert_allclose(model.apply(found, images), expected, atol=1e-5)


def test_a_margin_is_of_zeros_on_all_sides():
    model, images = models.MLP((4,), 3, pad=2), draws.normal(2, 3, 3, 1)
    found = draws.variables(model, (3, 3, 1))
    assert found["params"]["fc1"]["kernel"].shape == (49, 4)
    inner = found["params"]["fc1"]["kernel"].reshape(7, 7, 4)[2:5, 2:5].reshape(9, 4)
    same = {"params": found["params"] | {"fc1": found["params"]["fc1"] | {"kernel": inner}}}
    np.testing.assert_allclose(model.apply(found, images), models.MLP((4,), 3).apply(same, images), atol=1e-5)
