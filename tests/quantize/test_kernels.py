"""Checks the bits, scales and leaves of kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.quantize.kernels import bits_by_layer, finite_kernel, integer_leaf, kernel_scale, rounded_kernel
from tests.graphs import drawn

COMPILED = jax.jit(rounded_kernel, static_argnames="granularity")
NAMES = ["block/conv1", "block/conv2", "head"]


def test_one_number_is_that_of_all_layers_and_a_mapping_is_of_each():
    assert bits_by_layer(NAMES, 5) == dict.fromkeys(NAMES, 5)
    each = {"head": 8, "block/conv1": 2, "block/conv2": 3}
    assert bits_by_layer(NAMES, each) == each


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        (1, "bits 1 is not an integer from 2 to 8"),
        (9, "bits 9 is not"),
        (4.0, "bits 4.0 is not"),
        (True, "bits True is not"),
        ({"block/conv1": 4, "block/conv2": 12, "head": 4}, "bits 12 of block/conv2 is not an integer from 2 to 8"),
        ({"block/conv1": 4, "head": 4}, r"no bits for block/conv2; .*: block/conv1, block/conv2, head$"),
        (
            {**dict.fromkeys(NAMES, 4), "block/conv3": 4},
            r"bits of 'block/conv3', which is no layer \(did you mean 'block/conv[12]'\?\); the layers: block/conv1, ",
        ),
    ],
)
def test_bits_that_no_layer_can_have_are_refused(bits, message):
    with pytest.raises(ValueError, match=message):
        bits_by_layer(NAMES, bits)


def best_scale(rows: np.ndarray, bits: int) -> float:
    """Tries the same clippings one by one in float64."""
    most = 2 ** (bits - 1) - 1
    largest = np.abs(rows).max() or most
    scales = [fraction * largest / most for fraction in np.linspace(0.5, 1, 51)]
    return min(scales, key=lambda s: np.sum((np.clip(np.round(rows / s), -most, most) * s - rows) ** 2))


@pytest.mark.parametrize("bits", range(2, 9))
def test_scales_are_the_best_by_trying_each_and_bits_may_be_traced(bits):
    kernel = drawn(3, 3, 4, 5)
    whole, by_output = (kernel_scale(kernel, bits, granularity) for granularity in ("tensor", "channel"))
    assert whole.shape == (1, 1, 1, 1) and by_output.shape == (1, 1, 1, 5)
    exact = np.asarray(kernel, np.float64)
    expected = [best_scale(exact[..., i], bits) for i in range(5)]
    np.testing.assert_allclose(by_output.reshape(-1), expected, rtol=1e-5)
    np.testing.assert_allclose(whole.reshape(()), best_scale(exact, bits), rtol=1e-5)
    traced = COMPILED(kernel, jnp.int32(bits), "channel")
    np.testing.assert_allclose(traced, rounded_kernel(kernel, bits, "channel"), rtol=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False), min_size=6, max_size=6),
    st.sampled_from([2, 4, 8]),
)
def test_rounding_errs_at_most_as_without_clipping_and_zeros_stay(values, bits):
    kernel = jnp.asarray(values, jnp.float32).reshape(3, 2).at[0].set(0)
    kernel = jnp.where(jnp.abs(kernel) < 1e-30, 0, kernel)  # scales are normal floats
    rounded, exact = (np.asarray(a, np.float64) for a in (COMPILED(kernel, jnp.int32(bits), "channel"), kernel))
    largest = np.abs(exact).max(0)
    steps = np.where(largest > 0, largest, 1) / (2 ** (bits - 1) - 1)
    plain = np.round(exact / steps) * steps
    error, allowed = (np.sum((q - exact) ** 2, 0) for q in (rounded, plain))
    assert np.all(error <= allowed * 1.001 + (1e-6 * largest) ** 2) and not rounded[0].any()


def test_a_kernel_of_zeros_and_a_constant_channel_are_kept():
    kernel = jnp.array([[0.0, 0.3], [0.0, 0.3]])
    np.testing.assert_allclose(rounded_kernel(kernel, 4, "channel"), kernel, rtol=1e-6)


def test_the_leaf_keeps_zeros_whatever_their_codes():
    leaf = integer_leaf(jnp.array([[0.0, 1.0]]), jnp.array([[1, 1]], jnp.int8), jnp.full((1, 2), 0.5), 4)
    assert leaf.codes.tolist() == [[0, 1]] and leaf.dense().tolist() == [[0, 0.5]] and leaf.bits == 4


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_kernels_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="head/kernel holds NaN or infinity"):
        finite_kernel({"head": {"kernel": jnp.array([[1.0, value]])}}, "head")
