"""What holds of every model: its size as published, named layers, both modes, folded normalization."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import jaxcompress as jc
from experiments import models
from tests.experiments.models import draws

# Input, parameters, statistics, multiply-adds. Parameters and statistics add up to the totals that Keras prints for the
# published models: 78,666 (ResNet-8), 24,908 (DS-CNN), 221,794 (MobileNetV1), 269,992 (autoencoder); ResNet-20's
# 269,722 and the multiply-adds are sums over its layers by hand, as are the ResNet-8x4 and the ViT.
SIZES = {
    "resnet8": (models.ResNet8(), (32, 32, 3), 78_186, 480, 12_501_632),
    "resnet20": (models.ResNet(), (32, 32, 3), 269_722, 1_376, 40_551_040),
    "resnet8x4": (
        models.ResNet(8, 100, 64, stem=32, shortcut="normalized"),
        (32, 32, 3),
        1_233_540,
        2_752,
        177_071_104,
    ),
    "ds_cnn": (models.DSCNN(), (49, 10, 1), 23_756, 1_152, 2_656_768),
    "mobilenet": (models.MobileNetV1(), (96, 96, 3), 216_322, 5_472, 7_489_664),
    "autoencoder": (models.AutoEncoder(), (640,), 267_928, 2_064, 264_192),
    "vit": (models.ViT(), (32, 32, 3), 74_954, 0, 5_440_128),
}

# Small ones with a normalization, for what has to run.
NORMED = {
    "resnet8": (lambda norm: models.ResNet8(width=4, norm=norm), (2, 8, 8, 3), 10),
    "resnet_plain": (lambda norm: models.ResNet(8, width=4, norm=norm), (2, 9, 8, 3), 10),
    "resnet_wide": (
        lambda norm: models.ResNet(8, 10, 6, norm, stem=4, shortcut="normalized", mean=0.1, std=0.5),
        (2, 9, 8, 3),
        10,
    ),
    "ds_cnn": (lambda norm: models.DSCNN(width=6, blocks=2, norm=norm), (2, 9, 10, 1), 12),
    "mobilenet": (lambda norm: models.MobileNetV1(blocks=((64, 1), (96, 2)), norm=norm), (2, 9, 8, 3), 2),
    "autoencoder": (lambda norm: models.AutoEncoder((5, 3, 5), norm=norm), (2, 7), 7),
}
EVERY_NORMED = pytest.mark.parametrize("name", NORMED)


def built(name, norm=True):
    """Returns a model, variables and an input."""
    make, shape, _ = NORMED[name]
    model = make(norm)
    return model, draws.variables(model, shape[1:]), draws.normal(*shape, seed=1)


def folded(variables, epsilon):
    """Folds each normalization into the layer before it, in float64."""
    params, stats = (flatten_dict(variables[part]) for part in ("params", "batch_stats"))
    params = {path: np.asarray(a, np.float64) for path, a in params.items()}
    for *above, name in {path[:-1] for path in stats}:
        norm, layer = (*above, name), (*above, name.removesuffix("_norm"))
        scale = params.pop((*norm, "scale")) / np.sqrt(np.float64(stats[*norm, "var"]) + epsilon)
        shift = params.pop((*norm, "bias")) - np.float64(stats[*norm, "mean"]) * scale
        params[*layer, "kernel"] = params[*layer, "kernel"] * scale
        params[*layer, "bias"] = params.get((*layer, "bias"), 0) * scale + shift
    return unflatten_dict({path: jnp.float32(a) for path, a in params.items()})


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_the_published_ones(name):
    model, shape, params, stats, macs = SIZES[name]
    variables = draws.shapes(model, shape)
    count = {part: sum(a.size for a in jax.tree.leaves(tree)) for part, tree in variables.items()}
    assert (count["params"], count.get("batch_stats", 0)) == (params, stats)
    assert jc.macs(model.apply, variables, jax.ShapeDtypeStruct((1, *shape), jnp.float32)) == macs


@pytest.mark.parametrize("name", SIZES)
def test_no_layer_is_named_by_the_order_of_construction(name):
    model, shape, *_ = SIZES[name]
    for path in flatten_dict(draws.shapes(model, shape)["params"]):
        assert not any(re.search(r"^[A-Z]|_\d+$", key) for key in path), path


@EVERY_NORMED
@pytest.mark.parametrize("norm", [True, False])
def test_layers_lists_what_has_a_kernel(name, norm):
    make, shape, _ = NORMED[name]
    model = make(norm)
    params = flatten_dict(draws.shapes(model, shape[1:])["params"], sep="/")
    kernels = [path.removesuffix("/kernel") for path in params if path.endswith("/kernel")]
    assert sorted(model.layers) == sorted(kernels)
    assert norm or {path.rsplit("/", 1)[1] for path in params} == {"kernel", "bias"}


@EVERY_NORMED
def test_folding_the_normalization_changes_nothing(name):
    model, variables, x = built(name)
    expected = jax.jit(model.apply)(variables, x)
    plain, epsilon = NORMED[name][0](False), 1e-5 if name.startswith("resnet_") else 1e-3
    found = jax.jit(plain.apply)({"params": folded(variables, epsilon)}, x)
    assert found.shape == (x.shape[0], NORMED[name][2]) and found.dtype == jnp.float32
    scale = float(jnp.max(jnp.abs(expected)))
    assert scale > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5 * scale, rtol=1e-5)


@EVERY_NORMED
def test_training_normalizes_by_the_batch_and_moves_the_statistics(name):
    model, variables, x = built(name)
    train = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
    (batch, moved), running = train(variables, x), jax.jit(model.apply)(variables, x)
    before, after = (flatten_dict(tree["batch_stats"]) for tree in (variables, moved))
    assert all(np.any(np.asarray(before[path]) != np.asarray(after[path])) for path in before)
    assert np.max(np.abs(batch - running)) > 1e-3


@EVERY_NORMED
def test_without_normalization_training_is_inference(name):
    model, variables, x = built(name, norm=False)
    assert set(variables) == {"params"}
    np.testing.assert_array_equal(model.apply(variables, x, train=True), model.apply(variables, x))


@pytest.mark.parametrize("name", SIZES)
def test_inputs_of_another_rank_are_refused(name):
    model, shape, *_ = SIZES[name]
    with pytest.raises(ValueError, match=re.escape(f"not of shape (1, 2, {', '.join(map(str, shape))})")):
        draws.shapes(model, (2, *shape))
