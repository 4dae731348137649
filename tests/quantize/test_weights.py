"""Checks fake quantization: tables by hand, gradients, and that packing changes no bit of what the model sees."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import chain, densify, schedules
from jaxcompress.arrays import Dithered, FakeQuantized, Masked, Quantized, dense, pack
from jaxcompress.export.packed import from_bytes, to_bytes
from jaxcompress.interpreters.graph import INPUT, Graph, Node
from jaxcompress.numerics import affine
from jaxcompress.numerics.gptq import gptq
from jaxcompress.prune import magnitude
from jaxcompress.quantize import post_training, to_integers, weights
from tests.nets import grid

dense_jit = jax.jit(dense)
CASES = [(granularity, symmetric) for granularity in ("tensor", "channel") for symmetric in (True, False)]
# Magnitudes whose scale neither underflows nor overflows float32; ties and zeros are likely.
REALS = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 2.0**-60)
KERNELS = st.lists(REALS | st.integers(-9, 9).map(float), min_size=15, max_size=15).map(
    lambda values: np.array(values, np.float32).reshape(5, 3)
)


def same_bits(a: jax.Array, b: jax.Array) -> bool:
    return a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def gaussian(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_per_tensor_by_hand():
    params = weights("w", 2, granularity="tensor").init({"w": jnp.array([[0.4, -2.0], [1.1, 0.9]])})
    assert densify(params)["w"].tolist() == [[0, -2], [2, 0]]  # codes -1, 0, 1 by a scale of 2


def test_per_channel_by_hand():
    params = weights("w", 2).init({"w": jnp.array([[0.4, -2.0], [1.0, 0.9]])})
    assert densify(params)["w"].tolist() == [[0, -2], [1, 0]]  # scales 1 and 2


def test_asymmetric_by_hand():
    params = weights("w", 2, granularity="tensor", symmetric=False).init({"w": jnp.array([-1.0, 0.4, 1.1, 2.0])})
    assert densify(params)["w"].tolist() == [-1, 0, 1, 2]  # four codes by a scale of 1


def test_another_channel_axis_has_its_own_scales():
    kernel = gaussian(3, 4, 5)
    leaf = weights("w", 8, channel_axis=-2).init({"w": kernel})["w"]
    assert pack(leaf).scale.shape == (1, 4, 1)
    np.testing.assert_allclose(pack(leaf).scale, jnp.abs(kernel).max((0, 2), keepdims=True) / 127, rtol=1e-6)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(("granularity", "symmetric"), CASES)
def test_as_many_values_as_bits_allow_within_half_a_scale(bits, granularity, symmetric):
    kernel = gaussian(64, 3)
    leaf = weights("w", bits, granularity=granularity, symmetric=symmetric).init({"w": kernel})["w"]
    for channel in np.asarray(dense(leaf)).T:
        assert len(np.unique(channel)) <= 2**bits - symmetric
    assert np.all(np.abs(dense(leaf) - kernel) <= 0.5001 * pack(leaf).scale)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(("granularity", "symmetric"), CASES)
@settings(deadline=None, max_examples=6)
@given(KERNELS)
def test_packing_changes_no_bit(bits, granularity, symmetric, kernel):
    leaf = weights("w", bits, granularity=granularity, symmetric=symmetric).init({"w": jnp.asarray(kernel)})["w"]
    packed = pack(leaf)
    assert packed.codes.dtype == jnp.int8 and packed.owner == ""
    seen = dense(leaf)
    assert same_bits(dense(packed), seen)
    assert same_bits(dense_jit(leaf), seen) and same_bits(dense_jit(packed), seen)


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize(("granularity", "symmetric"), CASES)
def test_packing_changes_no_bit_of_what_a_program_with_constant_bits_sees(bits, granularity, symmetric):
    # A program that closes over the leaf knows `bits`, and a compiler may then multiply where it was told to divide.
    transform, kernel = weights("w", bits, granularity=granularity, symmetric=symmetric), gaussian(256, 16)
    seen = jax.jit(lambda kernel: densify(transform.init({"w": kernel}))["w"])(kernel)
    assert same_bits(dense(pack(transform.init({"w": kernel})["w"])), seen)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize(("granularity", "symmetric"), CASES)
def test_packing_changes_no_bit_of_half_precision(dtype, granularity, symmetric):
    kernel = gaussian(40, 6).astype(dtype)
    leaf = weights("w", 8, granularity=granularity, symmetric=symmetric).init({"w": kernel})["w"]
    assert dense(leaf).dtype == dtype
    for function in (dense, dense_jit):
        assert same_bits(function(leaf), function(pack(leaf))) and same_bits(function(leaf), dense(leaf))


@pytest.mark.parametrize(("granularity", "symmetric"), CASES)
def test_packing_changes_no_bit_of_pruned_weights_in_either_order(granularity, symmetric):
    quantized = weights("w", 4, granularity=granularity, symmetric=symmetric)
    pruned = magnitude("w", 0.6)
    inside = quantized.init(pruned.init({"w": gaussian(20, 6)}))["w"]
    outside = pruned.init(quantized.init({"w": gaussian(20, 6)}))["w"]
    assert isinstance(inside, FakeQuantized) and isinstance(outside, Masked)
    for leaf in (inside, outside):
        assert same_bits(dense(pack(leaf)), dense(leaf)) and same_bits(dense_jit(leaf), dense(leaf))
        assert same_bits(pack(pack(leaf)).codes, pack(leaf).codes)


@pytest.mark.parametrize("symmetric", [True, False])
def test_pruned_weights_stay_zero(symmetric):
    pruned = magnitude("w", 0.6).init({"w": gaussian(20, 6) + 0.3})
    seen = densify(weights("w", 3, symmetric=symmetric).init(pruned))["w"]
    assert np.all(np.asarray(seen)[~np.asarray(pruned["w"].mask)] == 0)


@pytest.mark.parametrize(("granularity", "symmetric"), CASES)
def test_gradients_pass_straight_through(granularity, symmetric):
    params = weights("w", 3, granularity=granularity, symmetric=symmetric).init({"w": gaussian(7, 3)})
    upstream = gaussian(7, 3, seed=1)
    slope = jax.grad(lambda p: jnp.sum(densify(p)["w"] * upstream), allow_int=True)(params)
    np.testing.assert_array_equal(slope["w"].weight, upstream)


def test_bits_may_be_swept_in_one_program():
    leaf = weights("w", 8).init({"w": gaussian(9, 4)})["w"]
    sweep = jax.jit(jax.vmap(lambda bits: FakeQuantized(leaf.weight, bits, leaf.axes).dense()))
    for bits, seen in zip(range(2, 9), sweep(jnp.arange(2, 9)), strict=True):
        np.testing.assert_array_equal(seen, weights("w", bits).init({"w": leaf.weight})["w"].dense())


def test_stacked_layers_have_scales_of_their_own():
    stack = gaussian(3, 5, 4)
    layers = [weights("w", 4).init({"w": layer})["w"] for layer in stack]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *layers)
    np.testing.assert_array_equal(jax.vmap(dense)(stacked), jnp.stack([dense(layer) for layer in layers]))


def test_a_second_init_wraps_nothing():
    transform = weights("w", 4)
    once = transform.init({"w": gaussian(3, 3)})
    assert transform.init(once)["w"] is once["w"]


@pytest.mark.parametrize("bits", [1, 9, 0, -2, 4.0, "8"])
def test_bits_outside_of_two_to_eight_are_named_with_the_pattern(bits):
    with pytest.raises(ValueError, match=f"bits {bits!r} for pattern 'fc/kernel' is not an integer from 2 to 8"):
        weights("fc/kernel", bits)


def test_an_unknown_granularity_is_named_with_the_pattern():
    with pytest.raises(ValueError, match="granularity 'row' for pattern 'fc' is not 'tensor', 'channel' or 'group'"):
        weights("fc", 8, granularity="row")


@pytest.mark.parametrize("axis", [0, 1, -3])
def test_a_channel_axis_that_is_not_there_is_named_with_the_path(axis):
    with pytest.raises(ValueError, match=rf"channel_axis {axis} is not in \[-2, -1\], the axes of w"):
        weights("w", 8, channel_axis=axis).init({"w": gaussian(2, 2)})


def test_integers_are_refused_by_name():
    with pytest.raises(ValueError, match="w of dtype int32 cannot be quantized"):
        weights("w", 8).init({"w": jnp.arange(4)})


def test_a_pattern_without_a_match_lists_the_paths():
    with pytest.raises(ValueError, match=re.compile("'v' matches no parameter.*there are:\n  w", re.DOTALL)):
        weights("v", 8).init({"w": gaussian(2, 2)})


# Groups.


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("shape", "group"), [((12, 5), 4), ((3, 3, 8, 5), 2)])
def test_groups_are_stored_bit_for_bit(shape, group, symmetric):
    transform = weights("w", 4, granularity="group", group=group, symmetric=symmetric)
    params = transform.init(magnitude("w", 0.3).init({"w": gaussian(*shape) + 0.1}))
    packed = from_bytes(to_bytes(params))
    assert packed["w"].scale.shape == (*shape[:-2], shape[-2] // group, shape[-1])
    assert same_bits(dense(packed["w"]), dense(params["w"]))
    assert same_bits(dense_jit(packed["w"]), dense_jit(params["w"]))


def test_a_group_of_all_inputs_is_a_channel_and_smaller_groups_are_nearer():
    params, errors = {"w": gaussian(16, 6)}, []
    for group in (16, 8, 4, 1):
        seen = densify(weights("w", 3, granularity="group", group=group).init(params))["w"]
        errors.append(float(jnp.sum((seen - params["w"]) ** 2)))
    by_channel = densify(weights("w", 3).init(params))["w"]
    assert errors[0] == float(jnp.sum((by_channel - params["w"]) ** 2))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-10


def test_what_gptq_rounds_by_groups_is_a_leaf_of_the_same_scales():
    weight, inputs = gaussian(12, 5), gaussian(40, 12, seed=1)
    scale, zero = affine.group_range(weight, 4, -2, 4, True)
    codes = gptq(weight, inputs.T @ inputs, scale, zero, 4, True)
    leaf = from_bytes(to_bytes({"w": Quantized(codes, scale, zero.astype(jnp.int8), 4)}))["w"]
    expected = np.asarray(codes, np.float64).reshape(3, 4, 5) * np.asarray(scale, np.float64)[:, None]
    np.testing.assert_allclose(leaf.dense(), expected.reshape(12, 5), rtol=1e-6)
    nearest = dense(weights("w", 4, granularity="group", group=4).init({"w": weight})["w"])
    loss = lambda w: float(jnp.sum((inputs @ (w - weight)) ** 2))
    assert loss(leaf.dense()) < loss(nearest)


def test_a_device_refuses_scales_of_groups():
    node = Node("fc", "dense", (INPUT,), (1, 5))
    graph, grids = Graph((node,), (1, 12), "fc"), {INPUT: grid(0.1), "fc": grid(0.2)}
    params = {"fc": {"kernel": gaussian(12, 5), "bias": jnp.zeros(5)}}
    rounded = weights("fc/kernel", 8, granularity="group", group=4).init(params)
    for tree in (rounded, pack(rounded["fc"]["kernel"])):
        tree = tree if isinstance(tree, dict) else {"fc": {"kernel": tree, "bias": jnp.zeros(5)}}
        with pytest.raises(ValueError, match=r"fc/kernel has scales of shape \(12, 5\); a device knows one, or one by"):
            to_integers(graph, tree, grids)
    with pytest.raises(ValueError, match="granularity 'group'"):
        post_training(graph, params, grids, [gaussian(2, 12)], granularity="group")


@pytest.mark.parametrize(
    ("shape", "group", "message"),
    [
        ((12, 5), 5, r"group 5 does not divide the inputs of w, whose shape is \(12, 5\)"),
        ((3, 3, 2, 6), 9, "group 9 does not divide the inputs of w"),
        ((6,), 2, r"group 2 does not divide the inputs of w, whose shape is \(6,\)"),
    ],
)
def test_a_group_that_does_not_divide_is_named_with_the_path(shape, group, message):
    with pytest.raises(ValueError, match=message):
        weights("w", 4, granularity="group", group=group).init({"w": gaussian(*shape)})


@pytest.mark.parametrize("options", [{"group": 0}, {"group": 2.0}, {"channel_axis": -2}])
def test_a_group_that_is_none_is_named_with_the_pattern(options):
    with pytest.raises(ValueError, match=r"group .* with channel_axis -\d for pattern 'w'; a group is a positive"):
        weights("w", 4, granularity="group", **options)


# Bits that are traced, or follow a schedule.


@pytest.mark.parametrize("options", [{}, {"granularity": "group", "group": 3}, {"symmetric": False}])
def test_a_sweep_over_traced_bits_is_one_program(options):
    params, traces = {"w": gaussian(9, 4)}, []

    @jax.jit
    def seen(bits):
        traces.append(bits)
        return densify(weights("w", bits, **options).init(params))["w"]

    every = [seen(jnp.int32(bits)) for bits in range(2, 9)]
    assert len(traces) == 1
    sweep = jax.jit(jax.vmap(seen))(jnp.arange(2, 9))
    for bits, one, of_sweep in zip(range(2, 9), every, sweep, strict=True):
        expected = densify(weights("w", bits, **options).init(params))["w"]
        assert same_bits(one, expected)
        np.testing.assert_allclose(of_sweep, expected, rtol=1e-6, atol=1e-7)


def test_bits_may_be_an_array():
    assert weights("w", jnp.asarray(3, jnp.int8)).init({"w": gaussian(3, 3)})["w"].pack().bits == 3
    for bits in (jnp.int32(9), jnp.float32(4), jnp.int32([4])):
        with pytest.raises(ValueError, match="for pattern 'w' is not an integer from 2 to 8"):
            weights("w", bits)


def test_a_schedule_reduces_the_bits_without_a_new_trace():
    transform, traces = weights("w", schedules.linear(8, 2, begin=1, end=4)), []

    @jax.jit
    def update(params, step):
        traces.append(step)
        return transform.update(params, step)

    params, found = transform.init({"w": gaussian(5, 3), "v": gaussian(2, 2)}), []
    assert params["w"].bits.tolist() == 8
    for step in range(6):
        params = update(params, jnp.int32(step))
        found.append(params["w"].bits.tolist())
        same = weights("w", found[-1]).init({"w": params["w"].weight})["w"]
        assert same_bits(dense(params["w"]), dense(same))
    assert found == [8, 8, 6, 4, 2, 2] and len(traces) == 1


def test_a_schedule_is_rounded_and_kept_within_two_and_eight():
    transform = weights("w", lambda step: 8.4 - 2.0 * step)
    params = transform.init({"w": gaussian(5, 3)})
    assert [transform.update(params, step)["w"].bits.tolist() for step in (0, 1, 2, 9)] == [8, 6, 4, 2]
    with pytest.raises(ValueError, match="bits 12 at step 0 for pattern 'w' are not from 2 to 8"):
        weights("w", schedules.linear(12, 4, end=10))


def test_a_schedule_reaches_every_layer_of_a_stack():
    transform = weights("w", schedules.linear(8, 4, end=2), granularity="group", group=5)
    stack = transform.init({"w": gaussian(3, 5, 4)})["w"].stacked()
    assert transform.update({"w": stack}, 2)["w"].bits.tolist() == [4, 4, 4]


# Stochastic rounding.


def test_drawn_noise_is_right_in_the_mean():
    weight = jnp.broadcast_to(jnp.array([[-7.0], [-0.7], [0.25], [2.5], [0.0]]), (5, 4000))
    transform = weights("w", 4, granularity="tensor", stochastic=True)
    params = transform.update(transform.init({"w": weight}), 3, key=jax.random.key(0))
    noise = np.asarray(params["w"].noise)
    assert -0.5 <= noise.min() < -0.499 and 0.499 < noise.max() < 0.5
    seen = np.asarray(dense(params["w"]))
    np.testing.assert_allclose(seen.mean(1), [-7, -0.7, 0.25, 2.5, 0], atol=4 * 0.5 / np.sqrt(4000))
    assert np.all(seen[0] == -7) and np.all(seen[4] == 0) and len(np.unique(seen[3])) == 2


def test_until_an_update_and_once_packed_weights_are_rounded_to_nearest():
    transform, nearest = weights("w", 3, stochastic=True), weights("w", 3)
    params, expected = transform.init({"w": gaussian(9, 4)}), densify(nearest.init({"w": gaussian(9, 4)}))["w"]
    drawn = transform.update(params, 0, key=jax.random.key(0))
    assert isinstance(drawn["w"], Dithered) and isinstance(pack(drawn["w"]), Quantized)
    assert same_bits(dense(params["w"]), expected) and same_bits(dense(pack(drawn["w"])), expected)
    assert not same_bits(dense(drawn["w"]), expected)


def test_noise_follows_the_key_the_step_the_transform_and_the_place():
    transform = chain(weights("[ab]", 4, stochastic=True), weights("c", 4, stochastic=True))
    params = transform.init({name: gaussian(20, 20) for name in "abc"})
    update = jax.jit(lambda step, key: transform.update(params, step, key=key))
    first, again = update(1, jax.random.key(1)), update(1, jax.random.key(1))
    assert same_bits(first["a"].noise, again["a"].noise)
    for other in (update(2, jax.random.key(1)), update(1, jax.random.key(2))):
        assert float(jnp.mean(first["a"].noise == other["a"].noise)) < 0.01
    for name in "bc":
        assert float(jnp.mean(first["a"].noise == first[name].noise)) < 0.01


def test_stochastic_rounding_takes_scheduled_bits_and_groups_and_masks():
    bits = schedules.linear(8, 2, end=4)
    transform = chain(
        magnitude("w", 0.5), weights("w", bits, granularity="group", group=4, symmetric=False, stochastic=True)
    )
    params = transform.update(transform.init({"w": gaussian(8, 3) + 0.2}), 4, key=jax.random.key(0))
    leaf = params["w"]
    assert leaf.weight.bits.tolist() == 2 and pack(leaf).bits == 2
    assert np.all(np.asarray(dense(leaf))[~np.asarray(leaf.weight.weight.mask)] == 0)


def test_an_update_without_a_key_is_named_with_the_pattern():
    transform = weights("w", 4, stochastic=True)
    with pytest.raises(
        ValueError, match="stochastic rounding for pattern 'w' is drawn by each update, which needs a key"
    ):
        transform.update(transform.init({"w": gaussian(3, 3)}), 0)
