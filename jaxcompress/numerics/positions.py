"""Codes the positions kept by a mask as short byte streams, checked when read back.

The gaps are those of Deep Compression (Han, Mao & Dally 2016, arXiv:1510.00149, figure 2), the rest their
rivals. What holds for every stream is said in `bits`.
"""

import numpy as np

from jaxcompress.numerics.bits import (
    bytes_of,
    check_coding,
    check_end,
    check_width,
    checked_ints,
    pack_bits,
    shortest,
    unpack_bits,
)
from jaxcompress.numerics.huffman import decode_huffman, encode_huffman, huffman_bytes

POSITION_CODINGS = ("full", "bitmask", "csr", "relative", "relative-huffman")  # ties go to the earlier
GAP_WIDTHS = range(1, 13)  # tried by `encode_mask`; the paper uses 8 (convolutions) and 5 (fully connected)


def encode_mask(mask: np.ndarray, columns: int) -> tuple[str, bytes]:
    """Returns the name and stream of the shortest of `POSITION_CODINGS` for a 1-D bool mask.

    The mask is a flattened (rows, columns) matrix, C order.
    - full: every position is kept, no bytes;
    - bitmask: a bit each;
    - csr: the kept count of every row, then (from a whole byte on) the kept columns, fixed widths;
    - relative: gap width and number of gaps (whole bytes), then `gaps_from_mask` in that width;
    - relative-huffman: the same head, then the gaps by `encode_huffman`.
    The last two take the best of `GAP_WIDTHS`, the narrower when equal.
    """
    return shortest(_mask_streams(mask, columns))


def decode_mask(coding: str, data: bytes, size: int, columns: int) -> np.ndarray:
    """Reads back the mask of `encode_mask`, bool (size,); `ValueError` on a malformed stream."""
    check_coding(coding, POSITION_CODINGS)
    _check_columns(size, columns)
    if coding == "full":
        check_end(data, 0)
        return np.ones(size, bool)
    if coding == "bitmask":
        return unpack_bits(data, 1, size).astype(bool)
    if coding == "csr":
        return _mask_from_csr(data, size, columns)
    width, count, body = _split_gap_head(data, size)
    if coding == "relative":
        return mask_from_gaps(unpack_bits(body, width, count), width, size)
    return mask_from_gaps(decode_huffman(body, 2**width, count), width, size)


def mask_bits(mask: np.ndarray, columns: int) -> dict[str, int]:
    """Returns the bits of the stream under each of `POSITION_CODINGS`; "full" only where it applies."""
    return {coding: 8 * len(data) for coding, data in _mask_streams(mask, columns).items()}


def _mask_streams(mask: np.ndarray, columns: int) -> dict[str, bytes]:
    runs = _zero_runs(mask)
    _check_columns(mask.size, columns)
    fixed = min(GAP_WIDTHS, key=lambda width: int(_gap_counts(runs, width).sum()) * width)
    coded = min(GAP_WIDTHS, key=lambda width: huffman_bytes(_gap_counts(runs, width)))
    gaps, coded_gaps = gaps_from_mask(mask, fixed), gaps_from_mask(mask, coded)
    coded_head = _gap_head(coded, coded_gaps.size, mask.size)
    streams = {"full": b""} if mask.all() else {}
    return streams | {
        "bitmask": pack_bits(mask.astype(np.int64), 1),
        "csr": _csr_from_mask(mask.reshape(-1, columns)),
        "relative": _gap_head(fixed, gaps.size, mask.size) + pack_bits(gaps, fixed),
        "relative-huffman": coded_head + encode_huffman(coded_gaps, 2**coded),
    }


def _check_columns(size: int, columns: int) -> None:
    if columns < 1 or size < 0 or size % columns:
        raise ValueError(f"a mask of {size} positions has no rows of {columns} columns")


# Gaps.


