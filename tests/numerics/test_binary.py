"""Checks binary and ternary values: tables and gradients worked by hand, sums with an order of their own, extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jaxcompress.numerics import binary

# Beyond 2**-100 of the largest a float32 sum no longer sees an entry; what is subnormal XLA takes for zero.
REALS = st.floats(-(2.0**120), 2.0**120, width=32, allow_subnormal=False) | st.integers(-9, 9).map(float)
WEIGHTS = arrays.arrays(np.float32, st.sampled_from([(1, 1), (3, 2), (40, 3)]), elements=REALS)
EXTREMES = {
    "zeros": np.zeros((4, 3)),
    "constant_channel": np.array([[0.0, 0.3, -1.0]] * 4),
    "denormal": np.full((4, 3), 1e-42),
    "tiny": np.linspace(-1e-37, 1e-37, 12).reshape(4, 3),
    "huge": np.linspace(-1e38, 1e38, 12).reshape(4, 3),
    "negative_zero": np.full((4, 3), -0.0),
}
ALL = (-2, -1)

QUANTIZERS = {
    "binary_connect": lambda w: binary.binary_connect(w, jnp.float32(0)),
    "xnor": lambda w: binary.xnor(w, (-2,)),
    "twn": lambda w: binary.twn(w, 0.7, ALL),
    "ttq": lambda w: binary.ttq(w, jnp.float32(0.8), jnp.float32(0.6), 0.05, ALL),
}
EVERY_QUANTIZER = pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)


def gaussian(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def same_bits(a: jax.Array, b: jax.Array) -> bool:
    return a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


# Mean magnitudes.


@pytest.mark.parametrize("axes", [(-2,), (-1,), ALL])
@settings(deadline=None, max_examples=40)
@given(WEIGHTS, st.integers(0, 2**32 - 1))
def test_mean_magnitude_is_that_of_float64(axes, weight, seed):
    kept = np.random.default_rng(seed).random(weight.shape) < 0.6
    exact = np.abs(weight.astype(np.float64))
    for keep in (None, kept):
        where = np.ones(weight.shape, bool) if keep is None else keep
        total = np.sum(exact, axis=axes, keepdims=True, where=where)
        mean = total / np.maximum(np.sum(where, axis=axes, keepdims=True), 1)
        ours = binary.mean_magnitude(jnp.asarray(weight), axes, None if keep is None else jnp.asarray(keep))
        np.testing.assert_allclose(ours, mean, rtol=1e-5, atol=2e-38)


@pytest.mark.parametrize("shape", [(64, 33), (3, 3, 8, 16)])
def test_a_mean_has_the_same_bits_in_every_program(shape):
    weight = gaussian(*shape)
    for axes in (tuple(range(-len(shape), 0)), tuple(range(-len(shape), -1))):
        mean = lambda w, axes=axes: binary.mean_magnitude(w, axes, jnp.abs(w) > 0.3)
        alone = mean(weight)
        assert same_bits(jax.jit(mean)(weight), alone)
        assert same_bits(jax.jit(jax.vmap(mean))(jnp.stack([weight, -weight]))[1], alone)
        assert same_bits(jax.jit(lambda mean=mean: mean(weight))(), alone)


def test_the_mean_of_large_weights_does_not_overflow():
    np.testing.assert_allclose(binary.mean_magnitude(jnp.full((5, 7), -3e38), ALL), [[3e38]], rtol=1e-6)


def test_the_mean_of_many_weights_does_not_drift():
    np.testing.assert_allclose(binary.mean_magnitude(jnp.full((1000, 300), 0.1), ALL), [[0.1]], rtol=3e-7)


# BinaryConnect.


def test_binary_connect_by_hand():
    weight = jnp.array([-2.0, -0.1, -0.0, 0.0, 0.3, 1.5])
    value, pullback = jax.vjp(lambda w: binary.binary_connect(w, jnp.float32(0)), weight)
    assert value.tolist() == [-1, -1, 1, 1, 1, 1]
    assert pullback(jnp.arange(6.0))[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert binary.binary_connect(weight, jnp.float32(0), weight > 0).tolist() == [0, 0, 0, 0, 1, 1]


def test_signs_are_right_next_to_zero():
    assert binary.signs(jnp.array([-1e-30, 1e-30])).tolist() == [-1, 1]


def test_drawn_signs_have_the_probability_of_the_hard_sigmoid():
    weight = jnp.array([-1.5, -1.0, -0.6, 0.0, 0.5, 1.0, 2.0])
    draws = binary.random_threshold(jax.random.key(0), (20000, 7))
    frequency = np.mean(np.asarray(binary.binary_connect(jnp.broadcast_to(weight, draws.shape), draws)) == 1, 0)
    expected = np.clip((np.asarray(weight) + 1) / 2, 0, 1)
    np.testing.assert_allclose(frequency, expected, atol=0.015)  # four standard deviations
    certain = (expected == 0) | (expected == 1)
    np.testing.assert_array_equal(frequency[certain], expected[certain])


# XNOR-Net.


def test_xnor_by_hand():
    weight = jnp.array([[0.5, -3.0], [-1.5, 1.0]])  # means 1 and 2
    value, pullback = jax.vjp(lambda w: binary.xnor(w, (-2,)), weight)
    assert value.tolist() == [[1, -2], [-1, 2]]
    # 1 / n + alpha where |w| <= 1, else 1 / n, with n = 2.
    assert pullback(jnp.ones((2, 2)))[0].tolist() == [[1.5, 0.5], [0.5, 2.5]]


def test_xnor_leaves_pruned_weights_out():
    weight, kept = jnp.array([[0.5], [0.0], [-1.5]]), jnp.array([[True], [False], [True]])
    value, pullback = jax.vjp(lambda w: binary.xnor(w, (-2,), kept), weight)
    assert value.tolist() == [[1], [0], [-1]]
    assert pullback(jnp.ones((3, 1)))[0].tolist() == [[1.5], [1.5], [0.5]]


def test_the_mean_is_the_scale_of_least_squares():
    # Rastegari et al. 2016, eq. 6.
    weight = gaussian(50, 3)
    codes, scale = binary.scaled_signs(weight, (-2,))
    error = lambda s: np.sum(np.square(np.float64(weight) - np.float64(codes) * s), 0)
    best = np.float64(scale)[0]
    assert np.all(error(best) < error(best * 1.01)) and np.all(error(best) < error(best * 0.99))


# TWN.


def test_twn_by_hand():
    weight = jnp.array([[0.1, -2.0], [0.6, 1.3]])  # the mean is 1, so delta is 0.7
    value, pullback = jax.vjp(lambda w: binary.twn(w, 0.7, ALL), weight)
    np.testing.assert_allclose(value, [[0, -1.65], [0, 1.65]], rtol=1e-6)
    assert pullback(jnp.array([[1.0, 2.0], [3.0, 4.0]]))[0].tolist() == [[1, 2], [3, 4]]


def test_twn_leaves_pruned_weights_out():
    weight = jnp.array([[1.0, 0.0, 0.0, 3.0]])
    assert binary.twn_codes(weight, 0.7, ALL)[0].tolist() == [[1, 0, 0, 1]]  # delta 0.7
    codes, scale = binary.twn_codes(weight, 0.7, ALL, weight > 0)  # the mean is 2, so delta is 1.4
    assert codes.tolist() == [[0, 0, 0, 1]] and scale.item() == 3


# TTQ.


def test_ttq_by_hand():
    weight = jnp.array([[0.04, -2.0], [-0.1, 0.11]])  # delta = 0.05 * 2
    quantizer = lambda w, p, n: binary.ttq(w, p, n, 0.05, ALL)
    value, pullback = jax.vjp(quantizer, weight, jnp.float32(3), jnp.float32(0.5))
    assert value.tolist() == [[0, -0.5], [0, 3]]
    to_weight, to_positive, to_negative = pullback(jnp.array([[1.0, 10.0], [100.0, 1000.0]]))
    assert to_weight.tolist() == [[1, 5], [100, 3000]]  # eq. 8
    assert (to_positive, to_negative) == (1000, -10)  # eq. 7


def test_ttq_starts_from_the_means_of_its_groups():
    levels = lambda *weights: [x.item() for x in binary.ttq_levels(jnp.float32([weights]), 0.05, ALL)]
    assert levels(1.0, 3.0, -0.5, 0.01) == [2, 0.5]
    assert levels(1.0, 3.0) == [2, 2]  # an empty group starts from the other's
    assert levels(0.0, 0.0) == [1, 1]


# All of them.


@EVERY_QUANTIZER
@pytest.mark.parametrize("weight", EXTREMES.values(), ids=EXTREMES)
def test_extreme_weights_and_their_gradients_are_finite(quantizer, weight):
    value, pullback = jax.vjp(quantizer, jnp.float32(weight))
    assert np.isfinite(value).all() and np.isfinite(pullback(jnp.ones_like(value))[0]).all()
    assert not np.signbit(np.asarray(value)[np.asarray(value) == 0]).any()


@EVERY_QUANTIZER
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_rounded_once_at_the_end(quantizer, dtype):
    weight = gaussian(9, 5).astype(dtype)
    out = quantizer(weight)
    assert same_bits(out, quantizer(weight.astype(jnp.float32)).astype(dtype))
    assert jax.grad(lambda w: jnp.sum(quantizer(w)).astype(jnp.float32))(weight).dtype == dtype


@EVERY_QUANTIZER
@settings(deadline=None, max_examples=40)
@given(WEIGHTS)
def test_values_are_three_at_most_per_channel_and_have_the_signs_of_the_weights(quantizer, weight):
    out = np.asarray(quantizer(jnp.asarray(weight)))
    assert all(len(np.unique(np.abs(channel[channel != 0]))) <= 2 for channel in out.T)
    assert np.all(out[weight < -1e-30] <= 0) and np.all(out[weight >= 0] >= 0)
