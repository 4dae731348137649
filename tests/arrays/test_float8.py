"""Checks what a stored 8-bit float weight takes, and what is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.arrays import Float8, PackedFloat8, decode, dense, encode, stacked
from jaxcompress.coding import encode_array, encode_codes


def gaussian(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def test_a_weight_takes_at_most_8_bits_and_its_scale_32():
    drawn = np.random.default_rng(0).integers(0, 0x78, 4096).astype(np.uint8).reshape(64, 64)
    leaf = PackedFloat8(jnp.asarray(drawn), jnp.ones((1, 1)), "e4m3")
    assert leaf.storage_bits() <= 8 * 4096 + 32
    assert Float8(gaussian(64, 64), (-2, -1)).storage_bits() < 8 * 4096  # the exponents of a gaussian repeat


def test_layers_may_be_scanned_over():
    leaf = Float8(gaussian(3, 4, 5), (-2,))
    shared = Float8(gaussian(3, 4, 5), (-3, -2, -1))
    unscaled = Float8(gaussian(3, 4, 5), (-3, -2, -1), "e5m2", False)
    assert shared.stacked() is None
    for form in (leaf, leaf.pack(), shared.pack(), unscaled, unscaled.pack()):
        assert form.stacked() is not None
        _, layers = lax.scan(lambda carry, layer: (carry, dense(layer)), 0, stacked(form))
        np.testing.assert_array_equal(layers, form.dense())


CODED = encode(PackedFloat8(jnp.ones((6, 3), jnp.uint8), jnp.ones((1, 3)), "e5m2"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attributes": CODED.attributes | {"format": "e3m4"}}, "format 'e3m4'"),
        ({"attributes": CODED.attributes | {"dtype": "float64"}}, "dtype 'float64'"),
        ({"attributes": CODED.attributes | {"shape": [6, 4]}}, "does not fit"),
        ({"parts": {"scale": encode_array(jnp.ones((1, 3), jnp.float16))}}, "dtype float16 does not fit"),
        ({"parts": {"scale": encode_array(jnp.ones((2, 3)))}}, "does not fit"),
        ({"streams": (encode_codes(np.full(18, 0xFC), 256),)}, "no finite number"),
        ({"streams": ()}, "no stream 'codes'"),
    ],
)
def test_what_is_no_stored_weight_is_refused(changes, message):
    decode(CODED)
    with pytest.raises(ValueError, match=message):
        decode(CODED._replace(**changes))
