"""Holds the arithmetics of `jaxcompress.integers` to the kernels that they are named after, bit for bit."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress import quantize
from jaxcompress.export import writer
from jaxcompress.export.litert import Model
from jaxcompress.interpreters.graph import Graph, Node, Window
from jaxcompress.interpreters.integers import Grid, Integers, Layer, decode, encode, integers
from tests.nets import PAIRS, grid, layer_model, op_model, pairs_model

pytest.importorskip("ai_edge_litert", reason="pip install 'jaxcompress[tflite]'")

ARITHMETICS = ["xnnpack", "reference", "micro"]
SIMPLE = Window((1, 1), (1, 1), ((0, 0), (0, 0)))
FULL = ((1, 1), (1, 1))


def on_device(data, codes, arithmetic):
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
    expected = on_device(writer.to_bytes(model), codes, arithmetic)
    np.testing.assert_array_equal(found, expected, err_msg=f"{about} {model.graph} {model.grids}")


def drawn_codes(draw, shape, bits=8):
    """Draws codes, sometimes extremes only."""
    half = 2 ** (bits - 1)
    values = draw.integers(-half, half, shape) if draw.random() < 0.7 else draw.choice([-half, half - 1], shape)
    return values.astype(f"int{bits}")


def drawn_grid(draw, bits=8, low=-20, high=10):
    zero_point = int(draw.choice([-128, 127, 0, draw.integers(-128, 128)]))
    return Grid(np.float32(2.0 ** draw.uniform(low, high)), zero_point if bits == 8 else 0, bits)


def drawn_layer(draw, shape, given, made, by_output, factor=None, stored=8):
    """Draws a kernel of 2 bits to those in which it is `stored`, with codes out of the factor's order of size."""
    largest = 2 ** (draw.integers(2, stored + 1) - 1) - 1
    kernel, outputs = draw.integers(-largest, largest + 1, shape).astype(np.int8), shape[-1]
    spread = max(np.prod(shape[:-1]) ** 0.5 * largest * 50, 1)
    factor = 2.0 ** draw.uniform(-3, 3) * 100 / spread if factor is None else factor
    scale = np.full(outputs, factor * np.float64(made.scale) / np.float64(given.scale))
    scale = scale * 2.0 ** draw.uniform(-3, 0, outputs) if by_output else scale
    wide, top = 2.0 ** (given.bits - 8), 2.0 ** (30 if given.bits == 8 else 40)
    bias = np.clip(draw.normal(0, 60 * wide / factor, outputs), -top, top)
    return Layer(kernel, scale.astype(np.float32), bias.astype(np.int32 if given.bits == 8 else np.int64), stored)


