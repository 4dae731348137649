"""Checks GPTQ against the optimal brain surgeon written out in float64, column by column, and rounding to nearest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.numerics import affine
from jaxcompress.numerics.gptq import gptq


def layer(inputs=24, outputs=4, seed=0, rank=None):
    """Draws a weight, and calibration inputs correlated through `rank` common causes."""
    rng = np.random.default_rng(seed)
    rank = rank or max(1, inputs // 2)
    x = rng.standard_normal((4 * inputs, rank)) @ rng.standard_normal((rank, inputs))
    x = x + 0.3 * rng.standard_normal(x.shape)
    return rng.standard_normal((inputs, outputs)).astype(np.float32), x


def rounding(weight, bits, symmetric, axes=(0,)):
    """Returns `(scale, zero_point)` of the weight, one of each per output."""
    return affine.weight_range(jnp.asarray(weight), bits, axes, symmetric)


def moment_of(x):
    return jnp.asarray(x.T @ x, jnp.float32)


def output_error(x, weight, codes, scale, zero):
    """Returns the squared error of the layer's outputs, in float64."""
    reals = (np.asarray(codes, np.float64) - np.asarray(zero)) * np.asarray(scale, np.float64)
    return np.square(x @ (reals - weight)).sum()


def obs(weight, moment, scale, zero, bits, symmetric, damping=0.01, first=None):
    """Rounds row after row with the inverse moment, which after each loses that row (float64; eqs. 2 and 3)."""
    weight, moment = np.array(weight, np.float64), np.array(moment, np.float64)
    scale, zero = (np.broadcast_to(np.asarray(p, np.float64), weight.shape) for p in (scale, zero))
    alive = np.diag(moment) > 0
    moment += np.diag(np.where(alive, damping, 1.0) * np.diag(moment)[alive].mean())
    inverse, codes = np.linalg.inv(moment), np.zeros(weight.shape, int)
    for i in range(len(weight)) if first is None else first:
        smallest, largest = -(2 ** (bits - 1)) + symmetric, 2 ** (bits - 1) - 1
        codes[i] = np.clip(np.round(weight[i] / scale[i]) + zero[i], smallest, largest)
        error = weight[i] - (codes[i] - zero[i]) * scale[i]
        weight -= np.outer(inverse[:, i] / inverse[i, i], error)
        inverse -= np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return codes


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("inputs", "outputs", "bits"), [(1, 3, 4), (24, 4, 2), (24, 4, 8), (300, 3, 3)])
def test_the_codes_are_those_of_the_optimal_brain_surgeon(inputs, outputs, bits, symmetric):
    weight, x = layer(inputs, outputs)
    scale, zero = rounding(weight, bits, symmetric)
    codes = gptq(jnp.asarray(weight), moment_of(x), scale, zero, bits, symmetric)
    assert codes.dtype == jnp.int8
    np.testing.assert_array_equal(codes, obs(weight, x.T @ x, scale, zero, bits, symmetric))


def test_two_inputs_by_hand():
    # Equal inputs: what the first weight lacks, the second makes up for; 0.4 + 0.4 is nearly 1, not 0 + 0.
    codes = gptq(jnp.full((2, 1), 0.4), jnp.ones((2, 2)), jnp.float32(1), jnp.float32(0), 4, True)
    assert codes.tolist() == [[0], [1]]


def test_activation_order_rounds_the_largest_input_first():
    weight, x = layer()
    x = x * np.random.default_rng(1).uniform(0.2, 3, 24)
    scale, zero = rounding(weight, 3, False)
    codes = gptq(jnp.asarray(weight), moment_of(x), scale, zero, 3, False, order="activation")
    first = np.argsort(-np.square(x).sum(0))
    np.testing.assert_array_equal(codes, obs(weight, x.T @ x, scale, zero, 3, False, first=first))
    assert np.any(codes != gptq(jnp.asarray(weight), moment_of(x), scale, zero, 3, False))


