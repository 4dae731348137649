"""Codes symbols by Huffman codes (Huffman 1952), the code table included, checked when read back.

A stream is a table of code lengths, then the code words in canonical order, as Deep Compression needs it
(Han, Mao & Dally 2016, arXiv:1510.00149). What holds for every stream is said in `bits`.
"""

import heapq
from collections.abc import Iterable

import numpy as np

from jaxcompress.numerics.bits import (
    bytes_of,
    check_alphabet,
    check_count,
    check_end,
    checked_ints,
    checked_symbols,
    pack,
)

MAX_LENGTH = 32  # bits of the longest code word

_SINGLE, _PLAIN, _DENSE, _SPARSE = range(4)  # layouts of a table, the first 2 bits of its stream
_CHUNK = 2**19  # bits of a stream looked at together: bounds the memory of decoding to a few MB

_Fields = list[tuple[int, int]]  # (value, width in bits)


def huffman_lengths(counts: np.ndarray) -> np.ndarray:
    """Returns the length in bits of every symbol's code word, uint8, 0 where `counts` is 0 (Huffman 1952).

    The code is optimal for the histogram, and of the optimal ones has the shortest longest word (ties take
    leaves before subtrees, then the lower symbol). A single used symbol gets length 1. Should a word exceed
    32 bits, which takes more than nine million Fibonacci-distributed symbols, the counts are halved, rounding
    up, until none does: that code is complete but no longer quite optimal.
    """
    counts = checked_ints(counts, 2**62)
    used = np.flatnonzero(counts)
    lengths = np.zeros(counts.size, np.uint8)
    if used.size:
        weights = counts[used].tolist()
        while max(depths := _tree_depths(weights)) > MAX_LENGTH:
            weights = [(w + 1) // 2 for w in weights]
        lengths[used] = depths
    return lengths


def canonical_codes(lengths: np.ndarray) -> np.ndarray:
    """Assigns int64 prefix-free code words in (length, symbol) order; 0 for symbols of length 0.

    Raises `ValueError` where `lengths` exceed 32 or break Kraft's inequality, sum(2**-length) <= 1.
    """
    lengths = checked_ints(lengths, MAX_LENGTH + 1)
    if _kraft(lengths) > 2**MAX_LENGTH:
        raise ValueError("code lengths leave no prefix code: the sum of 2**-length exceeds 1")
    order, starts = _canonical_order(lengths)
    codes = np.zeros(lengths.size, np.int64)
    codes[order] = starts >> (MAX_LENGTH - lengths[order])
    return codes


def encode_huffman(symbols: np.ndarray, alphabet: int) -> bytes:
    """Writes 1-D `symbols` in [0, alphabet) as a code table and their Huffman codes; no symbols, no bytes.

    Only code lengths are stored, in the shortest of four layouts (see `_table_fields`). A single distinct
    symbol costs its table only. `alphabet` is 1 to 65536.
    """
    symbols = checked_symbols(symbols, alphabet)
    if not symbols.size:
        return b""
    lengths, table = _huffman_plan(np.bincount(symbols, minlength=alphabet))
    words, widths = np.array(table, np.int64).T
    if np.count_nonzero(lengths) > 1:
        words = np.append(words, canonical_codes(lengths)[symbols])
        widths = np.append(widths, lengths[symbols])
    return pack(words, widths)


def decode_huffman(data: bytes, alphabet: int, count: int) -> np.ndarray:
    """Reads back the `count` int64 symbols of `encode_huffman`; `ValueError` on a malformed stream.

    Any complete code is accepted, optimal or not; its table must be in its shortest layout.
    """
    check_alphabet(alphabet)
    check_count(count)
    if count == 0:
        check_end(data, 0)
        return np.zeros(0, np.int64)
    lengths, at = _read_table(data, alphabet)
    if np.count_nonzero(lengths) == 1:
        check_end(data, at)
        return np.full(count, np.argmax(lengths), np.int64)
    if not count <= 8 * len(data) - at <= MAX_LENGTH * count + 7:  # a code word has 1 to MAX_LENGTH bits
        raise ValueError(f"Huffman stream of {len(data)} bytes cannot be one of {count} symbols")
    order, starts = _canonical_order(lengths)
    words = _words(data)
    # Windows of one code length are contiguous: few boundaries to search, at every bit of the stream.
    widths, first = np.unique(lengths[order], return_index=True)
    places = _code_places(words, at, starts[first], widths)
    if places.size <= count:
        raise ValueError(f"Huffman stream ends after {places.size - 1} of {count} symbols")
    check_end(data, int(places[count]))
    rank = np.searchsorted(starts, _windows(words, places[:count]), side="right") - 1
    return order[rank]


def huffman_bytes(counts: np.ndarray) -> int:
    """Returns the length of `encode_huffman`'s stream for symbols with histogram `counts`."""
    if not counts.any():
        return 0
    lengths, table = _huffman_plan(counts)
    payload = int(counts @ lengths) if np.count_nonzero(lengths) > 1 else 0
    return bytes_of(_bits_of(table) + payload)


# Lengths and code words.


def _tree_depths(weights: list[int]) -> list[int]:
    """Returns the depth of every leaf of the Huffman tree of `weights`; a lone leaf has depth 1."""
    if len(weights) == 1:
        return [1]
    heap = [(weight, node) for node, weight in enumerate(weights)]
    heapq.heapify(heap)
    parent: list[int] = [0] * (2 * len(weights) - 1)
    for node in range(len(weights), len(parent)):
        (a, left), (b, right) = heapq.heappop(heap), heapq.heappop(heap)
        parent[left] = parent[right] = node
        heapq.heappush(heap, (a + b, node))
    depth = [0] * len(parent)
    for node in reversed(range(len(parent) - 1)):  # parents are numbered after their children
        depth[node] = depth[parent[node]] + 1
    return depth[: len(weights)]


def _kraft(lengths: np.ndarray) -> int:
    """Returns 2**32 times the Kraft sum of `lengths`; 2**32 for a complete code."""
    return int(np.sum(1 << (MAX_LENGTH - lengths[lengths > 0].astype(np.int64))))


def _canonical_order(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the used symbols in code order and their words, left-aligned in 32 bits (so ascending)."""
    used = np.flatnonzero(lengths)
    order = used[np.argsort(lengths[used], kind="stable")]
    spans = 1 << (MAX_LENGTH - lengths[order].astype(np.int64))
    return order, np.cumsum(spans) - spans


# The code table.


def _huffman_plan(counts: np.ndarray) -> tuple[np.ndarray, _Fields]:
    lengths = huffman_lengths(counts).astype(np.int64)
    return lengths, _table_fields(lengths)


def _table_fields(lengths: np.ndarray) -> _Fields:
    """Writes code lengths, at least one of them used, in the shortest of four layouts.

    With k bits for a symbol of the alphabet, after 2 bits for the layout:
    - single: the symbol (k), no payload follows;
    - plain: first and last used symbol (k each), width of a length (3), every length between them;
    - dense: first and last (k each), length changes; every symbol between them is used;
    - sparse: first (k), number used - 1 (k), steps from used symbol to used symbol, length changes.
    Steps and changes are Elias gamma codes (Elias 1975), since neighbours have similar lengths where the
    symbols are ordered (gaps, sorted codebooks): an unchanged length costs 1 bit, one more or one less 3.
    """
    k = (lengths.size - 1).bit_length()
    used = np.flatnonzero(lengths)
    low, high = int(used[0]), int(used[-1])
    if low == high:
        return [(_SINGLE, 2), (low, k)]
    width = int(lengths.max()).bit_length()
    changes = np.diff(lengths[used], prepend=_first_guess(used.size))
    coded_changes = _gammas(np.where(changes > 0, 2 * changes, 1 - 2 * changes).tolist())
    sparse = [(_SPARSE, 2), (low, k), (used.size - 1, k), *_gammas(np.diff(used).tolist()), *coded_changes]
    dense = [(_DENSE, 2), (low, k), (high, k), *coded_changes]
    plain = [(_PLAIN, 2), (low, k), (high, k), (width, 3)]
    plain += [(length, width) for length in lengths[low : high + 1].tolist()]
    return min(plain, dense if used.size == high - low + 1 else sparse, key=_bits_of)


def _read_table(data: bytes, alphabet: int) -> tuple[np.ndarray, int]:
    """Reads the code lengths, int64 (alphabet,), and the number of bits that `_table_fields` gave them."""
    data = data[: alphabet + 8]  # the plain layout, longer than none, takes at most 37 + 6 * alphabet bits
    text = format(int.from_bytes(data, "big"), f"0{8 * len(data)}b") if data else ""
    at = 0

    def take(width: int) -> int:
        nonlocal at
        if at + width > len(text):
            raise ValueError("Huffman stream ends within its code table")
        at += width
        return int(text[at - width : at] or "0", 2)

    def take_gamma() -> int:
        zeros = text.find("1", at) - at
        if not 0 <= zeros < MAX_LENGTH:
            raise ValueError("Huffman code table holds an impossible step")
        return take(2 * zeros + 1)

    def take_changes(count: int) -> list[int]:
        found, length = [], _first_guess(count)
        for _ in range(count):
            code = take_gamma()
            length += -(code // 2) if code % 2 else code // 2
            found.append(length)
        return found

    k = (alphabet - 1).bit_length()
    layout, low = take(2), take(k)
    high = low if layout == _SINGLE else take(k)  # number used - 1 where the layout is sparse
    if layout != _SPARSE:
        used = range(low, high + 1)
    else:
        used = np.cumsum([low] + [take_gamma() for _ in range(high)]).tolist()
    if not used or used[-1] >= alphabet:
        raise ValueError(f"Huffman code table names no symbols, or some beyond the alphabet of {alphabet}")
    width = take(3) if layout == _PLAIN else 0
    if layout == _PLAIN:
        found = [take(width) for _ in used]
    else:
        found = [1] if layout == _SINGLE else take_changes(len(used))
    return _checked_table(used, found, text[:at], alphabet), at


def _checked_table(used: Iterable[int], found: list[int], text: str, alphabet: int) -> np.ndarray:
    """Returns the lengths `found` of symbols `used`, if complete and written as `_table_fields` would."""
    if not 0 <= min(found) <= max(found) <= MAX_LENGTH:
        raise ValueError(f"Huffman code lengths {min(found)} to {max(found)} exceed 0 to {MAX_LENGTH}")
    lengths = np.zeros(alphabet, np.int64)
    lengths[list(used)] = found
    if np.count_nonzero(lengths) != 1 and _kraft(lengths) != 2**MAX_LENGTH:
        raise ValueError("Huffman code table is not a complete prefix code")
    if text != "".join(format(value, f"0{width}b") for value, width in _table_fields(lengths) if width):
        raise ValueError("Huffman code table is not in its shortest layout")
    return lengths


def _first_guess(used: int) -> int:
    """Returns the length from which the first change counts: that of equal lengths."""
    return (used - 1).bit_length()


def _gammas(values: list[int]) -> _Fields:
    """Writes ints >= 1 as Elias gamma codes: twice the bit length minus one, so leading zeros tell it."""
    return [(value, 2 * value.bit_length() - 1) for value in values]


def _bits_of(fields: _Fields) -> int:
    return sum(width for _, width in fields)


# Code words in a stream.


def _words(data: bytes) -> np.ndarray:
    """Returns the 40 bits from every byte on, int64, zeros following the last."""
    padded = np.frombuffer(data + bytes(4), np.uint8)
    words = np.zeros(len(data), np.int64)
    for byte in range(5):
        words = words << 8 | padded[byte : byte + len(data)]
    return words


def _windows(words: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns the 32 bits from every bit place on."""
    return words[places >> 3] >> (8 - (places & 7)) & (2**32 - 1)


def _code_places(words: np.ndarray, at: int, starts: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Follows code words from bit `at` to the end and returns where each begins and where the last ends.

    Windows from `starts[i]` up to `starts[i + 1]` begin with a code word of `widths[i]` bits.
    numpy finds the width at every bit, so the loop over code words is an addition each.
    """
    found, end = [], 8 * words.size
    while at < end:
        bits = np.arange(at, min(at + _CHUNK, end))
        steps = widths[np.searchsorted(starts, _windows(words, bits), side="right") - 1]
        steps = steps.astype(np.uint8).tobytes()  # indexing bytes gives small ints that Python keeps ready
        places, place = [], 0
        while place < len(steps):
            places.append(place)
            place += steps[place]
        found.append(np.array(places) + at)
        at += place
    return np.concatenate([*found, [at]])