def drawn_convolution(draw, bits, stored=8):
    size, strides, dilation = (tuple(map(int, draw.integers(1, top, 2))) for top in (5, 4, 3))
    inputs = int(draw.choice([1, 2, 4, 6] if stored == 8 else [1, 4, 6, 8, 12]))
    groups = int(draw.choice([1, inputs, max(inputs // 2, 1)]))
    shape = (1, *map(int, draw.integers(7, 12, 2)), inputs)
    window = Window(size, strides, ((0, 0), (0, 0)), dilation, groups)
    padding = [window.padding, writer._same_padding(shape, window), ((1, 0), (0, 2))][draw.integers(3)]
    given, made = drawn_grid(draw, bits), drawn_grid(draw, bits)
    kernel = (*size, inputs // groups, groups * int(draw.integers(1, 4)))
    layer = drawn_layer(draw, kernel, given, made, draw.random() < 0.6, stored=stored)
    activation = draw.choice([None, "relu", "relu6"])
    return layer_model(layer, given, made, shape, window._replace(padding=padding), activation)


def drawn_dense(draw, bits, stored=8):
    inputs, outputs = map(int, draw.integers(1, 80, 2))
    shape = [(1, inputs), (1, 3, inputs), (1, 2, 2, inputs)][draw.integers(3)]
    given, made = drawn_grid(draw, bits), drawn_grid(draw, bits)
    layer = drawn_layer(draw, (inputs, outputs), given, made, draw.random() < 0.5, stored=stored)
    return layer_model(layer, given, made, shape, None, draw.choice([None, "relu", "relu6"]))


def drawn_mean(draw, bits):
    shape = (1, *map(int, draw.integers(1, 17, 3)))
    axes, kept = [(1, 2), (1,), (2,), (3,), (1, 2, 3)][draw.integers(5)], draw.random() < 0.5
    given = drawn_grid(draw, bits)
    made = drawn_grid(draw, bits)._replace(scale=given.scale * np.float32(2.0 ** draw.uniform(-12, 12)))
    return op_model("mean", shape, given, made, axes=axes, out=shape if kept else shape[: 4 - len(axes)])


def drawn_pool(draw, bits):
    shape = (1, *map(int, draw.integers(4, 12, 3)))
    window = Window(*(tuple(map(int, draw.integers(1, top, 2))) for top in (5, 4)), ((0, 0), (0, 0)))
    window = window._replace(padding=writer._same_padding(shape, window)) if draw.random() < 0.5 else window
    return op_model(draw.choice(["max_pool", "average_pool"]), shape, drawn_grid(draw, bits), window=window)


def drawn_move(draw, bits):
    shape, of = (1, *map(int, draw.integers(2, 7, 3))), drawn_grid(draw, bits)
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


def check_drawn(kind, bits, seeds):
    for seed in seeds:
        draw = np.random.default_rng([seed, len(kind)])
        model = KINDS[kind](draw, bits)
        codes = drawn_codes(draw, (4, *model.graph.input_shape[1:]), bits)
        for arithmetic in ARITHMETICS:
            assert_equal_to_device(model, codes, arithmetic, f"{seed} {arithmetic}")


BITS = pytest.mark.parametrize("bits", [8, 16])


@BITS
@pytest.mark.parametrize("kind", KINDS)
def test_drawn_operations(kind, bits):
    check_drawn(kind, bits, range(2))


@pytest.mark.slow
@BITS
@pytest.mark.parametrize("kind", KINDS)
def test_many_drawn_operations(kind, bits):
    check_drawn(kind, bits, range(2, 100))


# Kernels of int4, which tflite-micro has no arithmetic for

INT4 = ["xnnpack", "reference"]


def check_drawn_int4(kind, seeds):
    for seed in seeds:
        draw = np.random.default_rng([seed, len(kind)])
        model = KINDS[kind](draw, 8, stored=4)
        codes = drawn_codes(draw, (8, *model.graph.input_shape[1:]))
        for arithmetic in INT4:
            assert_equal_to_device(model, codes, arithmetic, f"{seed} {arithmetic}")


@pytest.mark.parametrize("kind", ["convolution", "dense"])
def test_drawn_kernels_of_int4(kind):
    check_drawn_int4(kind, range(2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["convolution", "dense"])
def test_many_drawn_kernels_of_int4(kind):
    check_drawn_int4(kind, range(2, 100))


def assert_int4_equal_to_device(kernel, shape, window, arithmetic, count, seed=0):
    """Holds a layer whose sums often lie next to halves to the device; returns the number of outputs compared."""
    draw, outputs = np.random.default_rng(seed), kernel[-1]
    scale = draw.uniform(0.02, 0.05, outputs).astype(np.float32)
    bias = draw.integers(-200, 200, outputs).astype(np.int32)
    layer = Layer(draw.integers(-7, 8, kernel).astype(np.int8), scale, bias, 4)
    model = layer_model(layer, grid(0.05, 3), grid(0.2, -5), shape, window)
    assert_equal_to_device(model, draw.integers(-128, 128, (count, *shape[1:])).astype(np.int8), arithmetic)
    return count * np.prod(model.graph.nodes[0].shape)


@pytest.mark.parametrize("arithmetic", INT4)
@pytest.mark.parametrize("inputs", [1, 2, 7, 8, 9, 21, 22, 33])
def test_int4_of_dense_layers_rounds_by_whether_the_number_of_inputs_is_even(inputs, arithmetic):
    for shape in ((1, inputs), (1, 5, inputs), (1, 2, 2, inputs)):
        assert_int4_equal_to_device((inputs, 16), shape, None, arithmetic, 200)


@pytest.mark.parametrize("arithmetic", INT4)
@pytest.mark.parametrize(("channels", "count", "compared"), [(12, 200, 86_400), (5, 200, 36_000)])
def test_int4_of_depthwise_layers_rounds_by_whole_blocks_of_channels(channels, count, compared, arithmetic):
    window = Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), channels)
    kernel, shape = (3, 3, 1, channels), (1, 6, 6, channels)
    assert assert_int4_equal_to_device(kernel, shape, window, arithmetic, count) == compared


CONVOLUTIONS = {
    "multiplier 2": ((3, 3, 1, 10), (1, 1), (1, 1), 5),
    "multiplier 3": ((3, 3, 1, 18), (1, 1), (1, 1), 6),
    "strided": ((3, 3, 1, 12), (2, 1), (1, 1), 12),
    "dilated": ((3, 3, 1, 13), (1, 1), (2, 2), 13),
    "strided and dilated": ((2, 3, 1, 10), (1, 2), (2, 1), 5),
    "one by one": ((1, 1, 1, 9), (1, 1), (1, 1), 9),
    "grouped": ((3, 3, 2, 6), (1, 1), (1, 1), 2),
    "grouped and strided": ((3, 2, 3, 9), (2, 2), (1, 1), 3),
    "of all channels": ((3, 3, 3, 5), (1, 1), (1, 1), 1),
    "pointwise": ((1, 1, 3, 7), (1, 1), (1, 1), 1),
    "of one channel": ((3, 3, 1, 7), (2, 2), (1, 1), 1),
}


@pytest.mark.parametrize("arithmetic", INT4)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_int4_of_convolutions(name, arithmetic):
    kernel, strides, dilation, groups = CONVOLUTIONS[name]
    window = Window(kernel[:2], strides, FULL, dilation, groups)
    assert_int4_equal_to_device(kernel, (1, 8, 9, groups * kernel[2]), window, arithmetic, 30)


@pytest.mark.parametrize("arithmetic", INT4)
@pytest.mark.parametrize("by_output", [False, True])
@pytest.mark.parametrize("kind", ["odd dense", "even dense", "convolution", "depthwise", "grouped"])
def test_sums_next_to_halves_of_int4(kind, by_output, arithmetic):
    shapes = {
        "odd dense": ((1, 260), (1, 1), None),
        "even dense": ((2, 260), (1, 2), None),
        "convolution": ((1, 1, 1, 260), (1, 1, 1, 1), SIMPLE),
        "depthwise": ((1, 1, 1, 260), (1, 1, 1, 20), SIMPLE._replace(groups=20)),
        "grouped": ((1, 1, 2, 260), (1, 1, 1, 4), SIMPLE._replace(groups=2)),
    }
    kernel, shape, window = shapes[kind]
    for seed, power in enumerate([-34, -29, -24, -20, -12, -5, -1, 0, 3, 7.9]):
        model = next_to_halves(np.random.default_rng(seed), kernel, shape, window, by_output, power, stored=4)
        assert_equal_to_device(model, np.zeros(shape, np.int8), arithmetic, f"2**{power}")


def next_to_halves(draw, kernel, shape, window, by_output, power, bits=8, stored=8):
    """Puts the accumulator, by its bias, where the last bit of the factor and the kind of rounding decide."""
    given, made, outputs = drawn_grid(draw, bits), drawn_grid(draw, bits), kernel[-1]
    factor = 2.0**power * np.float64(made.scale) / np.float64(given.scale)
    scale = (factor * (draw.uniform(0.5, 1, outputs) if by_output else np.ones(outputs))).astype(np.float32)
    real = np.float64(given.scale) * scale.astype(np.float64) / np.float64(made.scale)
    wide, (top, dtype) = 2 ** (bits - 8), ((2**31 - 1, np.int32) if bits == 8 else (2**46, np.int64))
    codes = draw.integers(-255 * wide, 256 * wide, outputs) + 0.5
    bias = np.clip(np.floor(codes / real) + draw.integers(-1, 3, outputs), -top, top).astype(dtype)
    return layer_model(Layer(np.zeros(kernel, np.int8), scale, bias, stored), given, made, shape, window)


# Extremes


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@BITS
@pytest.mark.parametrize("by_output", [False, True])
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_sums_next_to_halves_at_factors_of_all_sizes(kind, by_output, bits, arithmetic):
    kernel, shape, window = ((1, 256), (1, 1), None) if kind == "dense" else ((1, 1, 1, 256), (1, 1, 1, 1), SIMPLE)
    for seed, power in enumerate([-34, -32, -29, -24, -20, -12, -5, -1, 0, 3, 7.9]):
        model = next_to_halves(np.random.default_rng(seed), kernel, shape, window, by_output, power, bits)
        assert_equal_to_device(model, np.zeros(shape, f"int{bits}"), arithmetic, f"2**{power}")


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@BITS
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_sums_beyond_what_floats_hold(kind, bits, arithmetic):
    draw, given, made = np.random.default_rng(0), grid(0.1, -128), grid(7.0, 3)
    if bits == 16:
        given, made = Grid(np.float32(0.1), 0, 16), Grid(np.float32(7.0), 0, 16)
    kernel, shape, window = (4000, 9), (1, 4000), None
    if kind == "convolution":
        kernel, shape, window = (5, 5, 200, 4), (1, 6, 6, 200), Window((5, 5), (1, 1), ((2, 2), (2, 2)))
    layer = drawn_layer(draw, kernel, given, made, True)
    layer = layer._replace(kernel=draw.choice([-127, 127, 126], kernel).astype(np.int8))
    for codes in (drawn_codes(draw, (2, *shape[1:]), bits), np.full(shape, made.largest, f"int{bits}")):
        assert_equal_to_device(layer_model(layer, given, made, shape, window), codes, arithmetic)


# A scale below 2**-10 of the sum's is nothing that XNNPACK takes: LiteRT then runs a kernel of its own.
ADDITIONS = [(0, 0), (0.3, -1.7), (-10, 7.99), (7.99, 7.5), (-9.9, -9.5), (-10.01, 0), (-13, -11), (-2.6, -14), (5, -5)]


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("powers", ADDITIONS)
def test_additions_of_all_pairs_of_codes(powers, arithmetic):
    draw = np.random.default_rng(ADDITIONS.index(powers))
    made, activation = drawn_grid(draw, 8, -8, 3), [None, "relu", "relu6"][ADDITIONS.index(powers) % 3]
    of_x, of_y = (drawn_grid(draw)._replace(scale=made.scale * np.float32(2.0**power)) for power in powers)
    assert_equal_to_device(pairs_model(of_x, of_y, made, activation), PAIRS, arithmetic)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("powers", ADDITIONS)
def test_additions_of_drawn_codes_of_16_bits(powers, arithmetic):
    draw = np.random.default_rng(ADDITIONS.index(powers))
    made, activation = drawn_grid(draw, 16, -8, 3), [None, "relu", "relu6"][ADDITIONS.index(powers) % 3]
    of_x, of_y = (made._replace(scale=made.scale * np.float32(2.0**power)) for power in powers)
    model = pairs_model(of_x, of_y, made, activation)
    layers = {name: layer._replace(bias=layer.bias.astype(np.int64)) for name, layer in model.layers.items()}
    model = model._replace(grids=model.grids | {"input": Grid(np.float32(1.0), 0, 16)}, layers=layers)
    assert_equal_to_device(model, drawn_codes(draw, PAIRS.shape, 16), arithmetic)


def test_sixteen_sums_at_a_time_round_otherwise_than_those_left_over():
    of_x, of_y, made = (Grid(np.float32(scale), 0, 16) for scale in (6.2872157, 1.3699404, 2.654293))
    model = pairs_model(of_x, of_y, made)
    nodes = tuple(replace(node, shape=(1, 35, 1, 1)) for node in model.graph.nodes)
    layers = {name: layer._replace(bias=layer.bias.astype(np.int64)) for name, layer in model.layers.items()}
    grids = model.grids | {"input": Grid(np.float32(1.0), 0, 16)}
    model = Integers(Graph(nodes, (1, 35, 1, 2), "sum"), grids, layers)
    codes = np.tile(np.int16([5435, 6924]), (1, 35, 1, 1))
    for arithmetic, sums in (("xnnpack", [16447] * 32 + [16448] * 3), ("reference", [16448] * 35)):
        assert np.asarray(integers(model, arithmetic)(jnp.asarray(codes))).reshape(-1).tolist() == sums
        assert_equal_to_device(model, codes, arithmetic)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("classes", [2, 37])
def test_softmax_at_scales_of_all_sizes(classes, arithmetic):
    draw, made = np.random.default_rng(classes), grid(1 / 256, -128)
    for power in (-18, -5, -3.3, 0.7):
        given = grid(2.0**power, int(draw.integers(-128, 128)))
        codes = drawn_codes(draw, (40, classes))
        assert_equal_to_device(op_model("softmax", (1, classes), given, made), codes, arithmetic, f"2**{power}")


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


def drawn_net(draw, bits):
    """Draws a residual block between a stem and a head, in codes that span their range."""
    c, grids, layers, nodes = 8, {"input": drawn_grid(draw, bits, -5, -3)}, {}, []

    def layer(name, given, kernel, shape, window=None, activation=None):
        grids[name] = drawn_grid(draw, bits, -5, -3)
        layers[name] = drawn_layer(draw, kernel, grids[given], grids[name], window is not None and draw.random() < 0.7)
        kind = "dense" if window is None else "convolution"
        nodes.append(Node(name, kind, (given,), shape, window=window, activation=activation))

    def op(name, kind, inputs, shape, same=False, **at):
        grids[name] = grids[inputs[0]] if same else drawn_grid(draw, bits, -5, -3)
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
@BITS
def test_drawn_nets(bits, arithmetic):
    draw = np.random.default_rng(bits)
    assert_equal_to_device(drawn_net(draw, bits), drawn_codes(draw, (32, 12, 12, 3), bits), arithmetic)


def calibrated(bits, activations=8):
    """Returns an integer model of one layer and a batch."""
    params = {"fc": {"kernel": jax.random.normal(jax.random.key(0), (20, 12))}}
    batch = jax.random.normal(jax.random.key(1), (300, 20))
    graph, weights = jc.read(lambda params, x: jax.nn.relu(x @ params["fc"]["kernel"]), params, batch[:1])
    grids = quantize.calibrate(graph, weights, [batch], bits=activations)
    return quantize.to_integers(graph, quantize.weights(".*kernel", bits).init(weights), grids), batch


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@BITS
def test_a_calibrated_model(bits, arithmetic):
    # tflite-micro has no kernels for int4, and beside 16 bits there are none
    model, batch = calibrated(8 if arithmetic == "micro" or bits == 16 else 4, bits)
    assert_equal_to_device(model, np.asarray(encode(batch, model.grids["input"])), arithmetic)


# Reals in and out


@BITS
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_reals_are_encoded_and_decoded_as_on_the_device(bits, arithmetic):
    for seed in range(8):
        draw = np.random.default_rng(seed)
        of = (
            drawn_grid(draw, bits) if seed % 2 else drawn_grid(draw, bits)._replace(scale=np.float32(2.0 ** (seed - 9)))
        )
        ties = (draw.integers(of.smallest - 9, of.largest + 10, 1500) + 0.5 - of.zero_point) * np.float64(of.scale)
        near = [np.nextafter(np.float32(ties), np.float32(side)) for side in (-np.inf, np.inf)]
        far = np.float32([0.49999997, -0.49999997, 1.4999999, 2e9, -2e9]) * of.scale
        x = np.concatenate([np.float32(ties), *near, far])[None]
        model = op_model("reshape", x.shape, of, out=x.shape)
        run = jax.jit(lambda x, of=of: decode(encode(x, of, arithmetic), of))
        data = writer.to_bytes(model, "float32")
        np.testing.assert_array_equal(run(x), on_device(data, x, arithmetic), err_msg=f"{of}")


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@BITS
@pytest.mark.parametrize("size", [1, 7, 8, 13, 35])
def test_reals_of_any_number_are_encoded_as_on_the_device(size, bits, arithmetic):
    draw = np.random.default_rng(size)
    of = drawn_grid(draw, bits)
    steps = draw.integers(of.smallest - 9, of.largest + 10, (60, size)) + 0.5 - of.zero_point
    ties = np.float32(steps * np.float64(of.scale))
    model = op_model("reshape", (1, size), of, out=(1, size))
    for x in (ties, *(np.nextafter(ties, np.float32(side)) for side in (-np.inf, np.inf))):
        found = decode(encode(jnp.asarray(x), of, arithmetic), of)
        np.testing.assert_array_equal(found, on_device(writer.to_bytes(model, "float32"), x, arithmetic))


def test_kernels_encode_differently():
    """Ties go to even codes or away from zero, and a product with an inverse is not always the quotient."""
    of = grid(2.0, 1)
    ties = jnp.float32([1.0, 3.0, -1.0, -3.0])
    assert encode(ties, of).tolist() == [1, 3, 1, -1]
    assert encode(ties, of, "reference").tolist() == encode(ties, of, "micro").tolist() == [2, 3, 0, -1]
    odd = grid(365.54645)
    x = np.float32(odd.scale * (np.arange(100) + 0.5))
    for encoded, steps in ((encode(x, odd), x * (1 / odd.scale)), (encode(x, odd, "reference"), x / odd.scale)):
        assert encoded.tolist() == [round(step) if encoded[0] == 0 else int(step + 0.5) for step in steps.tolist()]
    assert np.any(x * (1 / odd.scale) != x / odd.scale)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_calibrated_model_takes_reals(arithmetic):
    model, batch = calibrated(8)
    given, made = model.grids["input"], model.grids[model.graph.output]
    found = decode(integers(model, arithmetic)(encode(batch, given, arithmetic)), made)
    np.testing.assert_array_equal(found, on_device(writer.to_bytes(model, "float32"), np.asarray(batch), arithmetic))
