"""Checks Huffman codes against hand-worked tables and independent optima."""

import heapq
import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.numerics import huffman
from jaxcompress.numerics.bits import pack
from jaxcompress.numerics.entropy import entropy

settings.register_profile("quick", deadline=None, max_examples=60)
settings.load_profile("quick")

ALPHABETS = st.sampled_from([1, 2, 3, 16, 255, 256, 4096, 65536])
COUNTS = st.lists(st.integers(0, 1000), min_size=1, max_size=40).map(np.array)


@st.composite
def symbols_and_alphabets(draw: Callable) -> tuple[np.ndarray, int]:
    """Draws up to 200 symbols, skewed (products of two draws) as often as not."""
    alphabet = draw(ALPHABETS)
    few = draw(st.integers(1, alphabet))
    values = draw(st.lists(st.integers(0, few - 1), max_size=200))
    return np.array(values, np.int64), alphabet


def damaged(data: bytes, choice: int, noise: bytes) -> bytes:
    """Returns `data` cut, extended, with a bit flipped, or replaced by noise."""
    at = choice // 4 % (8 * len(data) + 1)
    if choice % 4 == 0:
        return data[: at // 8]
    if choice % 4 == 1:
        return data + noise[:3]
    if choice % 4 == 2 and at < 8 * len(data):
        return (int.from_bytes(data, "big") ^ 1 << at).to_bytes(len(data), "big")
    return noise


DAMAGE = st.tuples(st.integers(0, 10**6), st.binary(max_size=60))


def test_huffman_by_hand():
    # Merge c+d (2), then b+cd (4), then a+bcd (8): a 1 bit, b 2, c and d 3, x never used.
    lengths = huffman.huffman_lengths(np.array([4, 2, 0, 1, 1]))
    assert lengths.dtype == np.uint8
    assert lengths.tolist() == [1, 2, 0, 3, 3]
    assert [format(c, "b") for c in huffman.canonical_codes(lengths)] == ["0", "10", "0", "110", "111"]


def test_huffman_stream_by_hand():
    # Symbols a a a a b b d e of the table above: k = 3 bits a symbol.
    # Plain table: 01, first 000, last 100, width 2 = 010, lengths 01 10 00 11 11: 21 bits.
    # Sparse: 11, first 000, used - 1 = 011, steps 1 010 1, changes from 2: 011 010 010 1: 23 bits.
    # Payload: 0 0 0 0 10 10 110 111, 14 bits; 5 bits of padding.
    text = "01 000 100 010 01 10 00 11 11" + "0000 10 10 110 111" + "00000"
    expected = int(text.replace(" ", ""), 2).to_bytes(5, "big")
    symbols = np.array([0, 0, 0, 0, 1, 1, 3, 4])
    assert huffman.encode_huffman(symbols, 5) == expected
    assert huffman.decode_huffman(expected, 5, 8).tolist() == symbols.tolist()


def test_one_symbol_costs_no_payload():
    lengths = huffman.huffman_lengths(np.array([0, 7, 0]))
    assert lengths.tolist() == [0, 1, 0]
    data = huffman.encode_huffman(np.full(1000, 9), 16)
    assert data == bytes([0b00_1001_00])  # layout "single", symbol 9, padding
    np.testing.assert_array_equal(huffman.decode_huffman(data, 16, 1000), np.full(1000, 9))


def optimal_total(counts: list[int]) -> int:
    """Sums the weights of a Huffman tree's inner nodes: the bits of an optimal code."""
    heap = [c for c in counts if c]
    if len(heap) == 1:
        return heap[0]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


@given(COUNTS)
def test_huffman_is_optimal_and_near_entropy(counts: np.ndarray):
    lengths = huffman.huffman_lengths(counts).astype(np.int64)
    assert counts @ lengths == optimal_total(counts.tolist())
    np.testing.assert_array_equal(lengths > 0, counts > 0)
    if np.count_nonzero(counts) > 1:
        mean = counts @ lengths / counts.sum()
        assert entropy(counts) - 1e-9 <= mean < entropy(counts) + 1
        assert sum(2.0 ** -lengths[lengths > 0]) == 1


@given(st.lists(st.integers(1, 30), min_size=2, max_size=5))
def test_huffman_matches_brute_force(counts: list[int]):
    tried = itertools.product(range(1, len(counts)), repeat=len(counts))
    codes = [lengths for lengths in tried if sum(2.0**-n for n in lengths) <= 1]
    best = min(sum(c * n for c, n in zip(counts, code, strict=True)) for code in codes)
    assert np.array(counts) @ huffman.huffman_lengths(np.array(counts)).astype(np.int64) == best


def test_huffman_lengths_stay_within_32_bits():
    fibonacci = [1, 1]
    while len(fibonacci) < 60:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = huffman.huffman_lengths(np.array(fibonacci))
    assert lengths.max() <= 32
    assert sum(2.0 ** -lengths.astype(float)) == 1
    assert huffman.huffman_lengths(np.array(fibonacci[:33])).max() == 32  # the deepest tree left as it is


def test_longest_codes_round_trip():
    # 33 symbols of lengths 1, 2, ..., 32, 32, every one of them read across byte borders.
    symbols = np.repeat(np.arange(33), 3)
    lengths = np.append(np.arange(1, 33), 32)
    codes = huffman.canonical_codes(lengths)
    table = np.array(huffman._table_fields(lengths)).T
    data = pack(np.append(table[0], codes[symbols]), np.append(table[1], lengths[symbols]))
    np.testing.assert_array_equal(huffman.decode_huffman(data, 33, symbols.size), symbols)


@given(COUNTS)
def test_canonical_codes_are_ordered_and_prefix_free(counts: np.ndarray):
    lengths = huffman.huffman_lengths(counts)
    codes = huffman.canonical_codes(lengths)
    words = [(int(n), s, format(c, f"0{n}b")) for s, (n, c) in enumerate(zip(lengths, codes, strict=True)) if n]
    in_order = [word for _, _, word in sorted(words)]
    assert in_order == sorted(in_order)
    assert not any(b.startswith(a) for a, b in itertools.pairwise(in_order))


@pytest.mark.parametrize("lengths", [[1, 1, 1], [33], [-1]])
def test_canonical_codes_refuse(lengths: list[int]):
    with pytest.raises(ValueError):
        huffman.canonical_codes(np.array(lengths))


@given(symbols_and_alphabets())
def test_huffman_round_trip(drawn: tuple[np.ndarray, int]):
    symbols, alphabet = drawn
    data = huffman.encode_huffman(symbols, alphabet)
    np.testing.assert_array_equal(huffman.decode_huffman(data, alphabet, symbols.size), symbols)
    assert huffman.huffman_bytes(np.bincount(symbols, minlength=alphabet)) == len(data)


def test_every_table_layout_is_chosen():
    smooth, ragged = (
        np.repeat([3, 4, 5, 6], [9, 4, 2, 1]),
        np.repeat(np.arange(8), [1, 90, 1, 90, 1, 90, 1, 90]),
    )
    spread = np.repeat([3, 40, 41, 200], [9, 4, 2, 1])
    for symbols, layout in [(smooth[:9], 0), (ragged, 1), (smooth, 2), (spread, 3)]:
        data = huffman.encode_huffman(symbols, 256)
        assert data[0] >> 6 == layout
        np.testing.assert_array_equal(huffman.decode_huffman(data, 256, symbols.size), symbols)


@pytest.mark.parametrize(
    "bits, reason",
    [
        ("00 11 0000", "beyond the alphabet"),  # single symbol 3 of an alphabet of 3
        ("01 00 10 010 01 10 01 00", "not a complete"),  # Kraft sum 5/4
        ("01 00 01 010 01 10 00", "not a complete"),  # Kraft sum 3/4
        ("01 01 00 010 01 01 00", "names no symbols"),  # last before first
        ("01 00 01 001 1 1 0 0 0", "shortest layout"),  # dense is a bit shorter
        ("10 00 10 00000111110 1 1", "exceed"),  # 31 more than 2, then no change
        ("10 00 10 01", "within its code table"),
        ("11 00 01 00000000000000", "impossible step"),
    ],
)
def test_decode_huffman_refuses_tables(bits: str, reason: str):
    bits = bits.replace(" ", "")
    bits += "0" * (-len(bits) % 8)
    with pytest.raises(ValueError, match=reason):
        huffman.decode_huffman(int(bits, 2).to_bytes(len(bits) // 8, "big"), 3, 2)


def test_decode_huffman_refuses_counts():
    symbols = np.arange(100) % 5
    data = huffman.encode_huffman(symbols, 8)
    for count in (-1, 0, 1, 98, 99, 101, 102, 10**18):
        with pytest.raises(ValueError):
            huffman.decode_huffman(data, 8, count)
    with pytest.raises(ValueError, match="padding"):
        huffman.decode_huffman(data[:-1] + bytes([data[-1] | 1]), 8, 100)


@given(symbols_and_alphabets(), DAMAGE)
def test_damaged_huffman_is_refused_or_has_one_stream(drawn: tuple[np.ndarray, int], damage: tuple[int, bytes]):
    symbols, alphabet = drawn
    data = damaged(huffman.encode_huffman(symbols, alphabet), *damage)
    try:
        found = huffman.decode_huffman(data, alphabet, symbols.size)
    except ValueError:
        return
    assert found.shape == symbols.shape
    assert np.all((found >= 0) & (found < alphabet))
    if not found.size:
        assert data == b""
        return
    lengths, _ = huffman._read_table(data, alphabet)  # the writer's free choice; all else follows
    words, widths = np.array(huffman._table_fields(lengths)).T
    if np.count_nonzero(lengths) > 1:
        words = np.append(words, huffman.canonical_codes(lengths)[found])
        widths = np.append(widths, lengths[found])
    assert pack(words, widths) == data


def test_half_a_million_symbols_decode_within_a_second():
    rng = np.random.default_rng(0)
    symbols = np.minimum(rng.geometric(0.05, 500_000) - 1, 255)  # 5.8 bits each; several chunks
    data = huffman.encode_huffman(symbols, 256)
    assert 8 * len(data) > 2 * huffman._CHUNK
    start = time.perf_counter()
    found = huffman.decode_huffman(data, 256, symbols.size)
    seconds = time.perf_counter() - start
    np.testing.assert_array_equal(found, symbols)
    assert seconds < 5  # 0.3 s on a quiet 2-core machine; room for a busy one
