"""Checks graphs in integers against whole numbers of any size, and against exact reals; devices are in tests/peers."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from jaxcompress import integers
from jaxcompress.interpreters.graph import Window
from jaxcompress.interpreters.integers import Grid, Layer, clamp_of, decode, encode
from tests.nets import PAIRS, grid, layer_model, op_model, pairs_model

ARITHMETICS = ["xnnpack", "reference", "micro"]
SIMPLE = Window((1, 1), (1, 1), ((0, 0), (0, 0)))


def random_codes(shape, seed=0):
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def run(model, codes, arithmetic="xnnpack"):
    out = integers(model, arithmetic)(jnp.asarray(codes, jnp.int8))
    assert out.dtype == jnp.int8
    return np.asarray(out)


# Layers


def totals(model, codes):
    """Sums a layer's products in int64: a loop over the kernel's entries, padding being the zero point."""
    (node,), layer, zero = model.graph.nodes, model.layers["layer"], model.grids["input"].zero_point
    kernel, x = layer.kernel.astype(np.int64), codes.astype(np.int64) - zero
    if node.window is None:
        return x @ kernel + layer.bias
    window = node.window
    x = np.pad(x, ((0, 0), *window.padding, (0, 0)))
    (_, height, width, outputs), inputs = node.shape, kernel.shape[2]
    total = np.zeros((len(x), height, width, outputs), np.int64)
    for i, j in np.ndindex(*window.size):
        rows = i * window.dilation[0] + window.strides[0] * np.arange(height)
        columns = j * window.dilation[1] + window.strides[1] * np.arange(width)
        part = x[:, rows][:, :, columns]
        for o in range(outputs):
            first = o // (outputs // window.groups) * inputs
            total[..., o] += part[..., first : first + inputs] @ kernel[i, j, :, o]
    return total + layer.bias


def rescaled(total, factor, kind, arithmetic):
    """Multiplies a whole number by a factor (float64) as the kernels are documented to."""
    if kind == "dense" and arithmetic == "reference":
        return math.copysign(math.floor(abs(total * factor) + 0.5), total)
    fraction, exponent = math.frexp(factor)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    product = total * 2 ** max(exponent, 0) * multiplier
    high = math.trunc(Fraction(product + (2**30 if product >= 0 else 1 - 2**30), 2**31))
    right = 2 ** max(-exponent, 0)
    return math.copysign(abs(high) + right // 2 >> max(-exponent, 0), high)


def expected_codes(model, codes, arithmetic):
    (node,), layer = model.graph.nodes, model.layers["layer"]
    made, given = model.grids["layer"], model.grids["input"]
    total = totals(model, codes)
    if arithmetic == "xnnpack":
        out = np.rint(total.astype(np.float32) * (given.scale * layer.scale / made.scale))
    else:
        factors = np.float64(given.scale) * layer.scale.astype(np.float64) / np.float64(made.scale)
        flat = zip(total.reshape(-1).tolist(), np.broadcast_to(factors, total.shape).reshape(-1).tolist(), strict=True)
        out = np.reshape([rescaled(t, f, node.kind, arithmetic) for t, f in flat], total.shape)
    low = made.zero_point if node.activation else -128
    high = made.zero_point + np.rint(6 / made.scale) if node.activation == "relu6" else 127
    return np.clip(out + made.zero_point, max(low, -128), min(high, 127))


LAYERS = {
    "dense": ((5, 7), (1, 5), None),
    "dense of rank 3": ((5, 7), (1, 3, 5), None),
    "convolution": ((3, 2, 2, 4), (1, 6, 5, 2), Window((3, 2), (1, 1), ((1, 1), (0, 1)))),
    "strided": ((3, 3, 2, 3), (1, 7, 8, 2), Window((3, 3), (2, 3), ((0, 1), (1, 1)))),
    "dilated": ((2, 3, 2, 3), (1, 7, 8, 2), Window((2, 3), (1, 2), ((2, 0), (1, 1)), (2, 3))),
    "grouped": ((2, 2, 2, 6), (1, 4, 5, 4), Window((2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1), 2)),
    "depthwise": ((3, 3, 1, 6), (1, 5, 5, 3), Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 3)),
}


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("by_output", [False, True])
@pytest.mark.sampled(3)
def test_a_layer_equals_whole_number_arithmetic(name, arithmetic, by_output):
    (kernel_shape, shape, window), draw = LAYERS[name], np.random.default_rng(len(name))
    outputs = kernel_shape[-1]
    kernel = draw.integers(-127, 128, kernel_shape).astype(np.int8)
    scale = draw.uniform(0.002, 0.02, outputs if by_output else 1) * np.ones(outputs)
    layer = Layer(kernel, scale.astype(np.float32), draw.integers(-9999, 9999, outputs).astype(np.int32))
    for activation, zero in ((None, -7), ("relu", -128), ("relu6", 100)):
        model = layer_model(layer, grid(0.031, zero), grid(1.7, -zero // 2), shape, window, activation)
        codes = random_codes((9, *shape[1:]), zero + 128)
        np.testing.assert_array_equal(run(model, codes, arithmetic), expected_codes(model, codes, arithmetic))


def test_kernels_round_a_sum_differently_by_hand():
    # 17 * 0.19873 is 3.378. Two roundings: 13.51 -> 14 quarters, 3.5 -> 4. In one: 3. And 2.5 goes to even or away.
    def codes(kind, total, factor, arithmetic):
        shape = (1, 1) if kind == "dense" else (1, 1, 1, 1)
        layer = Layer(np.zeros((*shape[2:], 1, 1), np.int8), np.float32([factor]), np.int32([total]))
        model = layer_model(layer, grid(1.0), grid(1.0), shape, None if kind == "dense" else SIMPLE)
        return run(model, np.zeros(shape), arithmetic).item()

    for kind in ("dense", "convolution"):
        found = [codes(kind, total, f, a) for total, f in ((17, 0.198725538), (5, 0.5), (-5, 0.5)) for a in ARITHMETICS]
        twice = 4 if kind == "convolution" else 3
        assert found == [3, twice, 4, 2, 3, 3, -2, *((-3, -2) if kind == "dense" else (-2, -2))], kind


@pytest.mark.parametrize(("inputs", "products"), [(518, "f"), (519, "ff"), (8224, "ff"), (8225, "i")])
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_sums_are_exact_on_both_sides_of_what_floats_hold(inputs, products, kind):
    # 518 * 127 * 255 is the last below 2**24, and 8224 * 8 * 255 of the halves; the bias brings every sum of interest
    # next to zero, factor one.
    kernel = np.full((inputs, 1), 127, np.int8)
    codes = np.full((4, inputs), 127, np.int8)
    codes[1:, 0] = [126, 125, 124]  # 127 less each
    bias = np.int32([100 - inputs * 127 * 255])
    shape, window = (1, inputs), None
    if kind == "convolution":
        kernel, codes, shape, window = kernel[None, None], codes[:, None, None], (1, 1, 1, inputs), SIMPLE
    model = layer_model(Layer(kernel, np.float32([1]), bias), grid(1.0, -128), grid(1.0), shape, window)
    for arithmetic in ARITHMETICS:
        assert run(model, codes, arithmetic).reshape(-1).tolist() == [100, -27, -128, -128]
    text = str(jax.make_jaxpr(integers(model))(jnp.asarray(codes)))
    lines = [line for line in text.splitlines() if "dot_general" in line or "conv_general" in line]
    assert [line.partition(":")[2][0] for line in lines] == list(products)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_traced_layers_round_as_known_ones(kind, arithmetic):
    # Ties, by factors that are powers of two; with the inverse of the scale they would come out a little smaller.
    of, made = grid(1.0), grid(39.119998931884766)
    assert np.float32(1) / made.scale * made.scale < 1 and 1 / np.float64(made.scale) * np.float64(made.scale) < 1
    codes, powers = np.arange(-100, 100), np.arange(1, 9)
    scale = np.repeat(made.scale * np.float32(2.0) ** -powers, codes.size)
    bias = ((2 * codes + 1) * 2 ** (powers[:, None] - 1)).reshape(-1).astype(np.int32)
    layer = Layer(np.zeros((1, bias.size), np.int8), scale, bias)
    shape, window = (1, 1), None
    if kind == "convolution":
        layer, shape, window = layer._replace(kernel=layer.kernel[None, None]), (1, 1, 1, 1), SIMPLE
    model, codes = layer_model(layer, of, made, shape, window), jnp.zeros(shape, jnp.int8)
    traced = jax.jit(lambda layer: integers(model._replace(layers={"layer": layer}), arithmetic)(codes))
    np.testing.assert_array_equal(traced(layer), run(model, codes, arithmetic))


# Activations of 16 bits


def rescaled_wide(total, factor, kind, arithmetic):
    """Multiplies a whole number by a factor (float64) as the kernels for int16 are documented to."""
    if kind == "dense" and arithmetic != "micro":
        return math.copysign(math.floor(abs(float(total) * factor) + 0.5), total)
    fraction, exponent = math.frexp(factor)
    reduced = min((math.floor(fraction * 2**31 + 0.5) + 2**15) // 2**16, 2**15 - 1)
    return math.floor(Fraction(total * reduced) * Fraction(2) ** (exponent - 15) + Fraction(1, 2))


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("inputs", [7, 5000])
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_layers_on_int16_equal_whole_numbers(kind, inputs, arithmetic):
    draw, outputs = np.random.default_rng(inputs), 8
    codes = draw.choice([-32768, 32767, 12345, -1], (5, inputs)).astype(np.int16)
    kernel = draw.integers(100, 128, (inputs, outputs)) * draw.choice([-1, 1], (inputs, outputs))
    kernel[:, 0] = 127  # the largest sums there are
    codes[0], of, made = 32767, Grid(np.float32(0.01), 0, 16), Grid(np.float32(3.0), 0, 16)
    scale = draw.uniform(0.5, 3, outputs).astype(np.float32) / np.float32(inputs)
    bias = draw.integers(-(2**36), 2**36, outputs)
    layer = Layer(kernel.astype(np.int8), scale, bias)
    totals = codes.astype(object) @ kernel.astype(object) + bias.astype(object)
    factors = np.float64(of.scale) * scale.astype(np.float64) / np.float64(made.scale)
    exact = [[rescaled_wide(t, f, kind, arithmetic) for t, f in zip(row, factors, strict=True)] for row in totals]
    model, x = layer_model(layer, of, made, (1, inputs)), codes
    if kind == "convolution":
        layer, x = layer._replace(kernel=layer.kernel[None, None]), codes[:, None, None]
        model = layer_model(layer, of, made, (1, 1, 1, inputs), SIMPLE, "relu6")
    found = integers(model, arithmetic)(jnp.asarray(x))
    low, high = (-32768, 32767) if kind == "dense" else (0, 2)  # 6 / 3 for the ReLU6
    assert found.dtype == jnp.int16
    np.testing.assert_array_equal(np.asarray(found).reshape(5, outputs), np.clip(exact, low, high))


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_other_operations_on_int16_are_near_the_reals(arithmetic):
    draw, of = np.random.default_rng(3), Grid(np.float32(0.1), 0, 16)
    codes = draw.integers(-32768, 32768, (2, 4, 4, 3)).astype(np.int16)

    def found(kind, **at):
        out = integers(op_model(kind, (1, 4, 4, 3), of, **at), arithmetic)(jnp.asarray(codes))
        assert out.dtype == jnp.int16
        return np.asarray(out, np.float64)

    half, window = of._replace(scale=np.float32(0.05)), Window((2, 2), (2, 2), ((0, 0), (0, 0)))
    mean = np.clip(2 * codes.astype(np.float64).mean((1, 2)), -32768, 32767)
    assert np.abs(found("mean", made=half, axes=(1, 2), out=(1, 3)) - mean).max() <= 1
    added = np.clip(4 * codes.astype(np.float64), -32768, 32767)
    assert np.abs(found("add", made=half, inputs=("input", "input")) - added).max() <= 1
    tiles = codes.reshape(2, 2, 2, 2, 2, 3).astype(np.float64)
    np.testing.assert_array_equal(found("max_pool", window=window), tiles.max((2, 4)))
    assert np.abs(found("average_pool", window=window) - tiles.mean((2, 4))).max() <= 0.5
    padded = found("pad", extents=((0, 0), (1, 0), (0, 0), (0, 0)))
    np.testing.assert_array_equal(padded, np.pad(codes, ((0, 0), (1, 0), (0, 0), (0, 0))))


def test_a_scale_too_large_for_a_sum_of_int16_is_refused():
    of, made = Grid(np.float32(2**14), 0, 16), Grid(np.float32(1.0), 0, 16)
    with pytest.raises(ValueError, match="op adds a scale 16384 times its own; in int16 kernels take less"):
        integers(op_model("add", (1, 4), of, made, ("input", "input")))(jnp.zeros((1, 4), jnp.int16))


# Other operations

GRIDS = st.builds(grid, st.floats(-6, 6).map(lambda x: 2.0**x), st.integers(-128, 127))
ACTIVATIONS = st.sampled_from([None, "relu", "relu6"])


@given(GRIDS, GRIDS, GRIDS, ACTIVATIONS, st.sampled_from(ARITHMETICS))
@example(grid(2.0**3.25, 11), grid(2.0**5.5), grid(1.0), None, "xnnpack")
@settings(max_examples=12, deadline=None)
def test_the_sum_of_every_pair_of_codes_is_within_its_rounding(of_x, of_y, made, activation, arithmetic):
    ratios = of_x.scale / made.scale, of_y.scale / made.scale
    assume(arithmetic != "xnnpack" or max(ratios) < 2**8)
    out = run(pairs_model(of_x, of_y, made, activation), PAIRS, arithmetic)[0, ..., 0]
    x, y = (np.float64(g.scale) * (PAIRS[0, ..., i].astype(int) - g.zero_point) for i, g in enumerate((of_x, of_y)))
    exact = (x + y) / np.float64(made.scale) + made.zero_point
    off = out - np.clip(exact, *clamp_of(activation, made, arithmetic))
    # Factors have 20 bits below the larger one's first, and so are off by 2**-21 of it, and float32's by 2**-24; each
    # meets a code of up to 255 from its zero point.
    of_factors = 2 * 255 * max(ratios) * (2**-21 + 2**-24)
    assert np.abs(off).max() <= (0.5 + of_factors if arithmetic == "xnnpack" and min(ratios) >= 2**-10 else 1.0)


def test_int4_kernels_have_no_arithmetic_of_tflite_micro():
    model = layer_model(
        Layer(np.zeros((1, 1), np.int8), np.float32([1]), np.int32([0]), 4), grid(1.0), grid(1.0), (1, 1)
    )
    with pytest.raises(ValueError, match="fc have int4 kernels|have int4 kernels"):
        integers(model, "micro")


def test_a_sum_that_xnnpack_refuses_is_named():
    with pytest.raises(ValueError, match="adds a scale 256 times its own; XNNPACK takes less than 256 times"):
        run(pairs_model(grid(32.0), grid(1.0), grid(0.125), None), PAIRS, "xnnpack")


@given(
    st.floats(-6, 6).map(lambda x: 2.0**x), GRIDS, st.sampled_from(ARITHMETICS),
    st.sampled_from([((1, 2), 4), ((1, 2), 2), ((3,), 4), ((1,), 3)]), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=12, deadline=None)
def test_a_mean_is_within_its_rounding(ratio, given, arithmetic, how, seed):
    axes, rank = how
    out = (1,) * rank
    made = grid(given.scale * np.float32(ratio), 3)
    model = op_model("mean", (1, 7, 3, 5), given, made, axes=axes, out=out)
    codes = random_codes((4, 7, 3, 5), seed)
    real = (codes.astype(np.float64) - given.zero_point).mean(axes, keepdims=rank == 4) * given.scale
    exact = np.clip(real / np.float64(made.scale) + 3, -128, 127)
    assert np.abs(run(model, codes, arithmetic) - exact).max() <= (0.501 if arithmetic == "xnnpack" else 1.0)


@pytest.mark.parametrize(("arithmetic", "halves"), [("xnnpack", [0, 2, 2, 0, -2]), ("reference", [1, 2, 3, 0, -1])])
def test_the_mean_rounds_halves_by_hand(arithmetic, halves):
    codes = np.int8([[0, 1], [1, 2], [2, 3], [0, -1], [-1, -2]]).reshape(5, 1, 2, 1)
    model = op_model("mean", (1, 1, 2, 1), grid(0.5), axes=(1, 2), out=(1, 1))
    assert run(model, codes, arithmetic).reshape(-1).tolist() == halves


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_average_pool_leaves_padding_out_and_rounds_away(arithmetic):
    codes = np.int8([[-128, -127, 5], [-128, -126, 6], [1, 2, -9]]).reshape(1, 3, 3, 1)
    model = op_model("average_pool", (1, 3, 3, 1), grid(0.3, -50), window=Window((2, 2), (1, 1), ((0, 1), (0, 1))))
    # -509/4, -242/4, 11/2; -251/4, -127/4, -3/2; 3/2, -7/2, -9
    assert run(model, codes, arithmetic).reshape(-1).tolist() == [-127, -61, 6, -63, -32, -2, 2, -4, -9]


def test_max_pool_leaves_padding_out():
    codes = np.full((1, 2, 2, 1), -128, np.int8)
    model = op_model("max_pool", (1, 2, 2, 1), grid(0.3, 0), window=Window((2, 2), (1, 1), ((1, 1), (1, 1))))
    assert (run(model, codes) == -128).all()


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_softmax_is_within_a_unit_of_the_real_one(arithmetic):
    codes, made = random_codes((50, 11)), grid(1 / 256, -128)
    for scale in (0.001, 0.05, 0.4):
        exact = np.exp(scale * codes.astype(np.float64))
        exact = np.clip(256 * exact / exact.sum(1, keepdims=True) - 128, -128, 127)
        assert np.abs(run(op_model("softmax", (1, 11), grid(scale, 7), made), codes, arithmetic) - exact).max() <= 1
    with pytest.raises(ValueError, match="op is a softmax on .*; its kernels want the scale 1/256"):
        run(op_model("softmax", (1, 11), grid(1.0), grid(1 / 255, -128)), codes, arithmetic)


def test_what_moves_codes_equals_numpy():
    codes, of = random_codes((3, 2, 4, 3)), grid(0.1, 17)
    shape = (1, *codes.shape[1:])
    edges, cut = ((0, 0), (1, 0), (0, 2), (0, 1)), ((0, 1, 1), (0, 2, 1), (1, 4, 2), (0, 2, 1))
    both = ("input", "input")
    for model, expected in (
        (op_model("reshape", shape, of, out=(1, 24)), codes.reshape(3, 24)),
        (op_model("transpose", shape, of, axes=(0, 3, 1, 2)), codes.transpose(0, 3, 1, 2)),
        (op_model("concatenate", shape, of, axes=(2,), inputs=both), np.concatenate([codes, codes], 2)),
        (op_model("pad", shape, of, extents=edges), np.pad(codes, edges, constant_values=17)),
        (op_model("slice", shape, of, extents=cut), codes[:, :, 1:4:2, :2]),
    ):
        for arithmetic in ARITHMETICS:
            np.testing.assert_array_equal(run(model, codes, arithmetic), expected)


# Codes and errors


def test_codes_by_hand():
    of = grid(0.5, 10)
    assert encode(jnp.array([0.0, 0.25, 0.75, -0.25, 1e9, -1e9]), of).tolist() == [10, 10, 12, 10, 127, -128]
    assert decode(jnp.array([10, 12, -128], jnp.int8), of).tolist() == [0.0, 1.0, -69.0]
    every = jnp.arange(-128, 128).astype(jnp.int8)
    np.testing.assert_array_equal(encode(decode(every, of), of), every)


def test_clamps_by_hand():
    assert clamp_of(None, grid(0.1, 4)) == (-128, 127)
    assert clamp_of("relu", grid(0.1, 4)) == (4, 127)
    assert clamp_of("relu6", grid(0.1, 4)) == (4, 64)
    assert clamp_of("relu6", grid(0.01, -128)) == (-128, 127)


def test_a_batch_and_jit_change_nothing():
    layer = Layer(random_codes((3, 3, 2, 4)), np.full(4, 0.01, np.float32), np.arange(4, dtype=np.int32))
    model = layer_model(layer, grid(0.1, 3), grid(0.9, -5), (1, 5, 5, 2), Window((3, 3), (2, 2), ((1, 1), (0, 1))))
    codes = random_codes((6, 5, 5, 2))
    for arithmetic in ARITHMETICS:
        out = run(model, codes, arithmetic)
        np.testing.assert_array_equal(jax.jit(integers(model, arithmetic))(codes), out)
        np.testing.assert_array_equal(np.concatenate([run(model, c[None], arithmetic) for c in codes]), out)


def test_unknown_arithmetic_is_refused():
    with pytest.raises(ValueError, match="arithmetic 'cmsis' is not one of xnnpack, reference, micro"):
        integers(op_model("reshape", (1, 4), grid(1.0), out=(1, 4)), "cmsis")  # pyright: ignore


@pytest.mark.parametrize("kind", ["relu6", "relu"])
def test_an_operation_without_a_rule_is_refused(kind):
    with pytest.raises(ValueError, match=f"op is a '{kind}', which has no rule in integers; convolution, dense"):
        integers(op_model(kind, (1, 4), grid(1.0)))