@pytest.mark.parametrize("order", ["natural", "activation"])
def test_groups_of_inputs_have_their_own_scales(order):
    weight, x = layer()
    scale, zero = affine.weight_range(jnp.asarray(weight).reshape(3, 8, 4), 4, (1,), False)
    scale, zero = scale[:, 0], zero[:, 0]
    codes = gptq(jnp.asarray(weight), moment_of(x), scale, zero, 4, False, order=order)
    first = None if order == "natural" else np.argsort(-np.square(x).sum(0))
    rows = [np.repeat(np.asarray(p), 8, axis=0) for p in (scale, zero)]
    np.testing.assert_array_equal(codes, obs(weight, x.T @ x, *rows, 4, False, first=first))


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 1), (1, 4)])
def test_a_scale_broadcasts_over_the_outputs(shape):
    weight, x = layer()
    scale, zero = jnp.full(shape, 0.2), jnp.zeros(shape, jnp.int8)
    codes = gptq(jnp.asarray(weight), moment_of(x), scale, zero, 4, True)
    np.testing.assert_array_equal(codes, obs(weight, x.T @ x, 0.2, 0.0, 4, True))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("order", ["natural", "activation"])
def test_outputs_are_nearer_than_those_of_rounding_to_nearest(bits, order):
    weight, x = layer()
    scale, zero = rounding(weight, bits, True)
    codes = gptq(jnp.asarray(weight), moment_of(x), scale, zero, bits, True, order=order)
    nearest = affine.quantize(jnp.asarray(weight), scale, zero, bits, True)
    ours, theirs = (output_error(x, weight, c, scale, zero) for c in (codes, nearest))
    assert ours < 0.5 * theirs


def test_uncorrelated_inputs_are_rounded_to_nearest():
    weight, _ = layer()
    scale, zero = rounding(weight, 4, False)
    moment = jnp.diag(jnp.linspace(0.1, 9, 24))
    codes = gptq(jnp.asarray(weight), moment, scale, zero, 4, False)
    np.testing.assert_array_equal(codes, affine.quantize(jnp.asarray(weight), scale, zero, 4, False))


def test_an_input_that_was_always_zero_is_rounded_to_nearest_and_moves_no_other():
    weight, x = layer()
    x[:, [0, 7]] = 0
    scale, zero = rounding(weight, 3, True)
    codes = gptq(jnp.asarray(weight), moment_of(x), scale, zero, 3, True)
    np.testing.assert_array_equal(codes, obs(weight, x.T @ x, scale, zero, 3, True))
    np.testing.assert_array_equal(codes[7], affine.quantize(jnp.asarray(weight), scale, zero, 3, True)[7])
    alive = np.setdiff1d(np.arange(24), [0, 7])
    alone = gptq(jnp.asarray(weight)[alive], moment_of(x[:, alive]), scale, zero, 3, True)
    np.testing.assert_array_equal(codes[alive], alone)


def test_no_input_at_all_is_rounding_to_nearest():
    weight, _ = layer()
    scale, zero = rounding(weight, 4, True)
    codes = gptq(jnp.asarray(weight), jnp.zeros((24, 24)), scale, zero, 4, True)
    np.testing.assert_array_equal(codes, affine.quantize(jnp.asarray(weight), scale, zero, 4, True))


@pytest.mark.parametrize("exponent", [-100, -1, 20, 116])
def test_the_unit_of_the_moment_does_not_count(exponent):
    weight, x = layer()
    scale, zero = rounding(weight, 4, True)
    codes = gptq(jnp.asarray(weight), moment_of(x), scale, zero, 4, True)
    scaled = gptq(jnp.asarray(weight), moment_of(x) * 2.0**exponent, scale, zero, 4, True)
    np.testing.assert_array_equal(codes, scaled)


def test_one_common_cause_of_all_inputs_is_damped():
    # The moment has rank 1: without damping it has no inverse.
    weight, _ = layer(200, 4)
    x = np.random.default_rng(1).standard_normal((50, 1)) * np.ones((1, 200))
    scale, zero = rounding(weight, 3, True)
    codes = gptq(jnp.asarray(weight), moment_of(x), scale, zero, 3, True)
    nearest = affine.quantize(jnp.asarray(weight), scale, zero, 3, True)
    assert output_error(x, weight, codes, scale, zero) < 0.05 * output_error(x, weight, nearest, scale, zero)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.booleans(), st.integers(1, 4), st.floats(1e-3, 1.0))
