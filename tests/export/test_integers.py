"""An integer model is written only if the file holds and computes the same."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.export import writer
from jaxcompress.export.litert import Model, operators, tensors
from jaxcompress.interpreters.integers import decode, encode
from tests.nets import LinenLeNet5

X = jax.random.normal(jax.random.key(0), (4, 28, 28, 1))


@pytest.fixture(scope="module", params=[(8, 8), (4, 8), (8, 16)], ids=["int8", "int4", "int16x8"])
def model(request):
    bits, activations = request.param
    net = LinenLeNet5()
    params = net.init(jax.random.key(1), X[:1])["params"]
    graph, weights = jc.read(lambda p, x: net.apply({"params": p}, x), params, X[:1])
    grids = jc.quantize.calibrate(graph, weights, [X], bits=activations)
    rounded = jc.quantize.weights(".*/kernel", bits, granularity="channel").init(weights)
    return jc.quantize.to_integers(graph, rounded, grids)


@pytest.mark.parametrize("io", ["integers", "float32"])
def test_file_is_written_whole_and_of_the_size_returned(model, tmp_path, io):
    size = jc.export.integers(model, tmp_path / "model.tflite", io=io)
    assert size == (tmp_path / "model.tflite").stat().st_size
    assert (tmp_path / "model.tflite").read_bytes() == writer.to_bytes(model, io)


def test_reals_go_in_and_come_out_on_the_grids_of_the_model(model, tmp_path):
    path = tmp_path / "model.tflite"
    assert jc.export.integers(model, path, io="float32") > jc.export.integers(model, tmp_path / "other.tflite")
    names = [op.name for op in operators(path)]
    assert (names[0], names[-1]) == ("QUANTIZE", "DEQUANTIZE")
    assert names[1:-1] == [op.name for op in operators(tmp_path / "other.tflite")]
    floats = [name for name, tensor in tensors(path).items() if tensor.dtype == np.float32]
    assert sorted(floats) == ["fc2/float32", "input/float32"]
    given, made = model.grids["input"], model.grids["fc2"]
    for kernels, arithmetic in (("default", "xnnpack"), ("reference", "reference")):
        found = Model(path, kernels=kernels).batch(np.asarray(X))
        expected = decode(jax.jit(jc.integers(model, arithmetic))(encode(X, given, arithmetic)), made)
        np.testing.assert_array_equal(found, expected)
        assert len(np.unique(found)) > 10


def test_another_io_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="io 'uint8' is not one of 'integers', 'float32'"):
        jc.export.integers(model, tmp_path / "model.tflite", io="uint8")
    assert not list(tmp_path.iterdir())


def other_scale(model):
    return model._replace(grids=model.grids | {"fc1": model.grids["fc1"]._replace(scale=np.float32(9))}), "grid of fc1"


def other_bias(model):
    layer = model.layers["fc1"]._replace(bias=model.layers["fc1"].bias + 1)
    return model._replace(layers=model.layers | {"fc1": layer}), "integers or scales of fc1"


def other_kernel(model):
    layer = model.layers["fc1"]
    layer = layer._replace(kernel=np.where(layer.kernel == layer.kernel.max(), 0, layer.kernel).astype(np.int8))
    return model._replace(layers=model.layers | {"fc1": layer}), "integers or scales of fc1|do not compute"


def other_activation(model):
    nodes = (*model.graph.nodes[:-1], replace(model.graph.nodes[-1], activation="relu"))
    return model._replace(graph=replace(model.graph, nodes=nodes)), "do not compute"


@pytest.mark.parametrize("io", ["integers", "float32"])
@pytest.mark.parametrize("change", [other_scale, other_bias, other_kernel, other_activation])
def test_nothing_is_written_when_the_file_is_of_another_model(model, tmp_path, monkeypatch, change, io):
    other, words = change(model)
    written = writer.to_bytes(other, io)
    monkeypatch.setattr(writer, "to_bytes", lambda *_: written)
    with pytest.raises(RuntimeError, match=words):
        jc.export.integers(model, tmp_path / "model.tflite", io=io)
    assert not list(tmp_path.iterdir())


def test_a_file_of_reals_is_refused_where_codes_were_asked_for(model, tmp_path, monkeypatch):
    written = writer.to_bytes(model, "float32")
    monkeypatch.setattr(writer, "to_bytes", lambda *_: written)
    with pytest.raises(RuntimeError, match="holds (input|fc2)/float32 as float32; nothing written"):
        jc.export.integers(model, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())
