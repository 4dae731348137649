"""Weights come out of TFLite files as they went in; public files run in JAX as in LiteRT."""

import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from hypothesis import given
from hypothesis import strategies as st

import jaxcompress as jc
from experiments import data, models, tflite_weights
from jaxcompress.export.litert import Model
from jaxcompress.interpreters.integers import decode, encode
from tests.experiments.models import draws

# TensorFlow's own, while it is imported and while it converts.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Net(nn.Module):
    """One layer of each kind that TFLite stores differently."""

    LAYERS = ("stem", "twice", "block/full", "fc")

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 2), strides=2, name="stem")(x))  # of one channel: depthwise to TFLite
        x = nn.relu(nn.Conv(8, (3, 3), feature_group_count=4, name="twice")(x))  # two outputs of each channel
        x = nn.relu(Inner(name="block")(x))
        return nn.Dense(5, name="fc")(x.reshape(x.shape[0], -1))


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(6, (1, 3), name="full")(x)


SHAPE = (6, 8, 1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exports the net; returns its parameters and its file."""
    variables = draws.variables(Net(), SHAPE)
    apply, params = jc.adapters.linen.functional(Net(), variables)
    path = tmp_path_factory.mktemp("weights") / "net.tflite"
    jc.export.tflite(apply, params, draws.normal(1, *SHAPE), path)
    return params, path


def edited(path, edit):
    """Returns the bytes of a file after ``edit(model, graph, layers)``; `layers` are its operators with weights."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(pathlib.Path(path).read_bytes()))
    graph = model.subgraphs[0]
    for operator in graph.operators:
        operator.inputs = list(operator.inputs)  # what was read is read-only
    edit(model, graph, [operator for operator in graph.operators if code(model, operator) in WEIGHTED])
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


WEIGHTED, SOFTMAX = (3, 4, 9), 25  # CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED in the schema


def code(model, operator):
    codes = model.operatorCodes[operator.opcodeIndex]
    return codes.builtinCode or codes.deprecatedBuiltinCode


def rewrite(tmp_path, exported, edit):
    target = tmp_path / "edited.tflite"
    target.write_bytes(edited(exported[1], edit))
    return target


def store(model, tensor, codes, kind, scale=None, zero_point=None, axis=0):
    """Puts other content into a tensor."""
    from ai_edge_litert import schema_py_generated as schema

    tensor.type = getattr(schema.TensorType, kind)
    model.buffers[tensor.buffer].data = np.frombuffer(codes.tobytes(), np.uint8)
    if scale is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.asarray(scale, np.float32)
        tensor.quantization.zeroPoint = None if zero_point is None else np.asarray(zero_point, np.int64)
        tensor.quantization.quantizedDimension = axis


# --- what went in


def test_weights_are_those_that_were_exported(exported):
    params, path = exported
    found = tflite_weights.load(path, Net.LAYERS, like=params)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_shapes_alone_may_be_what_the_file_is_held_to(exported):
    shapes = draws.shapes(Net(), SHAPE)["params"]
    assert set(tflite_weights.load(exported[1], Net.LAYERS, like=shapes)) == {"stem", "twice", "block", "fc"}


def test_layers_are_listed_in_the_order_of_the_graph(exported):
    found = tflite_weights.layers(exported[1])
    kinds = ["DEPTHWISE_CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "FULLY_CONNECTED"]
    assert [layer.operator for layer in found] == kinds
    assert [layer.kernel.shape for layer in found] == [(3, 2, 1, 4), (3, 3, 1, 8), (1, 3, 8, 6), (72, 5)]


def test_layer_without_bias_has_no_bias(exported, tmp_path):
    def drop(model, graph, layers):
        layers[2].inputs = layers[2].inputs[:2]
        layers[3].inputs[2] = -1

    path = rewrite(tmp_path, exported, drop)
    found = tflite_weights.load(path, Net.LAYERS)
    assert set(found["block"]["full"]) == set(found["fc"]) == {"kernel"} and "bias" in found["stem"]
    with pytest.raises(ValueError, match=r"block/full/bias has the shape \(6,\) in the model and none in .*edited"):
        tflite_weights.load(path, Net.LAYERS, like=exported[0])


def test_older_files_have_their_codes_in_another_field(exported, tmp_path):
    def old(model, graph, layers):
        for each in model.operatorCodes:
            each.deprecatedBuiltinCode, each.builtinCode = each.builtinCode, 0

    found = tflite_weights.load(rewrite(tmp_path, exported, old), Net.LAYERS, like=exported[0])
    jax.tree.map(np.testing.assert_array_equal, found, exported[0])


# --- integers


@pytest.mark.parametrize(
    ("kind", "dtype", "low", "high"),
    [
        ("INT8", np.int8, -128, 127),
        ("UINT8", np.uint8, 0, 255),
        ("INT32", np.int32, -(2**31), 2**31 - 1),
        ("INT64", np.int64, -(2**50), 2**50),
    ],
)
@pytest.mark.parametrize("channels", [True, False])
@pytest.mark.parametrize("zero_point", [None, 7])
def test_integers_become_the_reals_they_stand_for(exported, tmp_path, kind, dtype, low, high, channels, zero_point):
    rng = np.random.default_rng(0)
    depthwise, full = rng.integers(low, high, (1, 3, 3, 8)).astype(dtype), rng.integers(low, high, (6, 1, 3, 8))
    scales = {8: rng.uniform(0.01, 0.1, 8 if channels else 1), 6: rng.uniform(0.01, 0.1, 6 if channels else 1)}
    zeros = {n: None if zero_point is None else np.full(len(scale), zero_point) for n, scale in scales.items()}

    def quantize(model, graph, layers):
        tensors = [graph.tensors[op.inputs[1]] for op in layers]
        store(model, tensors[1], depthwise, kind, scales[8], zeros[8], axis=3)
        store(model, tensors[2], full.astype(dtype), kind, scales[6], zeros[6], axis=0)

    found = tflite_weights.load(rewrite(tmp_path, exported, quantize), Net.LAYERS, like=exported[0])
    offset = 0 if zero_point is None else zero_point
    real = lambda codes, scale: (codes.astype(np.float64) - offset) * np.float32(scale).astype(np.float64)
    along = scales[6].reshape(-1, 1, 1, 1)
    for name, codes, expected in (
        ("twice", depthwise, real(depthwise, scales[8]).transpose(1, 2, 0, 3)),
        ("full", full, real(full, along).transpose(1, 2, 3, 0)),
    ):
        kernel = found["block"]["full"]["kernel"] if name == "full" else found["twice"]["kernel"]
        assert kernel.dtype == jnp.float32 and kernel.size == codes.size
        np.testing.assert_array_equal(kernel, expected.astype(np.float32))


def test_scales_must_fit_the_channels(exported, tmp_path):
    codes = np.zeros((6, 1, 3, 8), np.int8)

    def wrong(scale, axis, zero_point=None):
        edit = lambda model, graph, layers: store(
            model, graph.tensors[layers[2].inputs[1]], codes, "INT8", scale, zero_point, axis
        )
        return rewrite(tmp_path, exported, edit)

    for scale, axis, zero_point in ((np.ones(5), 0, None), (np.ones(6), 3, None), (np.ones(6), 4, None)):
        with pytest.raises(ValueError, match=rf"has {len(scale)} scales and 1 zero points along axis {axis} of its"):
            tflite_weights.layers(wrong(scale, axis, zero_point))
    with pytest.raises(ValueError, match="has 6 scales and 2 zero points along axis 0"):
        tflite_weights.layers(wrong(np.ones(6), 0, np.zeros(2)))
    with pytest.raises(ValueError, match="int8 codes without a scale"):
        tflite_weights.layers(wrong(None, 0))


# --- what does not fit


def test_number_of_names_must_be_that_of_the_layers(exported):
    with pytest.raises(
        ValueError, match=r"net.tflite has 4 layers with weights, not 3 as in names: DEPTHWISE_CONV_2D,"
    ):
        tflite_weights.load(exported[1], Net.LAYERS[:3])


def test_names_must_differ(exported):
    with pytest.raises(ValueError, match="each layer needs a name of its own"):
        tflite_weights.load(exported[1], ("stem", "stem", "block/full", "fc"))


def test_swapped_layers_are_named_with_both_shapes(exported):
    with pytest.raises(ValueError, match=r"stem/bias has the shape \(4,\) in the model and \(8,\) in .*net.tflite"):
        tflite_weights.load(exported[1], ("twice", "stem", "block/full", "fc"), like=exported[0])


def test_layers_that_the_model_lacks_are_named(exported):
    without = {name: leaf for name, leaf in exported[0].items() if name != "fc"}
    with pytest.raises(ValueError, match=r"fc/kernel has the shape none in the model and \(72, 5\) in"):
        tflite_weights.load(exported[1], Net.LAYERS, like=without)


def test_computed_kernels_are_refused(exported, tmp_path):
    def computed(model, graph, layers):
        layers[3].inputs[1] = layers[2].outputs[0]

    with pytest.raises(ValueError, match="edited.tflite: FULLY_CONNECTED reads '.*', which is computed"):
        tflite_weights.layers(rewrite(tmp_path, exported, computed))


def test_missing_kernels_and_biases_of_another_size_are_refused(exported, tmp_path):
    def missing(model, graph, layers):
        layers[2].inputs = layers[2].inputs[:1]

    def other(model, graph, layers):
        layers[2].inputs[2] = layers[3].inputs[2]

    with pytest.raises(ValueError, match="CONV_2D has a kernel of shape None"):
        tflite_weights.layers(rewrite(tmp_path, exported, missing))
    with pytest.raises(ValueError, match=r"CONV_2D has a bias of shape \(5,\) for 6 outputs"):
        tflite_weights.layers(rewrite(tmp_path, exported, other))


def test_kernels_of_another_rank_are_refused(exported, tmp_path):
    def swapped(model, graph, layers):
        layers[2].inputs[1], layers[3].inputs[1] = layers[3].inputs[1], layers[2].inputs[1]

    with pytest.raises(ValueError, match=r"CONV_2D has a kernel of shape \(5, 72\)"):
        tflite_weights.layers(rewrite(tmp_path, exported, swapped))


def test_other_ways_to_store_weights_are_refused(exported, tmp_path):
    def half(model, graph, layers):
        store(model, graph.tensors[layers[2].inputs[1]], np.zeros((6, 1, 3, 8), np.float16), "FLOAT16")

    def sparse(model, graph, layers):
        from ai_edge_litert import schema_py_generated as schema

        graph.tensors[layers[2].inputs[1]].sparsity = schema.SparsityParametersT()

    with pytest.raises(ValueError, match="is stored as FLOAT16; those read here are FLOAT32, INT8"):
        tflite_weights.layers(rewrite(tmp_path, exported, half))
    with pytest.raises(ValueError, match="is stored as sparse FLOAT32"):
        tflite_weights.layers(rewrite(tmp_path, exported, sparse))


def test_buffers_and_tensors_that_are_not_there_are_refused(exported, tmp_path):
    def short(model, graph, layers):
        store(model, graph.tensors[layers[2].inputs[1]], np.zeros(7, np.float32), "FLOAT32")

    def nowhere(model, graph, layers):
        layers[2].inputs[1] = len(graph.tensors)

    def negative(model, graph, layers):
        graph.tensors[layers[2].inputs[1]].shape = np.array([-6, 1, -3, 8], np.int32)

    with pytest.raises(ValueError, match=r"truncated or corrupted: .* of shape \(6, 1, 3, 8\), has 28 bytes"):
        tflite_weights.layers(rewrite(tmp_path, exported, short))
    with pytest.raises(ValueError, match="truncated or corrupted: CONV_2D reads tensor"):
        tflite_weights.layers(rewrite(tmp_path, exported, nowhere))
    with pytest.raises(ValueError, match="truncated or corrupted"):
        tflite_weights.layers(rewrite(tmp_path, exported, negative))


def test_every_cut_is_noticed(exported, tmp_path):
    whole, path = exported[1].read_bytes(), tmp_path / "cut.tflite"
    for size in {*range(0, len(whole), 13), *range(16), *range(len(whole) - 16, len(whole))}:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="cut.tflite: (truncated or corrupted|not a TFLite file)"):
            tflite_weights.layers(path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # scales that are no numbers any more
@given(changes=st.dictionaries(st.integers(0, 10**6), st.integers(0, 255), min_size=1, max_size=30))
def test_damage_is_an_error_or_other_numbers(exported, tmp_path_factory, changes):
    raw = bytearray(exported[1].read_bytes())
    for place, byte in changes.items():
        raw[place % len(raw)] = byte
    path = tmp_path_factory.mktemp("damaged") / "net.tflite"
    path.write_bytes(raw)
    try:
        found = tflite_weights.layers(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert all(layer.kernel.dtype == np.float32 for layer in found)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"PK\3\4 an archive")
    with pytest.raises(ValueError, match="x: not a TFLite file: its identifier is b' an '"):
        tflite_weights.layers(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        tflite_weights.layers(tmp_path / "none.tflite")


def test_missing_litert_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(ImportError, match=r"jaxcompress\[tflite\]"):
        tflite_weights.layers(tmp_path / "x")


# --- the public files

NAMED = [pathlib.Path(part) for part in os.environ.get("JAXCOMPRESS_DATA", "").split(os.pathsep)]
PUBLIC = next((root / "mlperf-tiny" for root in NAMED if (root / "mlperf-tiny").is_dir()), pathlib.Path("mlperf-tiny"))
NEEDS_FILES = pytest.mark.skipif(
    "JAXCOMPRESS_DATA" not in os.environ or not PUBLIC.is_dir(),
    reason="needs MLPerf Tiny's files: JAXCOMPRESS_DATA=/path/to/data pytest -m data, there in mlperf-tiny/",
)


def floats_to_the_logits(model, graph, layers):
    """Dequantizes the constants of a file, each with one scale, and cuts the softmax off."""
    for op in layers:
        kernel = graph.tensors[op.inputs[1]]
        if kernel.type != 0:  # FLOAT32
            codes = model.buffers[kernel.buffer].data.view(np.int8)
            store(model, kernel, codes.astype(np.float32) * kernel.quantization.scale, "FLOAT32")
            kernel.quantization = None
    if code(model, graph.operators[-1]) == SOFTMAX:
        graph.outputs = graph.operators.pop().inputs
    model.signatureDefs = None


def public(name, model, shape):
    shapes = draws.shapes(model, shape)["params"]
    return tflite_weights.load(PUBLIC / name, model.layers, like=shapes)


@pytest.mark.data
@NEEDS_FILES
@pytest.mark.parametrize(
    ("name", "model", "shape"),
    [
        ("pretrainedResnet.tflite", models.ResNet8(norm=False), (32, 32, 3)),
        ("pretrainedResnet_large_float.tflite", models.ResNet8(width=40, norm=False), (32, 32, 3)),
        ("kws_ref_model_float32.tflite", models.DSCNN(norm=False), (49, 10, 1)),
        ("vww_96_float.tflite", models.MobileNetV1(norm=False), (96, 96, 3)),
        ("ad01_fp32.tflite", models.AutoEncoder(norm=False), (640,)),
    ],
)
def test_public_models_compute_what_litert_does(name, model, shape):
    params = public(name, model, shape)
    x = draws.normal(20, *shape)
    if "Resnet" in name:
        x = 128 + 50 * x  # raw pixels
    found = jax.jit(model.apply)({"params": params}, x)
    # The keyword spotter's file has eight-bit kernels, which LiteRT multiplies with activations rounded to eight bits.
    expected = Model(edited(PUBLIC / name, floats_to_the_logits)).batch(np.asarray(x))
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5 * float(np.abs(expected).max()))


@pytest.mark.data
@NEEDS_FILES
def test_public_resnet8_classifies_cifar_10_as_litert_does():
    model = models.ResNet8(norm=False)
    params = public("pretrainedResnet.tflite", model, (32, 32, 3))
    test = data.load("cifar-10").test
    images = test.images[:300].astype(np.float32)
    logits = jax.jit(model.apply)({"params": params}, images)
    expected = Model(PUBLIC / "pretrainedResnet.tflite").batch(images)
    np.testing.assert_allclose(jax.nn.softmax(logits), expected, atol=1e-4)
    assert np.mean(np.argmax(logits, 1) == test.labels[:300]) > 0.8


@pytest.mark.data
@NEEDS_FILES
@pytest.mark.parametrize(
    ("quantized", "float32", "model", "shape"),
    [
        ("pretrainedResnet_quant.tflite", "pretrainedResnet.tflite", models.ResNet8(norm=False), (32, 32, 3)),
        ("vww_96_int8.tflite", "vww_96_float.tflite", models.MobileNetV1(norm=False), (96, 96, 3)),
        ("ad01_int8.tflite", "ad01_fp32.tflite", models.AutoEncoder(norm=False), (640,)),
    ],
)
def test_public_integers_are_near_their_floats(quantized, float32, model, shape):
    found, expected = (flatten_dict(public(name, model, shape), sep="/") for name in (quantized, float32))
    for path in found:
        if path.endswith("kernel"):
            axes = tuple(range(found[path].ndim - 1)) if path[:2] != "fc" else None
            step = np.abs(found[path]).max(axis=axes) / 127  # the largest code of a channel is 127
            assert np.all(np.abs(found[path] - expected[path]) <= 0.51 * step + 1e-9), path


@pytest.mark.data
@pytest.mark.slow
@NEEDS_FILES
def test_the_public_mobilenet_with_its_dead_channels_is_written_as_integers(tmp_path):
    """Of its 2738 outputs of layers 970 have weights below 1e-20 beside a bias."""
    model, shape = models.MobileNetV1(norm=False), (96, 96, 3)
    params = {"params": public("vww_96_float.tflite", model, shape)}
    x = jnp.clip(0.5 + 0.25 * draws.normal(48, *shape), 0, 1)
    graph, weights = jc.read(model.apply, params, x[:1])
    largest = [np.abs(of["kernel"]).max(tuple(range(of["kernel"].ndim - 1))) for of in weights.values()]
    assert sum(int(np.sum(of < 1e-20)) for of in largest) == 970 and sum(of.size for of in largest) == 2738
    grids = jc.quantize.calibrate(graph, weights, [x[:16]])
    device = jc.quantize.to_integers(graph, jc.quantize.post_training(graph, weights, grids, [x[:16]]), grids)
    assert jc.export.compared(device)["default"] > 5000
    jc.export.integers(device, tmp_path / "model.tflite")
    found = decode(jax.jit(jc.integers(device))(encode(x, grids["input"])), grids[graph.output])
    expected = jax.jit(graph)(weights, x)
    assert float(jnp.sqrt(jnp.mean((found - expected) ** 2) / jnp.mean(expected**2))) < 0.15
