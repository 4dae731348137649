"""Checks fake quantization: tables by hand, gradients, and that packing changes no bit of what the model sees."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import densify
from jaxcompress.arrays import FakeQuantized, Masked, dense, pack
from jaxcompress.prune import magnitude
from jaxcompress.quantize import weights

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
    with pytest.raises(ValueError, match="granularity 'row' for pattern 'fc' is not 'tensor' or 'channel'"):
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
