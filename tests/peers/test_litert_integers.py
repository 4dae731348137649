"""Holds the arithmetics of `jaxcompress.integers` to the kernels that they are named after, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress import quantize
from jaxcompress.export import writer
from jaxcompress.export.litert import Model
from jaxcompress.interpreters.graph import Graph, Node, Window
from jaxcompress.interpreters.integers import Integers, Layer, encode, integers
from tests.nets import PAIRS, grid, layer_model, op_model, pairs_model

pytest.importorskip("ai_edge_litert", reason="pip install 'jaxcompress[tflite]'")

ARITHMETICS = ["xnnpack", "reference", "micro"]
SIMPLE = Window((1, 1), (1, 1), ((0, 0), (0, 0)))
FULL = ((1, 1), (1, 1))


def on_device(model, codes, arithmetic):
    data = writer.to_bytes(model)
    if arithmetic != "micro":
        return Model(data, kernels="default" if arithmetic == "xnnpack" else "reference").batch(codes)
    interpreter = pytest.importorskip("tflite_micro").runtime.Interpreter.from_bytes(data, arena_size=2**22)
    out = []
    for i in range(len(codes)):
        interpreter.set_input(codes[i : i + 1], 0)
        interpreter.invoke()
        out.append(interpreter.get_output(0).copy())
    return np.concatenate(out)


def assert_equal_to_device(model, codes, arithmetic, about=""):
    found = np.asarray(integers(model, arithmetic)(jnp.asarray(codes)))
    expected = on_device(model, codes, arithmetic)
    np.testing.assert_array_equal(found, expected, err_msg=f"{about} {model.graph} {model.grids}")


def drawn_codes(draw, shape):
    """Draws codes, sometimes extremes only."""
    values = draw.integers(-128, 128, shape) if draw.random() < 0.7 else draw.choice([-128, 127], shape)
    return values.astype(np.int8)


def drawn_grid(draw, low=-20, high=10):
    return grid(2.0 ** draw.uniform(low, high), int(draw.choice([-128, 127, 0, draw.integers(-128, 128)])))


def drawn_layer(draw, shape, given, made, by_output, factor=None):
    """Draws a kernel of 2 to 8 bits, with codes out of the factor's order of size."""
    largest = 2 ** (draw.integers(2, 9) - 1) - 1
    kernel, outputs = draw.integers(-largest, largest + 1, shape).astype(np.int8), shape[-1]
    spread = max(np.prod(shape[:-1]) ** 0.5 * largest * 50, 1)
    factor = 2.0 ** draw.uniform(-3, 3) * 100 / spread if factor is None else factor
    scale = np.full(outputs, factor * np.float64(made.scale) / np.float64(given.scale))
    scale = scale * 2.0 ** draw.uniform(-3, 0, outputs) if by_output else scale
    bias = np.clip(draw.normal(0, 60 / factor, outputs), -(2.0**30), 2.0**30).astype(np.int32)
    return Layer(kernel, scale.astype(np.float32), bias)


