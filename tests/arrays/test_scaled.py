"""Checks that integers stay integers under a factor: signs, zero, codes that are not symmetric, products of factors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxcompress.arrays import (
    Clustered,
    FakeQuantized,
    LearnedStep,
    Masked,
    Quantized,
    Scaled,
    decode,
    dense,
    encode,
    scale_by,
    stacked,
)
from jaxcompress.coding import encode_array

FACTOR = jnp.float32([[2.0, -0.5, 0.0]])


def gaussian(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def quantized(codes, scale=0.25, zero=0):
    codes = jnp.int8(codes)
    one = (1,) * codes.ndim
    return Quantized(codes, jnp.full(one, scale, jnp.float32), jnp.full(one, zero, jnp.int8), 8)


def fake(weight, axes=(-2,)):
    return FakeQuantized(weight, jnp.int32(4), axes)


def meaning(integers):
    codes, scale, zero = (np.asarray(part, np.float64) for part in integers)
    return (codes - zero) * scale


def test_integers_by_hand():
    codes, scale, zero = Scaled(quantized([[1, 2, 3], [-127, 127, -5]]), FACTOR).integers()
    assert codes.dtype == jnp.int8 and codes.tolist() == [[1, -2, 0], [-127, -127, 0]]
    assert scale.tolist() == [[0.5, 0.125, 0.25]] and not np.any(zero)
    assert Scaled(quantized([[4, 4, 4]]), FACTOR).dense().tolist() == [[2.0, -0.5, 0.0]]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-128, 127), min_size=6, max_size=6),
    st.integers(-128, 127),
    st.lists(st.floats(-64, 64, width=16) | st.just(0.0), min_size=3, max_size=3),
)
def test_integers_mean_what_the_leaf_does(codes, zero, factor):
    leaf = Scaled(quantized(np.reshape(codes, (2, 3)), zero=zero), jnp.float32([factor]))
    np.testing.assert_allclose(meaning(leaf.integers()), leaf.dense(), rtol=1e-6, atol=1e-30)
    assert np.all(np.asarray(leaf.integers()[1]) > 0)
    if not zero and min(codes) > -128:
        assert not np.any(leaf.integers()[2])


@pytest.mark.parametrize("factor", [1e-38, -1e-45, 0.0])
def test_a_scale_that_vanishes_leaves_codes_of_zero_and_a_scale_to_divide_by(factor):
    codes, scale, zero = Scaled(quantized([[100, -3]], scale=1e-3), jnp.float32([[factor]])).integers()
    assert not np.any(codes) and not np.any(zero) and np.all(np.isfinite(1 / scale))


def test_a_weight_without_integers_has_none():
    assert Scaled(gaussian(2, 3), FACTOR).integers() is None
    assert Scaled(Clustered(jnp.zeros((2, 3), jnp.uint8), jnp.ones(1)), FACTOR).integers() is None


def test_a_learned_step_with_the_smallest_code_is_turned_exactly():
    leaf = LearnedStep(jnp.float32([[-200.0, 3.0, 1.0]]), jnp.float32([[1.0]]), jnp.int32(8), 3, False)
    turned = Scaled(leaf, jnp.float32([[-1.0]]))
    assert leaf.integers()[0].tolist() == [[-128, 3, 1]]
    np.testing.assert_array_equal(meaning(turned.integers()), turned.dense())


def test_factors_of_one_weight_are_multiplied():
    twice = scale_by(Scaled(gaussian(2, 3), FACTOR), jnp.float32([[3.0]]))
    assert isinstance(twice.weight, jax.Array) and twice.factor.tolist() == [[6.0, -1.5, 0.0]]


def test_factors_that_cancel_leave_the_weight():
    leaf, factor = fake(gaussian(2, 3)), jnp.float32([[0.3, -7.0, 1e-9]])
    assert scale_by(Scaled(leaf, factor), 1 / factor) is leaf
    assert scale_by(leaf, jnp.float32([[1.0 + 9e-7]])) is leaf
    almost = scale_by(leaf, jnp.float32([[1.0 + 9e-7, 1.0, 1.0 + 2e-6]]))
    assert isinstance(almost, Scaled) and almost.factor.tolist() == [[1, 1, np.float32(1 + 2e-6)]]


def test_masks_stay_outermost():
    kept = jnp.array([[True, False, True], [True, True, False]])
    leaf = scale_by(Masked(Scaled(fake(gaussian(2, 3)), 1 / FACTOR.at[0, 2].set(4.0)), kept), FACTOR.at[0, 2].set(4.0))
    assert isinstance(leaf, Masked) and isinstance(leaf.weight, FakeQuantized)


def test_factors_that_cancel_in_a_program_are_one_and_pass_their_gradient():
    leaf, factor = fake(gaussian(2, 3)), jnp.float32([[0.3, -7.0, 11.0]])

    def total(scale):
        return jnp.sum(scale_by(Scaled(leaf, 1 / factor), scale).dense())

    value, slope = jax.jit(jax.value_and_grad(total))(factor)
    np.testing.assert_allclose(value, jnp.sum(leaf.dense()), rtol=1e-6)
    np.testing.assert_allclose(slope, jnp.sum(leaf.dense(), 0, keepdims=True) / factor, rtol=1e-5)
    made = jax.jit(lambda scale: scale_by(Scaled(leaf, 1 / factor), scale).integers())(factor)
    jax.tree.map(np.testing.assert_array_equal, made, leaf.integers())


def test_gradients_flow_to_the_weight_times_the_factor():
    slope = jax.grad(lambda w: jnp.sum(Scaled(fake(w), FACTOR).dense()))(gaussian(2, 3))
    np.testing.assert_array_equal(slope, jnp.broadcast_to(FACTOR, (2, 3)))


def test_layers_may_be_scanned_over():
    for leaf in (Scaled(fake(gaussian(4, 2, 3)), FACTOR[None]), Scaled(gaussian(4, 2, 3), jnp.ones((4, 1, 3)))):
        _, layers = lax.scan(lambda carry, layer: (carry, dense(layer)), 0, stacked(leaf))
        np.testing.assert_array_equal(layers, leaf.dense())


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("factor", encode_array(jnp.ones((2, 2))), "does not fit"),
        ("factor", encode_array(jnp.ones(3)), "does not fit"),
        ("factor", encode_array(jnp.ones((1, 3), jnp.float16)), "dtype float16 does not fit"),
        ("factor", encode(quantized([[1, 2, 3]])), "is not an array"),
        ("weight", encode_array(jnp.ones((2, 3), jnp.int32)), "dtype int32 has no factor"),
    ],
)
def test_what_is_no_stored_leaf_is_refused(name, part, message):
    coded = encode(Scaled(gaussian(2, 3), FACTOR))
    decode(coded)
    with pytest.raises(ValueError, match=message):
        decode(coded._replace(parts=coded.parts | {name: part}))
