"""An integer model is written only if the file holds and computes the same."""

import importlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.export import writer
from jaxcompress.export.litert import Model, operators, tensors
from jaxcompress.interpreters.integers import Grid, Layer, decode, encode
from tests.nets import LinenLeNet5, layer_model

held = importlib.import_module("jaxcompress.export.integers")  # which the function of that name hides

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
@pytest.mark.sampled(3)
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


# How many outputs hold a file to JAX


def dense_model(inputs, outputs, bits=8):
    draw = np.random.default_rng(inputs)
    kernel = draw.integers(-127, 128, (inputs, outputs)).astype(np.int8)
    scale = np.full(outputs, 1 / (100 * inputs), np.float32)
    layer = Layer(kernel, scale, np.zeros(outputs, np.int32 if bits == 8 else np.int64))
    of = Grid(np.float32(1.0), 0, bits)
    return layer_model(layer, of, of, (1, inputs))


def test_ten_thousand_outputs_are_compared_and_fewer_of_large_models():
    assert jc.export.compared(dense_model(5, 7)) == {"default": 10_003, "reference": 10_003}
    assert 0.999**10_000 < 5e-5  # the chance to miss a fault in one of a thousand
    large = dense_model(2000, 2000)
    assert jc.export.compared(large) == {"default": 10_000, "reference": 10_000}
    for inputs, counts in ((5 * 10**5, (10 * 1000, 8 * 1000)), (10**8, (4 * 1000, 4 * 1000))):
        kernel = np.broadcast_to(np.int8(1), (inputs, 1000))  # of 4 inputs at least, and at most of 10 here
        model = dense_model(5, 1000)
        model = model._replace(layers={"layer": model.layers["layer"]._replace(kernel=kernel)})
        assert tuple(jc.export.compared(model).values()) == counts


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("io", ["integers", "float32"])
def test_a_fault_in_one_output_of_a_thousand_is_found(tmp_path, monkeypatch, io, bits):
    model, exact = dense_model(5, 7, bits), held.evaluate
    jc.export.integers(model, tmp_path / "model.tflite", io=io)

    def faulty(model, arithmetic):
        def run(codes):
            out = exact(model, arithmetic)(codes)
            return out.at[:, 3].add((codes.sum(1) % 143 == 0).astype(out.dtype))  # one row of 143, 7 outputs each

        return run

    monkeypatch.setattr(held, "evaluate", faulty)
    with pytest.raises(RuntimeError, match=r"'xnnpack' does: \d+ of 10003 outputs differ; nothing written"):
        jc.export.integers(model, tmp_path / "other.tflite", io=io)
    assert [file.name for file in tmp_path.iterdir()] == ["model.tflite"]


@pytest.mark.parametrize("bits", [8, 16])
def test_inputs_are_drawn_from_the_whole_grid_and_from_parts_of_it(bits):
    codes = held._drawn(401, (1, 6, 5), Grid(np.float32(1.0), 0, bits))
    assert codes.shape == (401, 6, 5) and codes.dtype == f"int{bits}"
    spread = np.ptp(codes.astype(np.int64), axis=(1, 2)) / 2**bits
    assert spread[::2].min() > 0.6 and spread[1::2].min() < 0.1 < spread[1::2].mean() < 0.5
    assert codes.min() < -(2 ** (bits - 1)) * 0.99 and codes.max() > 2 ** (bits - 1) * 0.98


def test_negative_padding_is_cut_off_on_the_device_as_well(tmp_path):
    params = {"a": {"kernel": jax.random.normal(jax.random.key(0), (3, 3, 1, 2))}}
    numbers = ("NHWC", "HWIO", "NHWC")

    def apply(params, x):
        edges = ((-2, 1), (3, -4))
        return jax.lax.conv_general_dilated(x, params["a"]["kernel"], (2, 2), edges, dimension_numbers=numbers)

    graph, weights = jc.read(apply, params, X[:1])
    assert [node.kind for node in graph.nodes] == ["slice", "convolution"]
    grids = jc.quantize.calibrate(graph, weights, [X])
    device = jc.quantize.to_integers(graph, jc.quantize.weights(".*/kernel", 8).init(weights), grids)
    jc.export.integers(device, tmp_path / "model.tflite")
    codes = encode(X, grids["input"])
    found = jax.jit(jc.integers(device))(codes)
    np.testing.assert_array_equal(found, Model(tmp_path / "model.tflite").batch(np.asarray(codes)))


@pytest.mark.parametrize(("bits", "activations"), [(8, 8), (4, 8), (8, 16)], ids=["int8", "int4", "int16x8"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.sampled(3)
def test_dead_channels_are_those_of_the_device(tmp_path, bits, activations, granularity):
    """Their weights are tiny, too tiny for a scale, or zero, beside biases of all sizes."""
    sizes = jnp.array([[1, 1e-25, 1e-5, 0, 1e-42, 1e-30, 1]])
    params = {
        "a": {"kernel": jax.random.normal(jax.random.key(1), (9, 7)) * sizes},
        "b": {"kernel": jax.random.normal(jax.random.key(2), (7, 5))},
    }
    bias = jnp.array([[1.0, 5.0, -4.5, 0.3, 2.0, 0.0, 0.0]])
    x = jax.random.uniform(jax.random.key(3), (64, 9), minval=-1)
    apply = lambda params, x: jax.nn.relu(x @ params["a"]["kernel"] + bias) @ params["b"]["kernel"]
    graph, weights = jc.read(apply, params, x[:1])
    grids = jc.quantize.calibrate(graph, weights, [x], bits=activations)
    rounded = jc.quantize.post_training(graph, weights, grids, [x], bits=bits, granularity=granularity)
    device = jc.quantize.to_integers(graph, rounded, grids)
    jc.export.integers(device, tmp_path / "model.tflite")
    reals = decode(jax.jit(jc.integers(device))(encode(x, grids["input"])), grids["b"])
    error = jnp.abs(reals - apply(params, x)).max() / jnp.ptp(apply(params, x))
    assert error < {8: 0.02, 4: 0.2}[bits]