def drawn_convolution(draw):
    size, strides, dilation = (tuple(map(int, draw.integers(1, top, 2))) for top in (5, 4, 3))
    inputs = int(draw.choice([1, 2, 4, 6]))
    groups = int(draw.choice([1, inputs, max(inputs // 2, 1)]))
    shape = (1, *map(int, draw.integers(7, 12, 2)), inputs)
    window = Window(size, strides, ((0, 0), (0, 0)), dilation, groups)
    padding = [window.padding, writer._same_padding(shape, window), ((1, 0), (0, 2))][draw.integers(3)]
    given, made = drawn_grid(draw), drawn_grid(draw)
    kernel = (*size, inputs // groups, groups * int(draw.integers(1, 4)))
    layer = drawn_layer(draw, kernel, given, made, draw.random() < 0.6)
    activation = draw.choice([None, "relu", "relu6"])
    return layer_model(layer, given, made, shape, window._replace(padding=padding), activation)


def drawn_dense(draw):
    inputs, outputs = map(int, draw.integers(1, 80, 2))
    shape = [(1, inputs), (1, 3, inputs), (1, 2, 2, inputs)][draw.integers(3)]
    given, made = drawn_grid(draw), drawn_grid(draw)
    layer = drawn_layer(draw, (inputs, outputs), given, made, draw.random() < 0.5)
    return layer_model(layer, given, made, shape, None, draw.choice([None, "relu", "relu6"]))


def drawn_mean(draw):
    shape = (1, *map(int, draw.integers(1, 17, 3)))
    axes, kept = [(1, 2), (1,), (2,), (3,), (1, 2, 3)][draw.integers(5)], draw.random() < 0.5
    given = drawn_grid(draw)
    made = grid(given.scale * np.float32(2.0 ** draw.uniform(-12, 12)), drawn_grid(draw).zero_point)
    return op_model("mean", shape, given, made, axes=axes, out=shape if kept else shape[: 4 - len(axes)])


def drawn_pool(draw):
    shape = (1, *map(int, draw.integers(4, 12, 3)))
    window = Window(*(tuple(map(int, draw.integers(1, top, 2))) for top in (5, 4)), ((0, 0), (0, 0)))
    window = window._replace(padding=writer._same_padding(shape, window)) if draw.random() < 0.5 else window
    return op_model(draw.choice(["max_pool", "average_pool"]), shape, drawn_grid(draw), window=window)


def drawn_move(draw):
    shape, of = (1, *map(int, draw.integers(2, 7, 3))), drawn_grid(draw)
    match draw.integers(5):
        case 0:
            return op_model("reshape", shape, of, out=(1, shape[1], shape[2] * shape[3]))
        case 1:
            return op_model("transpose", shape, of, axes=(0, *map(int, 1 + draw.permutation(3))))
        case 2:
            axis = int(draw.integers(1, 4))
            return op_model("concatenate", shape, of, inputs=("input",) * int(draw.integers(2, 7)), axes=(axis,))
        case 3:
            edges = tuple((int(a), int(b)) for a, b in draw.integers(0, 3, (3, 2)))
            return op_model("pad", shape, of, extents=((0, 0), *edges))
        case _:
            cuts = tuple((int(draw.integers(0, n)), n, int(draw.integers(1, 3))) for n in shape[1:])
            return op_model("slice", shape, of, extents=((0, 1, 1), *cuts))


KINDS = {
    "convolution": drawn_convolution,
    "dense": drawn_dense,
    "mean": drawn_mean,
    "pool": drawn_pool,
    "move": drawn_move,
}


def check_drawn(kind, seeds):
    for seed in seeds:
        draw = np.random.default_rng([seed, len(kind)])
        model = KINDS[kind](draw)
        codes = drawn_codes(draw, (4, *model.graph.input_shape[1:]))
        for arithmetic in ARITHMETICS:
            assert_equal_to_device(model, codes, arithmetic, f"{seed} {arithmetic}")


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_operations(kind):
    check_drawn(kind, range(3))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_drawn_operations(kind):
    check_drawn(kind, range(3, 100))


# Extremes


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("by_output", [False, True])
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_sums_next_to_halves_at_factors_of_all_sizes(kind, by_output, arithmetic):
    """Puts the accumulator, by its bias, where the last bit of the factor and the kind of rounding decide."""
    for seed, power in enumerate([-34, -32, -29, -24, -20, -12, -5, -1, 0, 3, 7.9]):
        draw, outputs = np.random.default_rng(seed), 256
        given, made = drawn_grid(draw), drawn_grid(draw)
        factor = 2.0**power * np.float64(made.scale) / np.float64(given.scale)
        scale = (factor * (draw.uniform(0.5, 1, outputs) if by_output else np.ones(outputs))).astype(np.float32)
        real = np.float64(given.scale) * scale.astype(np.float64) / np.float64(made.scale)
        halves = np.floor((draw.integers(-255, 256, outputs) + 0.5) / real) + draw.integers(-1, 3, outputs)
        bias = np.clip(halves, -(2**31) + 1, 2**31 - 1).astype(np.int32)
        layer = Layer(np.zeros((1, outputs), np.int8), scale, bias)
        shape, window = (1, 1), None
        if kind == "convolution":
            layer, shape, window = layer._replace(kernel=layer.kernel[None, None]), (1, 1, 1, 1), SIMPLE
        model = layer_model(layer, given, made, shape, window)
        assert_equal_to_device(model, np.zeros(shape, np.int8), arithmetic, f"2**{power}")


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_sums_beyond_what_floats_hold(kind, arithmetic):
    draw, given, made = np.random.default_rng(0), grid(0.1, -128), grid(7.0, 3)
    kernel, shape, window = (4000, 9), (1, 4000), None
    if kind == "convolution":
        kernel, shape, window = (5, 5, 200, 4), (1, 6, 6, 200), Window((5, 5), (1, 1), ((2, 2), (2, 2)))
    layer = drawn_layer(draw, kernel, given, made, True)
    layer = layer._replace(kernel=draw.choice([-127, 127, 126], kernel).astype(np.int8))
    for codes in (drawn_codes(draw, (2, *shape[1:])), np.full(shape, 127, np.int8)):
        assert_equal_to_device(layer_model(layer, given, made, shape, window), codes, arithmetic)


# A scale below 2**-10 of the sum's is nothing that XNNPACK takes: LiteRT then runs a kernel of its own.
ADDITIONS = [(0, 0), (0.3, -1.7), (-10, 7.99), (7.99, 7.5), (-9.9, -9.5), (-10.01, 0), (-13, -11), (-2.6, -14), (5, -5)]


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("powers", ADDITIONS)
def test_additions_of_all_pairs_of_codes(powers, arithmetic):
    draw = np.random.default_rng(ADDITIONS.index(powers))
    made, activation = drawn_grid(draw, -8, 3), [None, "relu", "relu6"][ADDITIONS.index(powers) % 3]
    of_x, of_y = (drawn_grid(draw, 0, 0)._replace(scale=made.scale * np.float32(2.0**power)) for power in powers)
    assert_equal_to_device(pairs_model(of_x, of_y, made, activation), PAIRS, arithmetic)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("scale", [12.0, 12.000001, 2.4, 12 / 7, 0.8, 0.48, 0.047, 1e-4, 1000.0])
def test_six_lies_half_way_between_two_codes(scale, arithmetic):
    bias = np.arange(-150, 150, dtype=np.int32)
    layer = Layer(np.zeros((1, bias.size), np.int8), np.full(bias.size, scale, np.float32), bias)
    for zero in (0, 1, -7, -128):
        for activation in ("relu6", "relu"):
            model = layer_model(layer, grid(1.0), grid(scale, zero), (1, 1), None, activation)
            assert_equal_to_device(model, np.zeros((1, 1), np.int8), arithmetic, zero)


# Whole models


def drawn_net(draw):
    """Draws a residual block between a stem and a head, in codes that span their range."""
    c, grids, layers, nodes = 8, {"input": drawn_grid(draw, -5, -3)}, {}, []

    def layer(name, given, kernel, shape, window=None, activation=None):
        grids[name] = drawn_grid(draw, -5, -3)
        layers[name] = drawn_layer(draw, kernel, grids[given], grids[name], window is not None and draw.random() < 0.7)
        kind = "dense" if window is None else "convolution"
        nodes.append(Node(name, kind, (given,), shape, window=window, activation=activation))

    def op(name, kind, inputs, shape, same=False, **at):
        grids[name] = grids[inputs[0]] if same else drawn_grid(draw, -5, -3)
        nodes.append(Node(name, kind, inputs, shape, **at))

    square = (1, 6, 6, c)
    layer("stem", "input", (3, 3, 3, c), square, Window((3, 3), (2, 2), ((0, 1), (0, 1))), "relu")
    layer("depthwise", "stem", (3, 3, 1, c), square, Window((3, 3), (1, 1), FULL, (1, 1), c), "relu6")
    layer("pointwise", "depthwise", (1, 1, c, c), square, SIMPLE)
    op("add", "add", ("pointwise", "stem"), square, activation=draw.choice([None, "relu"]))
    op("both", "concatenate", ("add", "add"), (1, 6, 6, 2 * c), True, axes=(3,))
    op("pool", "max_pool", ("both",), (1, 3, 3, 2 * c), True, window=Window((2, 2), (2, 2), ((0, 0), (0, 0))))
    layer("wide", "pool", (2, 2, 2, 2 * c), (1, 3, 3, 2 * c), Window((2, 2), (1, 1), ((1, 0), (1, 0)), (1, 1), c))
    op("mean", "mean", ("wide",), (1, 2 * c), axes=(1, 2))
    op("flat", "reshape", ("wide",), (1, 18 * c), True)
    layer("one", "mean", (2 * c, 10), (1, 10))
    layer("two", "flat", (18 * c, 10), (1, 10))
    op("out", "add", ("one", "two"), (1, 10))
    return Integers(Graph(tuple(nodes), (1, 12, 12, 3), "out"), grids, layers)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_drawn_nets(arithmetic):
    for seed in range(2):
        draw = np.random.default_rng(seed)
        model = drawn_net(draw)
        assert_equal_to_device(model, drawn_codes(draw, (32, 12, 12, 3)), arithmetic, seed)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_calibrated_model(arithmetic):
    params = {"fc": {"kernel": jax.random.normal(jax.random.key(0), (20, 12))}}
    batch = jax.random.normal(jax.random.key(1), (300, 20))
    graph, weights = jc.read(lambda params, x: jax.nn.relu(x @ params["fc"]["kernel"]), params, batch[:1])
    grids = quantize.calibrate(graph, weights, [batch])
    bits = 8 if arithmetic == "micro" else 4  # tflite-micro has no kernels for int4
    model = quantize.to_integers(graph, quantize.weights(".*kernel", bits).init(weights), grids)
    assert_equal_to_device(model, np.asarray(encode(batch, grids["input"])), arithmetic)
