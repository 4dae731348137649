"""What is written of a model of which channels are removed is the smaller model."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxcompress as jc
from jaxcompress import prune
from jaxcompress.export.litert import Model, operators, tensors
from jaxcompress.interpreters.integers import encode
from tests.channel_nets import CHANNEL_NETS


@pytest.fixture(scope="module")
def removed():
    """Returns a LeNet-5 with kernels rounded to int8 in training, and what is left when half of its channels go."""
    net = CHANNEL_NETS["linen_lenet5"]()
    params = jc.quantize.weights(".*/kernel", bits=8, granularity="channel").init(net.params)
    found = jc.channels(net.apply, params, net.x)
    kept = {i: np.arange(group.channels) % 2 == 1 for i, group in enumerate(found.groups)}
    return net, prune.remove(params, found, kept)


KERNELS = {"conv1": (2, 5, 5, 1), "conv2": (3, 5, 5, 2), "fc1": (4, 48), "fc2": (3, 4)}  # as TFLite lays them out


def test_a_graph_is_of_what_is_left_and_its_kernels_stay_integers(removed):
    net, small = removed
    graph, weights = jc.read(net.apply, small, net.x)
    assert {name: layer["kernel"].shape for name, layer in weights.items()} == {
        f"params/{name}": shape
        for name, shape in {"conv1": (5, 5, 1, 2), "conv2": (5, 5, 2, 3), "fc1": (48, 4), "fc2": (4, 3)}.items()
    }
    assert all(jc.arrays.is_compressed(layer["kernel"]) for layer in weights.values())
    np.testing.assert_allclose(graph(weights, net.x), jc.lift(net.apply)(small, net.x), rtol=1e-4, atol=1e-4)


def test_the_integer_file_holds_and_computes_what_is_left(removed, tmp_path):
    net, small = removed
    graph, weights = jc.read(net.apply, small, net.x)
    model = jc.quantize.to_integers(graph, weights, jc.quantize.calibrate(graph, weights, [net.x]))
    path = tmp_path / "small.tflite"
    jc.export.integers(model, path)
    kernels = {name: tensors(path)[f"params/{name}/kernel"].values for name in KERNELS}
    assert {name: np.shape(kernel) for name, kernel in kernels.items()} == KERNELS
    x = encode(net.x, model.grids["input"], "xnnpack")
    np.testing.assert_array_equal(Model(path).batch(np.asarray(x)), jax.jit(jc.integers(model, "xnnpack"))(x))


def test_uses_are_those_of_the_smaller_model(removed):
    net, small = removed
    found = jc.uses(net.apply, lambda use: np.array(use.weight.shape))(small, net.x)
    assert {path: tuple(shapes[0]) for path, shapes in found.items()}["params/conv2/kernel"] == (5, 5, 2, 3)


def test_the_ledger_has_the_operations_and_the_bytes_of_what_is_left(removed):
    net, small = removed
    ledger = jc.ledger(jc.lift(net.apply), small, net.x)
    assert ledger.macs == 24 * 24 * 25 * 2 + 8 * 8 * 25 * 2 * 3 + 48 * 4 + 4 * 3
    assert ledger.dense_macs == 24 * 24 * 25 * 4 + 8 * 8 * 25 * 4 * 6 + 96 * 8 + 8 * 3
    assert {entry.kind for entry in ledger.entries} == {"Sliced(Quantized 8-bit)", "Sliced(float32)", "float32"}
    assert ledger.packed_bytes < 2000 < 6000 < ledger.dense_bytes


class Normalized(nnx.Module):
    """Three convolutions with batch normalisation, whose statistics the adapter closes over."""

    def __init__(self, rngs):
        widths = (3, 32, 32, 32)
        self.convs = nnx.List([nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in itertools.pairwise(widths)])
        self.norms = nnx.List([nnx.BatchNorm(32, use_running_average=True, rngs=rngs) for _ in widths[1:]])
        self.head = nnx.Linear(32, 10, rngs=rngs)
        for i, norm in enumerate(self.norms):
            norm.mean[...] = jax.random.normal(jax.random.key(i), (32,))
            norm.var[...] = jnp.linspace(0.5, 2.0, 32)

    def __call__(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(conv(x)))
        return self.head(x.mean((1, 2)))


@pytest.mark.slow
def test_the_tflite_file_has_the_plain_operations_of_the_smaller_model(tmp_path):
    apply, params = jc.adapters.nnx.functional(Normalized(nnx.Rngs(0)))
    x, path = jax.random.normal(jax.random.key(3), (1, 16, 16, 3)), tmp_path / "small.tflite"
    found = jc.channels(apply, params, x)
    kept = {i: np.arange(group.channels) % 3 == 1 for i, group in enumerate(found.groups)}  # 11 of 32
    assert jc.export.tflite(apply, prune.remove(params, found, kept), x, path) < 20_000
    assert [operator.name for operator in operators(path.read_bytes())] == [*["CONV_2D"] * 3, "SUM", "FULLY_CONNECTED"]
    weights = 11 * (27 + 2 * 99) + 3 * 11 + 110 + 10  # the norms are folded into kernels and biases
    assert 4 * weights < path.stat().st_size < 4 * weights + 8_000
