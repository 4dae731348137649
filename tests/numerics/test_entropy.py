"""Checks the choice of the shortest coding of symbols, and the entropy by hand."""

import numpy as np
import pytest
from hypothesis import given, settings

from jaxcompress.numerics import bits, entropy
from tests.numerics.test_huffman import DAMAGE, damaged, symbols_and_alphabets

settings.register_profile("quick", deadline=None, max_examples=60)
settings.load_profile("quick")


@given(symbols_and_alphabets())
def test_symbols_take_the_shortest_coding(drawn: tuple[np.ndarray, int]):
    symbols, alphabet = drawn
    coding, data = entropy.encode_symbols(symbols, alphabet)
    sizes = entropy.symbol_bits(symbols, alphabet)
    assert tuple(sizes) == entropy.SYMBOL_CODINGS
    assert 8 * len(data) == sizes[coding] == min(sizes.values())
    assert sizes["fixed"] == 8 * -(-symbols.size * (alphabet - 1).bit_length() // 8)
    np.testing.assert_array_equal(entropy.decode_symbols(coding, data, alphabet, symbols.size), symbols)


@given(symbols_and_alphabets(), DAMAGE)
def test_damaged_fixed_symbols_are_refused_or_have_one_stream(drawn: tuple, damage: tuple[int, bytes]):
    symbols, alphabet = drawn
    width = (alphabet - 1).bit_length()
    data = damaged(bits.pack_bits(symbols, width), *damage)
    try:
        found = entropy.decode_symbols("fixed", data, alphabet, symbols.size)
    except ValueError:
        return
    assert bits.pack_bits(found, width) == data


def test_symbols_of_an_alphabet_of_one_cost_nothing():
    assert entropy.encode_symbols(np.zeros(1000, np.int64), 1) == ("fixed", b"")


def test_symbols_refuse():
    for symbols, alphabet in [([3], 3), ([-1], 3), ([0], 0), ([0], 2**16 + 1)]:
        with pytest.raises(ValueError):
            entropy.encode_symbols(np.array(symbols), alphabet)
    with pytest.raises(ValueError, match="none of fixed, huffman"):
        entropy.decode_symbols("zip", b"", 3, 0)
    with pytest.raises(ValueError, match="not within 0 to 2"):
        entropy.decode_symbols("fixed", b"\xc0", 3, 1)


def test_entropy_by_hand():
    assert entropy.entropy(np.array([4, 2, 0, 1, 1])) == pytest.approx(1.75)  # 1/2 * 1 + 1/4 * 2 + 2/8 * 3
    assert entropy.entropy(np.array([5])) == 0
    assert entropy.entropy(np.zeros(3, np.int64)) == 0