def gaps_from_mask(mask: np.ndarray, width: int) -> np.ndarray:
    """Codes a 1-D bool mask as the gaps between its kept positions, int64 in [0, 2**width), width 1 to 16.

    Symbol s < 2**width - 1 skips s zeros and keeps the next position; 2**width - 1 is a filler that skips
    2**width - 1 zeros and keeps nothing. Zeros after the last kept position are not coded.
    Departure from Han et al. (figure 2): they keep a zero *weight* at each filler, we spend no weight on it.
    """
    check_width(width, 1, 16)
    filler = 2**width - 1
    fillers, rest = np.divmod(_zero_runs(mask), filler)
    gaps = np.full(int(fillers.sum()) + rest.size, filler, np.int64)
    gaps[np.cumsum(fillers + 1) - 1] = rest
    return gaps


def mask_from_gaps(gaps: np.ndarray, width: int, size: int) -> np.ndarray:
    """Rebuilds the bool mask of `size` positions from `gaps_from_mask`.

    Raises `ValueError` where the gaps run past `size` or end in a filler (it would code nothing).
    """
    check_width(width, 1, 16)
    gaps = checked_ints(gaps, 2**width)
    kept = gaps != 2**width - 1
    if gaps.size and not kept[-1]:
        raise ValueError("gaps end in a filler, which keeps nothing")
    positions = np.cumsum(gaps + kept)[kept] - 1
    if positions.size and positions[-1] >= size:
        raise ValueError(f"gaps keep position {positions[-1]} of a mask of {size}")
    return _mask_at(positions, size)


def _zero_runs(mask: np.ndarray) -> np.ndarray:
    """Returns the number of zeros before each kept position, since the kept position before it."""
    if mask.dtype != bool or mask.ndim != 1:
        raise ValueError(f"a mask is 1-D bool, got {mask.dtype} {mask.shape}")
    return np.diff(np.flatnonzero(mask), prepend=-1) - 1


def _gap_counts(runs: np.ndarray, width: int) -> np.ndarray:
    """Returns the histogram of `gaps_from_mask` without building the gaps."""
    filler = 2**width - 1
    counts = np.bincount(runs % filler, minlength=2**width)
    counts[filler] = np.sum(runs // filler)
    return counts


def _gap_head(width: int, count: int, size: int) -> bytes:
    """Writes 4 bits of width - 1 and the number of gaps, at most `size`, right-aligned in whole bytes."""
    count_width = size.bit_length()
    return (width - 1 << count_width | count).to_bytes(bytes_of(4 + count_width), "big")


def _split_gap_head(data: bytes, size: int) -> tuple[int, int, bytes]:
    """Reads (width, number of gaps, rest of the stream) after `_gap_head`."""
    count_width = size.bit_length()
    head = bytes_of(4 + count_width)
    if len(data) < head:
        raise ValueError(f"relative stream of {len(data)} bytes is shorter than its head, {head} bytes")
    width, count = divmod(int.from_bytes(data[:head], "big"), 2**count_width)
    if width + 1 not in GAP_WIDTHS or count > size:
        raise ValueError(f"relative stream claims {count} gaps of {width + 1} bits for {size} positions")
    return width + 1, count, data[head:]


# Compressed sparse rows.


def _csr_from_mask(rows: np.ndarray) -> bytes:
    columns = rows.shape[1]
    kept = pack_bits(np.count_nonzero(rows, axis=1), columns.bit_length())
    return kept + pack_bits(np.nonzero(rows)[1], (columns - 1).bit_length())


def _mask_from_csr(data: bytes, size: int, columns: int) -> np.ndarray:
    rows = size // columns
    head = bytes_of(rows * columns.bit_length())
    kept = unpack_bits(data[:head], columns.bit_length(), rows)
    if np.any(kept > columns):
        raise ValueError(f"csr stream keeps {kept.max()} positions in a row of {columns}")
    indices = unpack_bits(data[head:], (columns - 1).bit_length(), int(kept.sum()))
    positions = np.repeat(np.arange(rows) * columns, kept) + indices
    if np.any(indices >= columns) or np.any(np.diff(positions) <= 0):
        raise ValueError(f"csr stream's column indices are not increasing within rows of {columns}")
    return _mask_at(positions, size)


def _mask_at(positions: np.ndarray, size: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[positions] = True
    return mask
