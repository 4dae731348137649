"""Checks fixed-width packing against bytes worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.numerics import bits

settings.register_profile("quick", deadline=None, max_examples=60)
settings.load_profile("quick")


def test_pack_bits_by_hand():
    # 5 = 101, 1 = 001, 7 = 111, then 7 zero bits: 10100111 10000000.
    assert bits.pack_bits(np.array([5, 1, 7]), 3) == bytes([0b10100111, 0b10000000])
    assert bits.unpack_bits(bytes([0b10100111, 0b10000000]), 3, 3).tolist() == [5, 1, 7]


@given(st.integers(0, 32), st.data())
def test_pack_bits_round_trip(width: int, data: st.DataObject):
    values = np.array(data.draw(st.lists(st.integers(0, 2**width - 1), max_size=50)), np.int64)
    packed = bits.pack_bits(values, width)
    assert len(packed) == -(-values.size * width // 8)
    np.testing.assert_array_equal(bits.unpack_bits(packed, width, values.size), values)


@pytest.mark.parametrize(
    "data, width, count",
    [
        (b"\x80", 3, 6),  # 18 bits do not fit in 8
        (b"\x80\x00", 3, 2),  # a byte too many
        (b"\x81", 3, 2),  # padding not zero
        (b"\x00", 0, 5),  # width 0 has no bytes
        (b"", 3, -1),
        (b"", 0, -1),
        (b"", 33, 0),
        (b"", 8, 10**18),  # refused before it is allocated
    ],
)
def test_unpack_bits_refuses(data: bytes, width: int, count: int):
    with pytest.raises(ValueError):
        bits.unpack_bits(data, width, count)


@pytest.mark.parametrize("values", [[8], [-1], [[1]], [0.5]])
def test_pack_bits_refuses(values: list):
    with pytest.raises(ValueError):
        bits.pack_bits(np.array(values), 3)
