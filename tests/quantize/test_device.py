"""Checks that integers are those of the leaves, and that training on a device has its values and useful gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import combine, integers, pack, partition, quantize
from jaxcompress.arrays import LowRank, Masked, Quantized
from jaxcompress.interpreters.graph import Graph, Node
from jaxcompress.interpreters.integers import decode, encode
from tests.nets import grid
from tests.quantize.test_activations import BATCHES, SHAPE, dense_net, drawn, small_net

RANGES = {"input": grid(1.0), "fc": grid(1.0)}


@pytest.mark.parametrize("bits", [8, 4])
def test_fake_quantized_agrees_with_the_integers_within_a_unit_or_two(bits):
    graph, weights = small_net()
    weights = quantize.weights(".*/kernel", bits, granularity="channel").init(weights)
    grids = quantize.calibrate(graph, weights, BATCHES)
    model = quantize.to_integers(graph, weights, grids)
    x = drawn(200, *SHAPE[1:], seed=30)
    fake = np.asarray(encode(jax.jit(quantize.fake_quantized(graph, weights, grids))(x), grids["head"]), np.int32)
    for arithmetic in ("xnnpack", "reference"):
        codes = np.asarray(jax.jit(integers(model, arithmetic))(encode(x, grids["input"])), np.int32)
        assert np.unique(codes).size > 50
        assert np.abs(codes - fake).max() <= 2 and (codes == fake).mean() > 0.8


def test_the_integers_are_those_of_the_leaves():
    graph, weights = dense_net(drawn(3, 2), (0.25, -1.0))
    grids = {"input": grid(0.5, 3), "fc": grid(0.1, 0)}
    weights = quantize.weights(".*/kernel", 4, granularity="channel").init(weights)
    packed = pack(weights)["fc"]["kernel"]
    for leaves in (weights, pack(weights)):
        layer = quantize.to_integers(graph, leaves, grids).layers["fc"]
        np.testing.assert_array_equal(layer.kernel, packed.codes)
        np.testing.assert_array_equal(layer.scale, packed.scale.reshape(-1))
        np.testing.assert_array_equal(layer.bias, np.rint([0.25, -1.0] / (0.5 * np.float64(layer.scale))))
        assert [a.dtype for a in layer[:3]] == [np.int8, np.float32, np.int32] and layer.bits == 4


def test_a_mask_over_integers_is_their_zero():
    kernel = Quantized(jnp.array([[5, -7], [1, 2], [3, 4]], jnp.int8), jnp.ones((1, 1)), jnp.zeros((1, 1), jnp.int8), 8)
    mask = jnp.array([[True, False], [False, True], [True, True]])
    graph, weights = dense_net(Masked(kernel, mask))  # pyright: ignore
    layer = quantize.to_integers(graph, weights, RANGES).layers["fc"]
    assert layer.kernel.tolist() == [[5, 0], [0, 2], [3, 4]] and layer.scale.tolist() == [1, 1]


def rounded(**how):
    return quantize.weights(".*/kernel", 8, **how).init(dense_net(drawn(3, 2))[1])["fc"]["kernel"]


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (lambda: drawn(3, 2), "fc/kernel is a plain array; a device needs integers"),
        (lambda: Masked(drawn(3, 2), jnp.ones((3, 2), bool)), "fc/kernel is a Masked"),
        (lambda: LowRank(drawn(3, 1), drawn(1, 2)), "fc/kernel is a LowRank"),
        (lambda: rounded(symmetric=False), "fc/kernel has zero points"),
        (
            lambda: Quantized(jnp.ones((3, 2), jnp.int8), jnp.ones((3, 1)), jnp.zeros((3, 1), jnp.int8), 8),
            r"fc/kernel has scales of shape \(3, 1\)",
        ),
    ],
)
def test_kernels_that_are_no_integers_are_refused(kernel, message):
    with pytest.raises(ValueError, match=message):
        quantize.to_integers(*dense_net(kernel()), RANGES)


@pytest.mark.parametrize("missing", ["input", "fc"])
def test_a_missing_range_is_named(missing):
    graph, weights = dense_net(rounded())
    grids = {name: of for name, of in RANGES.items() if name != missing}
    for use in (quantize.to_integers, quantize.fake_quantized):
        with pytest.raises(ValueError, match=f"the range of {missing} was never observed"):
            use(graph, weights, grids)


@pytest.mark.parametrize("bits", [(4, 4), (8, 16), (16, 8)])
def test_grids_that_no_device_has_are_refused(bits):
    graph, weights = dense_net(rounded())
    grids = {name: of._replace(bits=n) for (name, of), n in zip(RANGES.items(), bits, strict=True)}
    with pytest.raises(ValueError, match="a device holds all of them in 8 bits, or in 16"):
        quantize.to_integers(graph, weights, grids)


@pytest.mark.parametrize("bias", [1e30, -1e30, np.nan])
def test_a_bias_that_does_not_fit_is_refused(bias):
    graph, weights = dense_net(rounded(), (0.0, bias))
    with pytest.raises(ValueError, match="a bias of fc does not fit int32"):
        quantize.to_integers(graph, weights, RANGES)


# Channels whose weights are tiny beside their bias

DEAD = drawn(8, 4) * jnp.float32([[1, 1e-25, 1e-5, 0]])
BIAS = (1.0, 5.0, -4.5, 0.3)
INPUTS = jax.random.uniform(jax.random.key(2), (64, 8))
HOW = [(b, g, a) for a in (8, 16) for b in (2, 4, 8) for g in ("tensor", "channel")]


def calibrated(kernel, bias, inputs=INPUTS, bits=8):
    graph = Graph((Node("fc", "dense", ("input",), (1, len(bias))),), (1, kernel.shape[0]), "fc")
    weights = {"fc": {"kernel": kernel, "bias": jnp.float32(bias)}}
    return graph, weights, quantize.calibrate(graph, weights, [inputs], bits=bits)


@pytest.mark.parametrize(("bits", "granularity", "activations"), HOW)
@pytest.mark.parametrize("how", ["weights", "nearest", "gptq"])
@pytest.mark.sampled(5)
def test_the_bias_of_a_dead_channel_is_exact(how, bits, granularity, activations):
    graph, weights, grids = calibrated(DEAD, BIAS, bits=activations)
    if how == "weights":
        rounded = quantize.weights(".*/kernel", bits, granularity=granularity).init(weights)
    else:
        rounded = quantize.post_training(
            graph, weights, grids, [INPUTS], bits=bits, granularity=granularity, rounding=how
        )
    layer = quantize.to_integers(graph, rounded, grids).layers["fc"]
    unit, reals = np.float64(grids["input"].scale) * layer.scale, np.float64(np.float32(BIAS))
    errors = np.abs(layer.bias * unit - reals)
    assert np.all(errors <= unit / 2 + 1e-7 * np.abs(reals))
    assert (np.ptp(layer.scale) == 0) == (granularity == "tensor")
    if granularity == "channel":  # with one scale a bias is no nearer than the step of the largest weights allows
        assert np.all(errors[1:] < 1e-6)
    assert np.abs(layer.kernel[:, 0]).max() == 2 ** (bits - 1) - 1 and not layer.kernel[:, 3].any()
    # The sums fit whatever the input.
    largest = np.abs(layer.kernel.astype(np.int64)).sum(0) * 2**activations + np.abs(layer.bias.astype(np.int64))
    assert largest.max() < 2 ** (31 if activations == 8 else 47)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_the_scale_of_a_dead_channel_by_hand(granularity):
    """The bias is 5 and the input's scale 1/2, with 3 products of up to 128 * 128 each."""
    kernel = jnp.full((3, 1), 1e-20)
    graph = Graph((Node("fc", "dense", ("input",), (1, 1)),), (1, 3), "fc")
    weights = quantize.weights(".*/kernel", 8, granularity=granularity).init(
        {"fc": {"kernel": kernel, "bias": jnp.float32([5.0])}}
    )
    layer = quantize.to_integers(graph, weights, {"input": grid(0.5), "fc": grid(0.1)}).layers["fc"]
    np.testing.assert_allclose(layer.scale, 5 / (2**31 - 1 - 3 * 128 * 128) / 0.5, rtol=2e-6)
    assert layer.kernel.tolist() == [[0]] * 3 and 2**31 - 60_000 < layer.bias[0] < 2**31 - 3 * 128 * 128


