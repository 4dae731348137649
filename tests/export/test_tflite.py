"""The TFLite file runs in LiteRT to JAX's numbers, with factors as thin operations."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.export import tflite
from jaxcompress.export.litert import Model, latency, operators, tensor_types
from tests.nets import CAFFE, LinenLeNet5, LinenResNet, linen_net

# TensorFlow's own, while it is imported and while it converts.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def linear(params, x):
    return x @ params["kernel"]


KERNEL = {"kernel": jnp.arange(6.0).reshape(2, 3)}
X = jnp.array([[1.0, 2.0]])


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    """Exports LeNet-5 with conv2 at rank 7 and fc1 at rank 9; returns net, parameters and file."""
    net = linen_net(LinenLeNet5(CAFFE), jax.random.normal(jax.random.key(0), (1, 28, 28, 1)), "")
    recipe = jc.chain(jc.factorize.svd("conv2/kernel", 7), jc.factorize.svd("fc1/kernel", 9))
    params = recipe.init(net.params)
    path = tmp_path_factory.mktemp("tflite") / "lenet.tflite"
    size = tflite(net.apply, params, net.x, path)
    assert size == path.stat().st_size
    return net, params, path


def test_removed_channels_are_not_written(tmp_path):
    def apply(params, x):
        return jax.nn.relu(x @ params["a"]) @ params["b"]

    params = {"a": jax.random.normal(jax.random.key(0), (16, 128)), "b": jnp.ones((128, 16))}
    x = jnp.ones((1, 16))
    found = jc.channels(apply, params, x)
    small = jc.prune.remove(params, found, {0: np.arange(128) % 8 == 0})
    assert (
        tflite(jc.lift(apply), small, x, tmp_path / "small") < tflite(jc.lift(apply), params, x, tmp_path / "all") / 3
    )


def test_lenet_runs_in_litert_as_in_jax(lenet):
    net, params, path = lenet
    images = np.asarray(jax.random.normal(jax.random.key(1), (5, 28, 28, 1)))
    found, expected = Model(path).batch(images), np.asarray(net.apply(params, images))
    assert found.shape == expected.shape == (5, 10)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_factors_stay_two_thin_operations(lenet):
    found = operators(lenet[2])
    conv2 = [op for op in found if op.name == "CONV_2D"]  # conv1, of one channel, is a DEPTHWISE_CONV_2D
    first, second, fc2 = [op for op in found if op.name == "FULLY_CONNECTED"]
    assert [op.outputs for op in conv2] == [((1, 8, 8, 7),), ((1, 8, 8, 50),)]
    assert (7, 5, 5, 20) in conv2[0].inputs and (50, 1, 1, 7) in conv2[1].inputs
    assert [op.outputs[0][-1] for op in (first, second, fc2)] == [9, 500, 10]
    assert (9, 800) in first.inputs and (500, 9) in second.inputs


def _ring(array):
    ranks = [3, 3, 3, 4, 3, 4, 3]
    cores = zip(ranks[:-1], array.shape, ranks[1:], strict=True)
    return [np.random.default_rng(i).standard_normal(core).astype(np.float32) / 4 for i, core in enumerate(cores)]


FORMS = {
    "spatial": lambda: jc.factorize.svd("kernel", 6, split="spatial"),
    "tucker2": lambda: jc.factorize.tucker2("kernel", 6),
    "tucker": lambda: jc.factorize.tucker("kernel", (2, 2, 6, 6)),
    "cp": lambda: jc.factorize.cp("kernel", 8, key=jax.random.key(0), sweeps=5),
    "tensor train": lambda: jc.factorize.tensor_train("kernel", (4, 8), (4, 8), 4),
    "tensor ring": lambda: jc.factorize.by("kernel", _ring, inputs=(4, 8), outputs=(4, 8)),
    "kronecker": lambda: jc.factorize.kronecker("kernel", (4, 4), 2),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("strides, padding, dilation", [((1, 1), "SAME", (1, 1)), ((2, 2), "VALID", (1, 1))])
@pytest.mark.sampled(3)
def test_factors_of_every_form_run_as_in_jax_in_a_smaller_file(tmp_path, form, strides, padding, dilation):
    def apply(params, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, params["kernel"], strides, padding, rhs_dilation=dilation, dimension_numbers=numbers
        )

    dense = {"kernel": jax.random.normal(jax.random.key(1), (3, 3, 32, 32)) / 17}
    params = FORMS[form]().init(dense)
    x = jax.random.normal(jax.random.key(2), (1, 9, 9, 32))
    size = tflite(jc.lift(apply), params, x, tmp_path / "thin.tflite")
    np.testing.assert_allclose(Model(tmp_path / "thin.tflite")(np.asarray(x)), apply(jc.densify(params), x), atol=1e-4)
    assert size < 0.75 * 4 * dense["kernel"].size


@pytest.mark.parametrize("format, smaller", [("float16", 1.9), ("dynamic-int8", 3.5)])
def test_smaller_formats_are_smaller_and_near(lenet, tmp_path, format, smaller):
    net = lenet[0]
    size = tflite(net.apply, net.params, net.x, tmp_path / "small.tflite", format=format)
    assert size * smaller < 4 * sum(leaf.size for leaf in jax.tree.leaves(net.params)) + 8000
    found = Model(tmp_path / "small.tflite")(np.asarray(net.x))
    np.testing.assert_allclose(found, net.apply(net.params, net.x), atol=0.05)


def test_latency_is_positive_and_says_how_it_was_measured(lenet):
    found = latency(lenet[2], device="here", interpreters=2, invokes=20)
    assert 0 < found.min_us <= found.median_us < 1e6
    assert found.spread_us >= 0
    assert (found.interpreters, found.invokes, found.threads, found.device) == (2, 20, 1, "here")


def images(n, seed=5):
    return np.asarray(jax.random.normal(jax.random.key(seed), (n, 28, 28, 1)))


def test_the_converters_integers_have_no_float_and_are_near(lenet, tmp_path):
    net, path, batches = lenet[0], tmp_path / "ptq.tflite", [images(30), images(10, 6)]
    size = tflite(net.apply, net.params, net.x, path, format="int8-converter", representative=batches)
    assert size == path.stat().st_size < sum(leaf.size for leaf in jax.tree.leaves(net.params)) + 20000
    assert set(tensor_types(path)) == {"int8", "int32"}
    assert {kind for op in operators(path) for kind in op.types} == {"int8", "int32"}
    expected = np.asarray(net.apply(net.params, batches[1]))
    for kernels in ("default", "reference"):
        model = Model(path, kernels=kernels)
        found = model.decode(model.batch(model.encode(batches[1])))
        assert found.shape == expected.shape
        assert np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)) < 0.1


def test_the_converters_mean_is_a_sum_that_reference_kernels_get_wrong(tmp_path):
    # If this fails, LiteRT or the converter was mended: the warnings in tflite's docstring and in reports may go.
    net = linen_net(LinenResNet(), images(1)[..., :8, :8, :].repeat(3, -1), "")
    x = images(40)[:, :8, :8].repeat(3, -1)
    path = tmp_path / "ptq.tflite"
    tflite(net.apply, net.params, x[:1], path, format="int8-converter", representative=[x])
    assert "SUM" in [op.name for op in operators(path)]
    expected, errors = np.asarray(net.apply(net.params, x)), {}
    for kernels in ("default", "reference"):
        model = Model(path, kernels=kernels)
        found = model.decode(model.batch(model.encode(x)))
        errors[kernels] = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
    assert errors["default"] < 0.1 < errors["reference"]


@pytest.mark.parametrize(
    ("representative", "message"),
    [
        (None, "needs representative data: at least one batch"),
        ([], "needs representative data: at least one batch"),
        ([np.zeros((2, 3), np.float32)], r"have shape \(2, 3\); the example's is \(1, 2\)"),
    ],
)
def test_representative_data_that_cannot_be_observed_are_refused(tmp_path, representative, message):
    with pytest.raises(ValueError, match=message):
        tflite(linear, KERNEL, X, tmp_path / "x.tflite", format="int8-converter", representative=representative)
    with pytest.raises(ValueError, match="format 'float32' observes nothing"):
        tflite(linear, KERNEL, X, tmp_path / "x.tflite", representative=[X])
    assert not list(tmp_path.iterdir())


def test_an_operator_left_in_floats_is_refused(tmp_path, monkeypatch):
    module = sys.modules["jaxcompress.export.tflite"]
    convert = module.convert
    monkeypatch.setattr(module, "convert", lambda *args: convert(*args[:3]))
    with pytest.raises(RuntimeError, match="the converter left FULLY_CONNECTED in floats; nothing written"):
        tflite(linear, KERNEL, X, tmp_path / "x.tflite", format="int8-converter", representative=[X])
    assert not list(tmp_path.iterdir())


def test_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="format 'int3' is not one of"):
        tflite(linear, KERNEL, X, tmp_path / "x.tflite", format="int3")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [lambda y: y + 1, lambda y: y[:, :2], lambda y: y * jnp.nan])
def test_nothing_is_written_when_the_file_does_not_compute_what_jax_does(wrong, tmp_path):
    calls = []

    def fickle(params, x):  # its first call is the one that is converted
        calls.append(x)
        y = linear(params, x)
        return y if len(calls) == 1 else wrong(y)

    with pytest.raises(RuntimeError, match="nothing written"):
        tflite(fickle, KERNEL, X, tmp_path / "x.tflite")
    assert not list(tmp_path.iterdir())


def test_missing_tensorflow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match=r"jaxcompress\[tflite\]"):
        tflite(linear, KERNEL, X, tmp_path / "x.tflite")


def test_missing_litert_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(ImportError, match=r"jaxcompress\[tflite\]"):
        Model(b"")


def test_what_is_not_a_tflite_file_is_refused(tmp_path):
    with pytest.raises(ValueError):
        Model(b"no flatbuffer")
    with pytest.raises(FileNotFoundError):
        Model(tmp_path / "none.tflite")
