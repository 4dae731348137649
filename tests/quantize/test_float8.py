"""Checks weights in 8-bit floating point against ml_dtypes, their packing, gradients and errors."""

import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import chain, densify, pack
from jaxcompress.arrays import Float8, dense
from jaxcompress.export.packed import from_bytes, to_bytes
from jaxcompress.prune import magnitude
from jaxcompress.quantize import float8

dense_jit = jax.jit(dense)
DTYPES = {"e4m3": (ml_dtypes.float8_e4m3fn, 448.0), "e5m2": (ml_dtypes.float8_e5m2, 57344.0)}
EVERY_FORMAT = pytest.mark.parametrize("format", DTYPES)


def same_bits(a: jax.Array, b: jax.Array) -> bool:
    return a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def gaussian(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def reference(weight: np.ndarray, format: str, axes: tuple[int, ...] | None) -> np.ndarray:
    """Rounds in float64 but for the cast itself; `axes` is None without a scale."""
    dtype, largest = DTYPES[format]
    wide = np.asarray(weight, np.float64)
    scale = 1.0 if axes is None else np.abs(wide).max(axes, keepdims=True) / largest
    return np.clip(wide / scale, -largest, largest).astype(np.float32).astype(dtype).astype(np.float64) * scale


@EVERY_FORMAT
@pytest.mark.parametrize(("granularity", "axes"), [("tensor", (0, 1, 2)), ("channel", (0, 1))])
def test_a_scaled_weight_is_what_ml_dtypes_casts(format, granularity, axes):
    weight = 3 * gaussian(3, 4, 5)
    seen = densify(float8("w", format, granularity=granularity).init({"w": weight}))["w"]
    np.testing.assert_allclose(seen, reference(np.asarray(weight), format, axes), rtol=1e-6)


@EVERY_FORMAT
def test_a_weight_without_a_scale_saturates(format):
    largest = DTYPES[format][1]
    weight = jnp.concatenate([largest * gaussian(50), 1e-3 * gaussian(50), jnp.float32([largest, -2 * largest])])
    seen = densify(float8("w", format, scaled=False).init({"w": weight}))["w"]
    np.testing.assert_array_equal(seen, reference(np.asarray(weight), format, None))
    assert np.max(np.abs(seen)) == largest


def test_by_hand():
    params = {"w": jnp.float32([[448.0, 17.0], [-1.05, 0.0009]])}
    assert densify(float8("w").init(params))["w"].tolist() == [[448, 16], [-1, 0]]  # 16 and 18, 0 and 2**-9
    assert densify(float8("w", "e5m2", scaled=False).init(params))["w"].tolist()[0] == [448, 16]


@EVERY_FORMAT
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@settings(deadline=None, max_examples=10)
@given(st.lists(st.floats(-(2.0**60), 2.0**60, width=32) | st.integers(-9, 9), min_size=6, max_size=6))
def test_packing_changes_no_bit(format, granularity, values):
    weight = jnp.asarray(np.reshape(np.array(values, np.float32), (2, 3)))
    leaf = float8("w", format, granularity=granularity).init({"w": weight})["w"]
    packed = from_bytes(to_bytes({"w": leaf}))["w"]
    assert packed.codes.dtype == jnp.uint8
    seen = dense(leaf)
    assert np.all(np.isfinite(seen))
    assert same_bits(dense(packed), seen) and same_bits(dense_jit(leaf), seen) and same_bits(dense_jit(packed), seen)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_packing_changes_no_bit_of_half_precision(dtype):
    leaf = float8("w").init({"w": gaussian(20, 6).astype(dtype)})["w"]
    assert dense(leaf).dtype == dtype
    assert same_bits(dense_jit(leaf), dense(pack(leaf))) and same_bits(dense_jit(pack(leaf)), dense(leaf))


def test_gradients_pass_straight_through():
    upstream = gaussian(7, 3, seed=1)
    slope = jax.grad(lambda p: jnp.sum(densify(p)["w"] * upstream))(float8("w").init({"w": gaussian(7, 3)}))
    np.testing.assert_array_equal(slope["w"].weight, upstream)


def test_pruned_weights_stay_zero_in_either_order():
    for transform in (chain(magnitude("w", 0.6), float8("w")), chain(float8("w"), magnitude("w", 0.6))):
        leaf = transform.init({"w": gaussian(20, 6)})["w"]
        mask = leaf.weight.mask if isinstance(leaf, Float8) else leaf.mask
        assert np.all(np.asarray(dense(leaf))[~np.asarray(mask)] == 0)
        assert same_bits(dense(from_bytes(to_bytes({"w": leaf}))["w"]), dense(leaf))


def test_a_second_init_wraps_nothing():
    once = float8("w").init({"w": gaussian(3, 3)})
    assert float8("w").init(once)["w"] is once["w"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: float8("w", "e3m4"), "format 'e3m4' for pattern 'w' is not 'e4m3' or 'e5m2'"),
        (lambda: float8("w", granularity="group"), "granularity 'group' for pattern 'w' is not 'tensor' or 'channel'"),
        (lambda: float8("w").init({"w": jnp.arange(3)}), "w of dtype int32 cannot be quantized"),
        (lambda: float8("w").init({"w": jnp.array([1.0, jnp.nan])}), "w holds 1 entries that are not finite"),
        (lambda: float8("w", granularity="channel", channel_axis=0).init({"w": gaussian(2, 2)}), "channel_axis 0 is"),
        (lambda: float8("v").init({"w": gaussian(2, 2)}), "'v' matches no parameter"),
    ],
)
def test_errors_name_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