def test_a_scale_is_widened_no_further_than_it_must_be():
    graph, weights, grids = calibrated(DEAD, BIAS)
    weights = quantize.weights(".*/kernel", 8).init(weights)
    leaf, layer = pack(weights)["fc"]["kernel"], quantize.to_integers(graph, weights, grids).layers["fc"]
    np.testing.assert_array_equal(layer.scale[0], leaf.scale[0, 0])
    np.testing.assert_array_equal(layer.kernel[:, 0], leaf.codes[:, 0])
    assert layer.scale[2] > leaf.scale[0, 2] and np.abs(layer.bias[2]) > 2**30
    np.testing.assert_array_equal(
        layer.kernel[:, 2], np.rint(np.asarray(leaf.codes[:, 2]) * (np.float64(leaf.scale[0, 2]) / layer.scale[2]))
    )


@pytest.mark.parametrize("tiny", [1e-38, 1e-44])
def test_weights_that_no_float_can_scale_are_zeros(tiny):
    graph, weights, grids = calibrated(DEAD.at[:, 1].set(tiny), (1.0, 0.0, 0.0, 0.0))
    layer = quantize.to_integers(graph, quantize.weights(".*/kernel", 8).init(weights), grids).layers["fc"]
    assert np.all(layer.scale > 2**-110) and not layer.kernel[:, 1].any() and layer.bias[1] == 0


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_training_sees_what_a_dead_channel_becomes(granularity):
    graph, weights, grids = calibrated(DEAD, BIAS)
    weights = quantize.weights(".*/kernel", 8, granularity=granularity).init(weights)
    device = jax.jit(integers(quantize.to_integers(graph, weights, grids)))
    expected = decode(device(encode(INPUTS, grids["input"])), grids["fc"])
    run = lambda form: jax.jit(lambda weights: form(graph, weights, grids)(INPUTS))(weights)
    np.testing.assert_array_equal(run(quantize.on_device), expected)
    np.testing.assert_allclose(run(quantize.fake_quantized), expected, atol=1.01 * grids["fc"].scale)
    trained, fixed = partition(weights)
    loss = lambda trained: jnp.sum(quantize.on_device(graph, combine(trained, fixed), grids)(INPUTS))
    gradient = jax.tree.leaves(jax.jit(jax.grad(loss))(trained))
    assert all(bool(jnp.all(jnp.isfinite(g))) and bool(jnp.any(g != 0)) for g in gradient)


