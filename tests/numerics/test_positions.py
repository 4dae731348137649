"""Checks the codings of masks against streams worked by hand and scipy's sparse rows."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from jaxcompress.numerics import bits, huffman, positions
from tests.numerics.test_huffman import DAMAGE, damaged

settings.register_profile("quick", deadline=None, max_examples=60)
settings.load_profile("quick")


@st.composite
def masks(draw: Callable) -> tuple[np.ndarray, int]:
    """Draws a flattened mask and its columns, of every density from none to all kept."""
    rows, columns = draw(st.integers(0, 12)), draw(st.integers(1, 40))
    density = draw(st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.9, 1.0]))
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).random(rows * columns) < density, columns


def test_gaps_by_hand():
    # Figure 2 of Han et al.: weights at 1, 4 and 15, 3-bit gaps. The last gap, 10 zeros, is a filler
    # over 7 of them, then 3. (They number differences from the position before, and fill at 8.)
    mask = np.zeros(20, bool)
    mask[[1, 4, 15]] = True
    gaps = positions.gaps_from_mask(mask, 3)
    assert gaps.tolist() == [1, 2, 7, 3]
    np.testing.assert_array_equal(positions.mask_from_gaps(gaps, 3, 20), mask)
    # Exactly 7 zeros: a filler and a 0; 6 zeros need none.
    assert positions.gaps_from_mask(np.arange(8) == 7, 3).tolist() == [7, 0]
    assert positions.gaps_from_mask(np.arange(8) == 6, 3).tolist() == [6]


def test_relative_stream_by_hand():
    # 20 positions: a head of 4 + 5 bits, 2 bytes. The gaps 1, 2, 10 take 4 symbols of 3 bits or 6 of 2.
    mask = np.zeros(20, bool)
    mask[[1, 4, 15]] = True
    in_3 = bytes([0, 0b0_10_00100, 0b001_010_11, 0b1_011_0000])
    in_2 = bytes([0, 0b0_01_00110, 0b01_10_11_11, 0b11_01_0000])
    for data in (in_2, in_3):
        np.testing.assert_array_equal(positions.decode_mask("relative", data, 20, 5), mask)
    assert positions._mask_streams(mask, 5)["relative"] == in_2  # the narrower when equal


@given(masks(), st.integers(1, 16))
def test_gaps_round_trip(drawn: tuple[np.ndarray, int], width: int):
    mask, _ = drawn
    gaps = positions.gaps_from_mask(mask, width)
    np.testing.assert_array_equal(positions.mask_from_gaps(gaps, width, mask.size), mask)
    np.testing.assert_array_equal(
        positions._gap_counts(positions._zero_runs(mask), width), np.bincount(gaps, minlength=2**width)
    )


@pytest.mark.parametrize("gaps", [[3], [0, 3], [0, 0, 0, 0, 0], [3, 2], [4], [-1], [0.0]])
def test_mask_from_gaps_refuses(gaps: list):
    with pytest.raises(ValueError):
        positions.mask_from_gaps(np.array(gaps), 2, 4)


@given(masks())
def test_masks_round_trip_in_every_coding(drawn: tuple[np.ndarray, int]):
    mask, columns = drawn
    streams = positions._mask_streams(mask, columns)
    assert tuple(streams) == positions.POSITION_CODINGS[0 if mask.all() else 1 :]
    for coding, data in streams.items():
        np.testing.assert_array_equal(positions.decode_mask(coding, data, mask.size, columns), mask)
    sizes = positions.mask_bits(mask, columns)
    coding, data = positions.encode_mask(mask, columns)
    assert sizes == {name: 8 * len(stream) for name, stream in streams.items()}
    assert 8 * len(data) == sizes[coding] == min(sizes.values())
    assert coding == next(name for name in positions.POSITION_CODINGS if sizes.get(name) == 8 * len(data))


@given(masks())
def test_relative_takes_the_best_width(drawn: tuple[np.ndarray, int]):
    mask, columns = drawn
    sizes = positions.mask_bits(mask, columns)
    head = len(positions._gap_head(1, 0, mask.size))
    gaps = {width: positions.gaps_from_mask(mask, width) for width in positions.GAP_WIDTHS}
    fixed = [head + len(bits.pack_bits(g, width)) for width, g in gaps.items()]
    coded = [head + len(huffman.encode_huffman(g, 2**width)) for width, g in gaps.items()]
    assert sizes["relative"] == 8 * min(fixed)
    assert sizes["relative-huffman"] == 8 * min(coded)


@given(masks())
def test_csr_matches_scipy(drawn: tuple[np.ndarray, int]):
    mask, columns = drawn
    matrix = csr_matrix(mask.reshape(-1, columns))
    kept = bits.pack_bits(np.diff(matrix.indptr), columns.bit_length())
    indices = bits.pack_bits(matrix.indices, (columns - 1).bit_length())
    assert positions._mask_streams(mask, columns)["csr"] == kept + indices


def test_edges_of_masks():
    assert positions.encode_mask(np.ones(300, bool), 30) == ("full", b"")
    assert positions.encode_mask(np.zeros(0, bool), 30) == ("full", b"")
    coding, data = positions.encode_mask(np.zeros(10_000, bool), 100)
    assert (coding, data) == ("relative", bytes(3))  # the head alone; Huffman's is as short but later
    assert not positions.decode_mask(coding, data, 10_000, 100).any()


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
        positions.decode_mask(coding, data, size, columns)


@pytest.mark.parametrize("mask", [np.zeros(4), np.zeros((2, 2), bool), np.zeros(5, bool)])
def test_encode_mask_refuses(mask: np.ndarray):
    with pytest.raises(ValueError):
        positions.encode_mask(mask, 2)


@pytest.mark.parametrize("coding", positions.POSITION_CODINGS)
@given(drawn=masks(), damage=DAMAGE)
def test_damaged_masks_are_refused_or_have_one_stream(coding: str, drawn: tuple, damage: tuple[int, bytes]):
    mask, columns = drawn
    data = damaged(positions._mask_streams(mask, columns).get(coding, b""), *damage)
    try:
        found = positions.decode_mask(coding, data, mask.size, columns)
    except ValueError:
        return
    assert found.dtype == bool and found.shape == mask.shape
    if coding in ("full", "bitmask", "csr"):
        assert positions._mask_streams(found, columns)[coding] == data
        return
    width, count, body = positions._split_gap_head(data, mask.size)  # the width is the writer's free choice
    gaps = positions.gaps_from_mask(found, width)
    assert positions._gap_head(width, gaps.size, mask.size) == data[: len(data) - len(body)]
    if coding == "relative":
        assert bits.pack_bits(gaps, width) == body
    else:
        np.testing.assert_array_equal(huffman.decode_huffman(body, 2**width, count), gaps)
