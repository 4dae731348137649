"""Holds the integers of whole models of `experiments.models` to LiteRT, and says which models have none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from experiments import models
from jaxcompress.export.integers import KERNELS
from jaxcompress.export.litert import Model, operators, tensor_types
from jaxcompress.interpreters.integers import encode
from tests.experiments.models import draws

pytest.importorskip("ai_edge_litert", reason="pip install 'jaxcompress[tflite]'")

MODELS = {
    "resnet8": (models.ResNet8(), (32, 32, 3)),
    "resnet20": (models.ResNet(), (32, 32, 3)),
    "ds_cnn": (models.DSCNN(), (49, 10, 1)),
    "mobilenet": (models.MobileNetV1(), (96, 96, 3)),
    "lenet5": (models.LeNet5(), (28, 28, 1)),
    "autoencoder": (models.AutoEncoder(), (640,)),
}


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "activations"), [(8, 8), (4, 8), (8, 16)], ids=["int8", "int4", "int16x8"])
@pytest.mark.parametrize("name", MODELS)
def test_not_one_output_differs(name, bits, activations, tmp_path):
    model, shape = MODELS[name]
    variables, x = draws.variables(model, shape), draws.normal(48, *shape, seed=1)
    graph, weights = jc.read(model.apply, variables, x[:1])
    grids = jc.quantize.calibrate(graph, weights, [x], bits=activations)
    rounded = jc.quantize.weights(".*/kernel", bits, granularity="channel").init(weights)
    device = jc.quantize.to_integers(graph, rounded, grids)
    jc.export.integers(device, tmp_path / "model.tflite")
    codes = encode(x, grids["input"])
    for kernels, arithmetic in KERNELS.items():
        found = np.asarray(jax.jit(jc.integers(device, arithmetic))(codes))
        expected = Model(tmp_path / "model.tflite", kernels=kernels).batch(np.asarray(codes))
        np.testing.assert_array_equal(found, expected, err_msg=arithmetic)
        assert len(np.unique(found)) > 20


VIT, IMAGES = models.ViT(depth=1), (32, 32, 3)


def test_a_vision_transformer_has_no_integers_of_ours():
    with pytest.raises(ValueError, match="block1/norm1 computes 'square', which has no place in a graph of the device"):
        jc.read(VIT.apply, draws.variables(VIT, IMAGES), jax.ShapeDtypeStruct((1, *IMAGES), jnp.float32))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_converters_vision_transformer_is_near_in_default_kernels_alone(tmp_path):
    variables, x = draws.variables(VIT, IMAGES), draws.normal(32, *IMAGES, seed=1)
    path = tmp_path / "vit.tflite"
    options = {"format": "int8-converter", "representative": [x]}
    jc.export.tflite(VIT.apply, variables, x[:1], path, **options)
    assert set(tensor_types(path)) == {"int8", "int32"}
    names = {op.name for op in operators(path)}
    assert {"BATCH_MATMUL", "SOFTMAX", "GELU", "RSQRT", "FULLY_CONNECTED", "SUM"} <= names
    expected, errors, same = np.asarray(jax.jit(VIT.apply)(variables, x)), {}, {}
    for kernels in KERNELS:
        model = Model(path, kernels=kernels)
        found = model.decode(model.batch(model.encode(np.asarray(x))))
        errors[kernels] = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
        same[kernels] = np.mean(found.argmax(1) == expected.argmax(1))
    assert errors["default"] < 0.1 and same["default"] > 0.8
    assert errors["reference"] > 0.5  # the sums of its normalizations