def test_adaround_and_reconstruct_take_dead_channels():
    graph, weights, grids = calibrated(DEAD, BIAS)
    rounded = [
        quantize.post_training(
            graph, weights, grids, [INPUTS], bits=4, rounding="adaround", steps=20, key=jax.random.key(0)
        ),
        quantize.reconstruct(graph, weights, grids, [INPUTS], bits=4, steps=20, key=jax.random.key(0)),
    ]
    for of in rounded:
        layer = quantize.to_integers(graph, of, grids).layers["fc"]
        unit = np.float64(grids["input"].scale) * layer.scale
        np.testing.assert_allclose((layer.bias * unit)[1:], BIAS[1:], atol=1e-6)
        np.testing.assert_array_equal(layer.scale[:3], of["fc"]["kernel"].scale.reshape(-1)[:3])


# Training on the device


@pytest.mark.parametrize(
    ("arithmetic", "bits"), [("xnnpack", 8), ("xnnpack", 4), ("reference", 8), ("reference", 4), ("micro", 8)]
)
@pytest.mark.sampled(3)
def test_the_device_in_a_compiled_step_computes_its_integers(arithmetic, bits):
    graph, weights = small_net()
    weights = quantize.weights(".*/kernel", bits).init(weights)
    grids = quantize.calibrate(graph, weights, BATCHES)
    x = drawn(64, *SHAPE[1:], seed=30)
    run = jax.jit(integers(quantize.to_integers(graph, weights, grids), arithmetic))
    expected = decode(run(encode(x, grids["input"], arithmetic)), grids["head"])
    traced = jax.jit(lambda weights, x: quantize.on_device(graph, weights, grids, arithmetic)(x))
    np.testing.assert_array_equal(traced(weights, x), expected)
    np.testing.assert_array_equal(quantize.on_device(graph, weights, grids, arithmetic)(x), expected)


def test_training_on_a_device_of_16_bits_is_refused():
    graph, weights = dense_net(rounded())
    grids = {name: of._replace(bits=16) for name, of in RANGES.items()}
    with pytest.raises(ValueError, match="activations of 16 bits; training on a device is for 8 bits"):
        quantize.on_device(graph, weights, grids)


def test_gradients_on_the_device_are_those_of_fake_quantization():
    graph, weights = small_net()
    weights = quantize.weights(".*/kernel", 8).init(weights)
    grids, (trained, fixed) = quantize.calibrate(graph, weights, BATCHES), partition(weights)

    def gradient(form):
        return jax.jit(jax.grad(lambda t: jnp.sum(form(graph, combine(t, fixed), grids)(BATCHES[0]))))(trained)

    # A sum's gradient does not depend on the values, in which the two may differ by a unit.
    device, fake = gradient(quantize.on_device), gradient(quantize.fake_quantized)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), device, fake)


def test_training_on_the_device_lowers_its_own_loss():
    graph, weights = small_net()
    x = drawn(64, *SHAPE[1:], seed=31)
    wanted = graph(weights, x)
    weights = quantize.weights(".*/kernel", 4).init(weights)
    grids, (trained, fixed) = quantize.calibrate(graph, weights, [x]), partition(weights)

    def loss(trained):
        return jnp.mean((quantize.on_device(graph, combine(trained, fixed), grids)(x) - wanted) ** 2)

    optimiser = optax.adam(3e-3)

    @jax.jit
    def step(trained, state):
        value, grads = jax.value_and_grad(loss)(trained)
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(trained, updates), state, value

    state, losses = optimiser.init(trained), []
    with jax.numpy_dtype_promotion("standard"):  # Adam counts in integers
        for _ in range(30):
            trained, state, value = step(trained, state)
            losses.append(float(value))
    assert min(losses[-5:]) < 0.7 * losses[0]
