"""An integer model is written only if the file holds and computes the same."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.export import writer
from jaxcompress.interpreters.integers import Grid
from tests.nets import LinenLeNet5

X = jax.random.normal(jax.random.key(0), (4, 28, 28, 1))


@pytest.fixture(scope="module", params=[8, 4])
def model(request):
    net = LinenLeNet5()
    params = net.init(jax.random.key(1), X[:1])["params"]
    graph, weights = jc.read(lambda p, x: net.apply({"params": p}, x), params, X[:1])
    grids = jc.quantize.calibrate(graph, weights, [X])
    rounded = jc.quantize.post_training(graph, weights, grids, [X], bits=request.param)
    return jc.quantize.to_integers(graph, rounded, grids)


def test_file_is_written_whole_and_of_the_size_returned(model, tmp_path):
    size = jc.export.integers(model, tmp_path / "model.tflite")
    assert size == (tmp_path / "model.tflite").stat().st_size
    assert (tmp_path / "model.tflite").read_bytes() == writer.to_bytes(model)


def other_scale(model):
    return model._replace(grids=model.grids | {"fc1": Grid(np.float32(9.0), 0)}), "another grid of fc1"


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


@pytest.mark.parametrize("change", [other_scale, other_bias, other_kernel, other_activation])
def test_nothing_is_written_when_the_file_is_of_another_model(model, tmp_path, monkeypatch, change):
    other, words = change(model)
    written = writer.to_bytes(other)
    monkeypatch.setattr(writer, "to_bytes", lambda _: written)
    with pytest.raises(RuntimeError, match=words):
        jc.export.integers(model, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())
