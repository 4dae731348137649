"""Checks what is read from TFLite files, and the memory that LiteRT plans for them, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.export import writer
from jaxcompress.export.litert import Model, arena, operators, tensor_types, tensors
from jaxcompress.interpreters.graph import INPUT, Graph, Node
from jaxcompress.interpreters.integers import Integers, Layer, decode, encode
from tests.nets import grid, layer_model, op_model

pytest.importorskip("ai_edge_litert", reason="pip install 'jaxcompress[tflite]'")


def dense(inputs, outputs, bits=8):
    kernel = np.random.default_rng(0).integers(-7, 8, (inputs, outputs)).astype(np.int8)
    return Layer(kernel, np.full(outputs, 0.01, np.float32), np.zeros(outputs, np.int32), bits)


def chain(*widths):
    """A perceptron of these widths."""
    names = [f"fc{i}" for i in range(1, len(widths))]
    nodes = tuple(
        Node(name, "dense", (given,), (1, width))
        for name, given, width in zip(names, [INPUT, *names], widths[1:], strict=False)
    )
    layers = {name: dense(a, b) for name, a, b in zip(names, widths, widths[1:], strict=False)}
    return Integers(Graph(nodes, (1, widths[0]), names[-1]), {n: grid(0.1) for n in (INPUT, *names)}, layers)


def padded(size):
    return -(-size // 64) * 64


def test_arena_by_hand():
    # The input stays throughout. Of the rest the largest lie first, each as low as what is needed with it allows;
    # the fourth is needed no more when the second is not there yet.
    assert arena(writer.to_bytes(chain(100, 300))) == padded(100) + 300
    assert arena(writer.to_bytes(chain(1000, 300, 50))) == padded(1000) + padded(300) + 50
    assert arena(writer.to_bytes(chain(1000, 300, 50, 290))) == padded(1000) + padded(300) + 50
    assert arena(writer.to_bytes(chain(10, 300, 400, 300))) == padded(10) + padded(400) + 300


def test_arena_of_16_bits_is_twice_as_large_but_for_what_it_is_rounded_to():
    model = chain(128, 256)
    wide = model._replace(
        grids={name: of._replace(bits=16) for name, of in model.grids.items()},
        layers={name: layer._replace(bias=layer.bias.astype(np.int64)) for name, layer in model.layers.items()},
    )
    assert arena(writer.to_bytes(wide)) == 2 * arena(writer.to_bytes(model)) == 2 * (128 + 256)


def test_reals_outside_take_memory():
    assert arena(writer.to_bytes(chain(64, 128), "float32")) == 4 * 64 + 4 * 128 + 128


def test_types_are_those_of_the_file():
    model = layer_model(dense(6, 4, bits=4), grid(0.1), grid(0.1), (1, 6))
    assert tensor_types(writer.to_bytes(model)) == {"int8": 2, "int4": 1, "int32": 1}
    assert tensor_types(writer.to_bytes(model, "float32")) == {"float32": 2, "int8": 2, "int4": 1, "int32": 1}


def test_operators_have_the_shapes_and_types_of_what_they_read_and_make():
    first, layer, last = operators(writer.to_bytes(chain(6, 4), "float32"))
    assert first == ("QUANTIZE", ((1, 6),), ((1, 6),), ("float32", "int8"))
    assert layer == ("FULLY_CONNECTED", ((1, 6), (4, 6), (4,)), ((1, 4),), ("int8", "int8", "int32", "int8"))
    assert last == ("DEQUANTIZE", ((1, 4),), ((1, 4),), ("int8", "float32"))


def test_tensors_are_those_of_the_file_alone():
    # LiteRT adds buffers of its own to a mean and to a convolution, once it has made room for them.
    found = tensors(writer.to_bytes(op_model("mean", (1, 4, 4, 2), grid(0.1, 3), axes=(1, 2), out=(1, 2))))
    assert list(found) == ["input", "op", "op/axes"]
    assert found["op/axes"].values.tolist() == [1, 2] and found["input"].values is None
    assert (found["op"].scale.tolist(), found["op"].zero_point.tolist()) == ([np.float32(0.1)], [3])


@pytest.mark.parametrize("bits", [8, 16])
def test_a_model_knows_the_codes_that_it_takes_and_gives(bits):
    given, made = grid(0.05, 3 if bits == 8 else 0)._replace(bits=bits), grid(2.0)._replace(bits=bits)
    layer = dense(6, 4)
    model = Model(writer.to_bytes(layer_model(layer, given, made, (1, 6))))
    x = np.linspace(-9, 9, 6, dtype=np.float32)[None]
    np.testing.assert_array_equal(model.encode(x), encode(jnp.asarray(x), given))
    codes = np.arange(-2, 2)[None].astype(f"int{bits}")
    np.testing.assert_array_equal(model.decode(codes), decode(jnp.asarray(codes), made))
