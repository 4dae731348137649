"""Checks what the contract of all leaves leaves open about weights that are gone."""

import jax.numpy as jnp
import pytest

from jaxcompress.arrays import Zeros, decode, encode


def test_one_number_is_stored_whatever_the_shape():
    assert Zeros(jnp.float32(0), (3, 3, 512, 512)).storage_bits() == 32
    assert Zeros(jnp.bfloat16(0), (1000,)).storage_bits() == 16


def test_a_file_with_another_number_is_refused():
    coded = encode(Zeros(jnp.float32(0), (2, 2)))
    broken = coded._replace(parts={"zero": encode(jnp.float32(1))})
    with pytest.raises(ValueError, match="weights that are gone are zero, not 1.0"):
        decode(broken)
    with pytest.raises(ValueError, match="Zeros has no part 'zero'"):
        decode(coded._replace(parts={}))
