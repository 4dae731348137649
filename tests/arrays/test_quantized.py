"""Checks integers whose scales belong to groups, rounding with noise, and what is no stored Quantized."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.arrays import Dithered, FakeQuantized, Quantized, decode, dense, encode, stacked
from jaxcompress.coding import encode_array


def gaussian(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def by_groups(weight: jax.Array, group: int, bits: int = 4, symmetric: bool = True) -> FakeQuantized:
    return FakeQuantized(weight, jnp.int32(bits), (-2,), symmetric, "", group)


def reference(weight: np.ndarray, group: int, bits: int, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rounded weight and its codes, run by run in float64."""
    reals, codes = np.zeros(weight.shape), np.zeros(weight.shape)
    low, high = (1 if symmetric else 0) - 2 ** (bits - 1), 2 ** (bits - 1) - 1
    for place in np.ndindex(*weight.shape[:-2], weight.shape[-2] // group, weight.shape[-1]):
        *outer, run, output = place
        at = (*outer, slice(run * group, (run + 1) * group), output)
        values = weight[at].astype(np.float64)
        if symmetric:
            scale, zero = np.abs(values).max() / high, 0.0
        else:
            scale = (max(values.max(), 0) - min(values.min(), 0)) / (high - low)
            zero = np.clip(np.round(low - min(values.min(), 0) / scale), low, high)
        codes[at] = np.clip(np.round(values / scale) + zero, low, high)
        reals[at] = (codes[at] - zero) * scale
    return reals, codes


def test_groups_by_hand():
    leaf = by_groups(jnp.float32([[0.4, 3.0], [-1.0, -0.5], [8.0, 0.0], [3.9, 0.0]]), 2, bits=2)
    assert leaf.dense().tolist() == [[0, 3], [-1, 0], [8, 0], [0, 0]]  # scales 1, 3; 8, 1
    assert leaf.pack().scale.tolist() == [[1, 3], [8, 1]]
    assert leaf.integers()[1].tolist() == [[1, 3], [1, 3], [8, 1], [8, 1]]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("shape", "group"), [((12, 5), 3), ((3, 2, 4, 5), 2), ((3, 2, 4, 5), 4)])
def test_groups_equal_a_loop_over_them(shape, group, symmetric):
    weight = gaussian(*shape) + 0.2
    leaf = by_groups(weight, group, symmetric=symmetric)
    reals, codes = reference(np.asarray(weight), group, 4, symmetric)
    np.testing.assert_array_equal(leaf.pack().codes, codes)
    np.testing.assert_allclose(leaf.dense(), reals, rtol=1e-5, atol=1e-6)
    assert leaf.pack().scale.shape == (*shape[:-2], shape[-2] // group, shape[-1])


@pytest.mark.parametrize("symmetric", [True, False])
def test_layers_of_groups_may_be_scanned_over(symmetric):
    leaf = by_groups(gaussian(3, 6, 4) + 0.2, 3, symmetric=symmetric)
    for form in (leaf, leaf.pack(), Dithered(leaf, jnp.zeros((3, 6, 4)))):
        _, layers = lax.scan(lambda carry, layer: (carry, dense(layer)), 0, stacked(form))
        np.testing.assert_array_equal(layers, form.dense())


def test_runs_along_the_first_axis_are_of_no_layer_alone():
    leaf = by_groups(gaussian(6, 4), 3)
    assert leaf.stacked() is None and Dithered(leaf, jnp.zeros((6, 4))).stacked() is None
    np.testing.assert_array_equal(jax.vmap(dense)(leaf.pack().stacked()), leaf.dense())


def test_noise_moves_a_weight_to_the_integer_above_or_below():
    weight = jnp.float32([[0.25, 0.25, 1.5, -2.75, 7.0]])  # the scale is 1
    leaf = FakeQuantized(weight, jnp.int32(4), (-2, -1))
    noise = jnp.float32([[0.2, 0.3, -0.25, -0.49, -0.5]])
    assert Dithered(leaf, noise).dense().tolist() == [[0, 1, 1, -3, 7]]
    assert Dithered(leaf, noise).integers()[0].tolist() == [[0, 1, 1, -3, 7]]
    assert Dithered(leaf, noise).pack().codes.tolist() == [[0, 0, 2, -3, 7]]


def test_the_gradient_of_a_dithered_weight_passes_straight_through():
    upstream = gaussian(6, 4, seed=1)
    leaf = Dithered(by_groups(gaussian(6, 4), 3), jax.random.uniform(jax.random.key(0), (6, 4)) - 0.5)
    slope = jax.grad(lambda x: jnp.sum(x.dense() * upstream), allow_int=True)(leaf)
    np.testing.assert_array_equal(slope.weight.weight, upstream)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((4, 3), "do not fit"), ((12, 3), "do not fit"), ((0, 3), "do not fit"), ((6,), "do not fit")],
)
def test_a_stored_scale_that_no_run_can_have_is_refused(shape, message):
    coded = encode(Quantized(jnp.ones((6, 3), jnp.int8), jnp.ones((1, 3)), jnp.zeros((1, 3), jnp.int8), 4))
    with pytest.raises(ValueError, match=message):
        decode(coded._replace(parts={"scale": encode_array(jnp.ones(shape))}))


def test_a_stored_scale_that_is_no_array_is_refused():
    leaf = Quantized(jnp.ones((6, 3), jnp.int8), jnp.ones((1, 3)), jnp.zeros((1, 3), jnp.int8), 4)
    with pytest.raises(ValueError, match="is not an array this version reads"):
        decode(encode(leaf)._replace(parts={"scale": encode(leaf)}))
