"""Checks the codings of Deep Compression against hand-worked tables, independent optima and scipy."""

import heapq
import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from jaxcompress.numerics import entropy as E

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


@st.composite
def masks(draw: Callable) -> tuple[np.ndarray, int]:
    """Draws a flattened mask and its columns, of every density from none to all kept."""
    rows, columns = draw(st.integers(0, 12)), draw(st.integers(1, 40))
    density = draw(st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.9, 1.0]))
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).random(rows * columns) < density, columns


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


# Fixed-width codes.


def test_pack_bits_by_hand():
    # 5 = 101, 1 = 001, 7 = 111, then 7 zero bits: 10100111 10000000.
    assert E.pack_bits(np.array([5, 1, 7]), 3) == bytes([0b10100111, 0b10000000])
    assert E.unpack_bits(bytes([0b10100111, 0b10000000]), 3, 3).tolist() == [5, 1, 7]


@given(st.integers(0, 32), st.data())
def test_pack_bits_round_trip(width: int, data: st.DataObject):
    values = np.array(data.draw(st.lists(st.integers(0, 2**width - 1), max_size=50)), np.int64)
    packed = E.pack_bits(values, width)
    assert len(packed) == -(-values.size * width // 8)
    np.testing.assert_array_equal(E.unpack_bits(packed, width, values.size), values)


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
        E.unpack_bits(data, width, count)


@pytest.mark.parametrize("values", [[8], [-1], [[1]], [0.5]])
def test_pack_bits_refuses(values: list):
    with pytest.raises(ValueError):
        E.pack_bits(np.array(values), 3)


# Huffman codes.


def test_huffman_by_hand():
    # Merge c+d (2), then b+cd (4), then a+bcd (8): a 1 bit, b 2, c and d 3, x never used.
    lengths = E.huffman_lengths(np.array([4, 2, 0, 1, 1]))
    assert lengths.dtype == np.uint8
    assert lengths.tolist() == [1, 2, 0, 3, 3]
    assert [format(c, "b") for c in E.canonical_codes(lengths)] == ["0", "10", "0", "110", "111"]


def test_huffman_stream_by_hand():
    # Symbols a a a a b b d e of the table above: k = 3 bits a symbol.
    # Plain table: 01, first 000, last 100, width 2 = 010, lengths 01 10 00 11 11: 21 bits.
    # Sparse: 11, first 000, used - 1 = 011, steps 1 010 1, changes from 2: 011 010 010 1: 23 bits.
    # Payload: 0 0 0 0 10 10 110 111, 14 bits; 5 bits of padding.
    text = "01 000 100 010 01 10 00 11 11" + "0000 10 10 110 111" + "00000"
    expected = int(text.replace(" ", ""), 2).to_bytes(5, "big")
    symbols = np.array([0, 0, 0, 0, 1, 1, 3, 4])
    assert E.encode_huffman(symbols, 5) == expected
    assert E.decode_huffman(expected, 5, 8).tolist() == symbols.tolist()


def test_one_symbol_costs_no_payload():
    lengths = E.huffman_lengths(np.array([0, 7, 0]))
    assert lengths.tolist() == [0, 1, 0]
    data = E.encode_huffman(np.full(1000, 9), 16)
    assert data == bytes([0b00_1001_00])  # layout "single", symbol 9, padding
    np.testing.assert_array_equal(E.decode_huffman(data, 16, 1000), np.full(1000, 9))
    assert E.encode_symbols(np.zeros(1000, np.int64), 1) == ("fixed", b"")


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
    lengths = E.huffman_lengths(counts).astype(np.int64)
    assert counts @ lengths == optimal_total(counts.tolist())
    np.testing.assert_array_equal(lengths > 0, counts > 0)
    if np.count_nonzero(counts) > 1:
        mean = counts @ lengths / counts.sum()
        assert E.entropy(counts) - 1e-9 <= mean < E.entropy(counts) + 1
        assert sum(2.0 ** -lengths[lengths > 0]) == 1


@given(st.lists(st.integers(1, 30), min_size=2, max_size=5))
def test_huffman_matches_brute_force(counts: list[int]):
    tried = itertools.product(range(1, len(counts)), repeat=len(counts))
    codes = [lengths for lengths in tried if sum(2.0**-n for n in lengths) <= 1]
    best = min(sum(c * n for c, n in zip(counts, code, strict=True)) for code in codes)
    assert np.array(counts) @ E.huffman_lengths(np.array(counts)).astype(np.int64) == best


def test_huffman_lengths_stay_within_32_bits():
    fibonacci = [1, 1]
    while len(fibonacci) < 60:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = E.huffman_lengths(np.array(fibonacci))
    assert lengths.max() <= 32
    assert sum(2.0 ** -lengths.astype(float)) == 1
    assert E.huffman_lengths(np.array(fibonacci[:33])).max() == 32  # the deepest tree left as it is


def test_longest_codes_round_trip():
    # 33 symbols of lengths 1, 2, ..., 32, 32, every one of them read across byte borders.
    symbols = np.repeat(np.arange(33), 3)
    lengths = np.append(np.arange(1, 33), 32)
    codes = E.canonical_codes(lengths)
    table = np.array(E._table_fields(lengths)).T
    data = E._pack(np.append(table[0], codes[symbols]), np.append(table[1], lengths[symbols]))
    np.testing.assert_array_equal(E.decode_huffman(data, 33, symbols.size), symbols)


@given(COUNTS)
def test_canonical_codes_are_ordered_and_prefix_free(counts: np.ndarray):
    lengths = E.huffman_lengths(counts)
    codes = E.canonical_codes(lengths)
    words = [(int(n), s, format(c, f"0{n}b")) for s, (n, c) in enumerate(zip(lengths, codes, strict=True)) if n]
    in_order = [word for _, _, word in sorted(words)]
    assert in_order == sorted(in_order)
    assert not any(b.startswith(a) for a, b in itertools.pairwise(in_order))


@pytest.mark.parametrize("lengths", [[1, 1, 1], [33], [-1]])
def test_canonical_codes_refuse(lengths: list[int]):
    with pytest.raises(ValueError):
        E.canonical_codes(np.array(lengths))


@given(symbols_and_alphabets())
def test_huffman_round_trip(drawn: tuple[np.ndarray, int]):
    symbols, alphabet = drawn
    data = E.encode_huffman(symbols, alphabet)
    np.testing.assert_array_equal(E.decode_huffman(data, alphabet, symbols.size), symbols)
    assert E._huffman_bytes(np.bincount(symbols, minlength=alphabet)) == len(data)


def test_every_table_layout_is_chosen():
    smooth, ragged = (
        np.repeat([3, 4, 5, 6], [9, 4, 2, 1]),
        np.repeat(np.arange(8), [1, 90, 1, 90, 1, 90, 1, 90]),
    )
    spread = np.repeat([3, 40, 41, 200], [9, 4, 2, 1])
    for symbols, layout in [(smooth[:9], 0), (ragged, 1), (smooth, 2), (spread, 3)]:
        data = E.encode_huffman(symbols, 256)
        assert data[0] >> 6 == layout
        np.testing.assert_array_equal(E.decode_huffman(data, 256, symbols.size), symbols)


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
        E.decode_huffman(int(bits, 2).to_bytes(len(bits) // 8, "big"), 3, 2)


def test_decode_huffman_refuses_counts():
    symbols = np.arange(100) % 5
    data = E.encode_huffman(symbols, 8)
    for count in (-1, 0, 1, 98, 99, 101, 102, 10**18):
        with pytest.raises(ValueError):
            E.decode_huffman(data, 8, count)
    with pytest.raises(ValueError, match="padding"):
        E.decode_huffman(data[:-1] + bytes([data[-1] | 1]), 8, 100)


@given(symbols_and_alphabets(), DAMAGE)
def test_damaged_huffman_is_refused_or_has_one_stream(drawn: tuple[np.ndarray, int], damage: tuple[int, bytes]):
    symbols, alphabet = drawn
    data = damaged(E.encode_huffman(symbols, alphabet), *damage)
    try:
        found = E.decode_huffman(data, alphabet, symbols.size)
    except ValueError:
        return
    assert found.shape == symbols.shape
    assert np.all((found >= 0) & (found < alphabet))
    if not found.size:
        assert data == b""
        return
    lengths, _ = E._read_table(data, alphabet)  # the writer's free choice; all else follows
    words, widths = np.array(E._table_fields(lengths)).T
    if np.count_nonzero(lengths) > 1:
        words = np.append(words, E.canonical_codes(lengths)[found])
        widths = np.append(widths, lengths[found])
    assert E._pack(words, widths) == data


def test_half_a_million_symbols_decode_within_a_second():
    rng = np.random.default_rng(0)
    symbols = np.minimum(rng.geometric(0.05, 500_000) - 1, 255)  # 5.8 bits each; several chunks
    data = E.encode_huffman(symbols, 256)
    assert 8 * len(data) > 2 * E._CHUNK
    start = time.perf_counter()
    found = E.decode_huffman(data, 256, symbols.size)
    seconds = time.perf_counter() - start
    np.testing.assert_array_equal(found, symbols)
    assert seconds < 5  # 0.3 s on a quiet 2-core machine; room for a busy one


# Positions.


def test_gaps_by_hand():
    # Figure 2 of Han et al.: weights at 1, 4 and 15, 3-bit gaps. The last gap, 10 zeros, is a filler
    # over 7 of them, then 3. (They number differences from the position before, and fill at 8.)
    mask = np.zeros(20, bool)
    mask[[1, 4, 15]] = True
    gaps = E.gaps_from_mask(mask, 3)
    assert gaps.tolist() == [1, 2, 7, 3]
    np.testing.assert_array_equal(E.mask_from_gaps(gaps, 3, 20), mask)
    # Exactly 7 zeros: a filler and a 0; 6 zeros need none.
    assert E.gaps_from_mask(np.arange(8) == 7, 3).tolist() == [7, 0]
    assert E.gaps_from_mask(np.arange(8) == 6, 3).tolist() == [6]


def test_relative_stream_by_hand():
    # 20 positions: a head of 4 + 5 bits, 2 bytes. The gaps 1, 2, 10 take 4 symbols of 3 bits or 6 of 2.
    mask = np.zeros(20, bool)
    mask[[1, 4, 15]] = True
    in_3 = bytes([0, 0b0_10_00100, 0b001_010_11, 0b1_011_0000])
    in_2 = bytes([0, 0b0_01_00110, 0b01_10_11_11, 0b11_01_0000])
    for data in (in_2, in_3):
        np.testing.assert_array_equal(E.decode_mask("relative", data, 20, 5), mask)
    assert E._mask_streams(mask, 5)["relative"] == in_2  # the narrower when equal


@given(masks(), st.integers(1, 16))
def test_gaps_round_trip(drawn: tuple[np.ndarray, int], width: int):
    mask, _ = drawn
    gaps = E.gaps_from_mask(mask, width)
    np.testing.assert_array_equal(E.mask_from_gaps(gaps, width, mask.size), mask)
    np.testing.assert_array_equal(E._gap_counts(E._zero_runs(mask), width), np.bincount(gaps, minlength=2**width))


@pytest.mark.parametrize("gaps", [[3], [0, 3], [0, 0, 0, 0, 0], [3, 2], [4], [-1], [0.0]])
def test_mask_from_gaps_refuses(gaps: list):
    with pytest.raises(ValueError):
        E.mask_from_gaps(np.array(gaps), 2, 4)


@given(masks())
def test_masks_round_trip_in_every_coding(drawn: tuple[np.ndarray, int]):
    mask, columns = drawn
    streams = E._mask_streams(mask, columns)
    assert tuple(streams) == E.POSITION_CODINGS[0 if mask.all() else 1 :]
    for coding, data in streams.items():
        np.testing.assert_array_equal(E.decode_mask(coding, data, mask.size, columns), mask)
    sizes = E.mask_bits(mask, columns)
    coding, data = E.encode_mask(mask, columns)
    assert sizes == {name: 8 * len(stream) for name, stream in streams.items()}
    assert 8 * len(data) == sizes[coding] == min(sizes.values())
    assert coding == next(name for name in E.POSITION_CODINGS if sizes.get(name) == 8 * len(data))


@given(masks())
def test_relative_takes_the_best_width(drawn: tuple[np.ndarray, int]):
    mask, columns = drawn
    sizes = E.mask_bits(mask, columns)
    head = len(E._gap_head(1, 0, mask.size))
    gaps = {width: E.gaps_from_mask(mask, width) for width in E.GAP_WIDTHS}
    fixed = [head + len(E.pack_bits(g, width)) for width, g in gaps.items()]
    coded = [head + len(E.encode_huffman(g, 2**width)) for width, g in gaps.items()]
    assert sizes["relative"] == 8 * min(fixed)
    assert sizes["relative-huffman"] == 8 * min(coded)


@given(masks())
def test_csr_matches_scipy(drawn: tuple[np.ndarray, int]):
    mask, columns = drawn
    matrix = csr_matrix(mask.reshape(-1, columns))
    kept = E.pack_bits(np.diff(matrix.indptr), columns.bit_length())
    assert E._mask_streams(mask, columns)["csr"] == kept + E.pack_bits(matrix.indices, (columns - 1).bit_length())


def test_edges_of_masks():
    assert E.encode_mask(np.ones(300, bool), 30) == ("full", b"")
    assert E.encode_mask(np.zeros(0, bool), 30) == ("full", b"")
    coding, data = E.encode_mask(np.zeros(10_000, bool), 100)
    assert (coding, data) == ("relative", bytes(3))  # the head alone; Huffman's is as short but later
    assert not E.decode_mask(coding, data, 10_000, 100).any()


@pytest.mark.parametrize(
    "coding, data, size, columns, reason",
    [
        ("full", b"\0", 8, 4, "expected"),
        ("zip", b"", 8, 4, "none of full, bitmask"),
        ("bitmask", b"\0", 9, 3, "expected"),
        ("bitmask", b"\0\0", 8, 4, "expected"),
        ("bitmask", b"\0", 8, 3, "rows"),
        ("bitmask", b"", 8, 0, "rows"),
        ("bitmask", b"", -8, 4, "rows"),
        ("csr", b"", 8, 4, "expected"),
        ("csr", bytes([0b101_000_00]), 8, 4, "keeps 5"),
        ("csr", bytes([0b010_000_00, 0b10_01_0000]), 8, 4, "not increasing"),
        ("csr", bytes([0b010_000_00, 0b10_10_0000]), 8, 4, "not increasing"),
        ("csr", bytes([0b01_00_0000, 0b11_000000]), 6, 3, "not increasing"),  # column 3 of 3
        ("relative", b"", 8, 4, "head"),
        ("relative", bytes([0b1100_0000]), 8, 4, "13 bits"),
        ("relative", bytes([0b0001_1001]), 8, 4, "9 gaps"),
        ("relative", bytes([0b0001_0001, 0b11_000000]), 8, 4, "filler"),
        ("relative", bytes([0b0011_0001, 0b1000_0000]), 8, 4, "position 8"),
        ("relative-huffman", bytes([0b0001_0000, 0]), 8, 4, "expected"),
        ("relative-huffman", bytes([0b0001_0001]), 8, 4, "code table"),
    ],
)
def test_decode_mask_refuses(coding: str, data: bytes, size: int, columns: int, reason: str):
    with pytest.raises(ValueError, match=reason):
        E.decode_mask(coding, data, size, columns)


@pytest.mark.parametrize("mask", [np.zeros(4), np.zeros((2, 2), bool), np.zeros(5, bool)])
def test_encode_mask_refuses(mask: np.ndarray):
    with pytest.raises(ValueError):
        E.encode_mask(mask, 2)


@pytest.mark.parametrize("coding", E.POSITION_CODINGS)
@given(drawn=masks(), damage=DAMAGE)
def test_damaged_masks_are_refused_or_have_one_stream(coding: str, drawn: tuple, damage: tuple[int, bytes]):
    mask, columns = drawn
    data = damaged(E._mask_streams(mask, columns).get(coding, b""), *damage)
    try:
        found = E.decode_mask(coding, data, mask.size, columns)
    except ValueError:
        return
    assert found.dtype == bool and found.shape == mask.shape
    if coding in ("full", "bitmask", "csr"):
        assert E._mask_streams(found, columns)[coding] == data
        return
    width, count, body = E._split_gap_head(data, mask.size)  # the width is the writer's free choice
    gaps = E.gaps_from_mask(found, width)
    assert E._gap_head(width, gaps.size, mask.size) == data[: len(data) - len(body)]
    if coding == "relative":
        assert E.pack_bits(gaps, width) == body
    else:
        np.testing.assert_array_equal(E.decode_huffman(body, 2**width, count), gaps)


# Values.


@given(symbols_and_alphabets())
def test_symbols_take_the_shortest_coding(drawn: tuple[np.ndarray, int]):
    symbols, alphabet = drawn
    coding, data = E.encode_symbols(symbols, alphabet)
    sizes = E.symbol_bits(symbols, alphabet)
    assert tuple(sizes) == E.SYMBOL_CODINGS
    assert 8 * len(data) == sizes[coding] == min(sizes.values())
    assert sizes["fixed"] == 8 * -(-symbols.size * (alphabet - 1).bit_length() // 8)
    np.testing.assert_array_equal(E.decode_symbols(coding, data, alphabet, symbols.size), symbols)


@given(symbols_and_alphabets(), DAMAGE)
def test_damaged_fixed_symbols_are_refused_or_have_one_stream(drawn: tuple, damage: tuple[int, bytes]):
    symbols, alphabet = drawn
    width = (alphabet - 1).bit_length()
    data = damaged(E.pack_bits(symbols, width), *damage)
    try:
        found = E.decode_symbols("fixed", data, alphabet, symbols.size)
    except ValueError:
        return
    assert E.pack_bits(found, width) == data


def test_symbols_refuse():
    for symbols, alphabet in [([3], 3), ([-1], 3), ([0], 0), ([0], 2**16 + 1)]:
        with pytest.raises(ValueError):
            E.encode_symbols(np.array(symbols), alphabet)
    with pytest.raises(ValueError, match="none of fixed, huffman"):
        E.decode_symbols("zip", b"", 3, 0)
    with pytest.raises(ValueError, match="not within 0 to 2"):
        E.decode_symbols("fixed", b"\xc0", 3, 1)


def test_entropy_by_hand():
    assert E.entropy(np.array([4, 2, 0, 1, 1])) == pytest.approx(1.75)  # 1/2 * 1 + 1/4 * 2 + 2/8 * 3
    assert E.entropy(np.array([5])) == 0
    assert E.entropy(np.zeros(3, np.int64)) == 0