def test_codes_stay_in_range_whatever_the_inputs(seed, bits, symmetric, rank, damping):
    weight, x = layer(seed=seed, rank=rank)
    x[:, np.random.default_rng(seed).integers(24)] = 0
    scale, zero = rounding(weight, bits, symmetric)
    codes = gptq(jnp.asarray(weight), moment_of(x), scale, zero, bits, symmetric, damping)
    assert -(2 ** (bits - 1)) + symmetric <= codes.min() and codes.max() <= 2 ** (bits - 1) - 1
    assert output_error(x, weight, codes, scale, zero) < np.inf


def test_groups_of_a_convolution_are_vmapped():
    layers = [layer(9, 1, seed) for seed in range(5)]  # depthwise: a 3 by 3 kernel for each of 5 channels
    weights, moments = jnp.stack([w for w, _ in layers]), jnp.stack([moment_of(x) for _, x in layers])
    scales = jnp.abs(weights).max((1, 2)) / 7
    mapped = jax.vmap(lambda w, m, s: gptq(w, m, s, jnp.float32(0), 4, True))(weights, moments, scales)
    for i, (weight, x) in enumerate(layers):
        np.testing.assert_array_equal(mapped[i], gptq(weight, moment_of(x), scales[i], jnp.float32(0), 4, True))


def test_bits_may_be_traced():
    weight, x = layer()
    scale, zero = rounding(weight, 4, True)
    swept = jax.vmap(lambda bits: gptq(jnp.asarray(weight), moment_of(x), scale, zero, bits, True))(jnp.arange(2, 9))
    for i, bits in enumerate(range(2, 9)):
        np.testing.assert_array_equal(swept[i], gptq(jnp.asarray(weight), moment_of(x), scale, zero, bits, True))


def test_half_precision_weights_are_rounded_in_float32():
    weight, x = layer()
    weight = jnp.asarray(weight, jnp.bfloat16)
    scale, zero = rounding(weight.astype(jnp.float32), 4, True)
    codes = gptq(weight, moment_of(x), scale, zero, 4, True)
    np.testing.assert_array_equal(codes, gptq(weight.astype(jnp.float32), moment_of(x), scale, zero, 4, True))


SOUND = {
    "weight": jnp.ones((6, 3)),
    "moment": jnp.eye(6),
    "scale": jnp.float32(1),
    "zero_point": jnp.float32(0),
    "bits": 4,
    "symmetric": True,
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weight": jnp.ones((6, 3)).at[1, 2].set(jnp.nan)}, r"weight of shape \(6, 3\) holds NaN"),
        ({"weight": jnp.ones(6)}, r"weight of shape \(6,\).* is not a floating-point \(inputs, outputs\)"),
        ({"weight": jnp.ones((6, 3), int)}, "dtype int32 is not"),
        ({"moment": jnp.eye(5)}, r"moment of shape \(5, 5\) is not \(6, 6\)"),
        ({"moment": jnp.eye(6).at[0, 0].set(jnp.inf)}, "moment .* infinity"),
        ({"moment": -jnp.eye(6)}, "not positive semi-definite"),
        ({"moment": jnp.eye(6) + 3 * jnp.eye(6)[::-1]}, "not positive semi-definite"),
        ({"bits": 1}, "bits 1 is not an integer from 2 to 8"),
        ({"bits": 9}, "bits 9"),
        ({"bits": 4.5}, "bits 4.5"),
        ({"scale": jnp.ones(4)}, r"scale of shape \(4,\) is not \(\), \(1 or 3,\)"),
        ({"scale": jnp.ones((4, 3))}, "groups that divide 6"),
        ({"scale": jnp.ones((1, 6, 3))}, r"scale of shape \(1, 6, 3\)"),
        ({"scale": jnp.float32(0)}, "must be positive"),
        ({"zero_point": jnp.ones(2)}, r"zero_point of shape \(2,\)"),
        ({"damping": 0.0}, "damping 0.0 is not a positive number"),
        ({"order": "descending"}, "order 'descending' is not 'natural' or 'activation'"),
    ],
)
def test_what_cannot_be_rounded_is_refused(changed, message):
    gptq(**SOUND)
    with pytest.raises(ValueError, match=message):
        gptq(**{**SOUND, **changed})
