"""Codes symbols and kept positions as short byte streams, checked when read back.

The codings are those of Deep Compression (Han, Mao & Dally 2016, arXiv:1510.00149) and their rivals.
Every stream is a run of bit fields, most significant bit first, ended by zero bits up to a whole byte.
Decoders read untrusted files: whatever is not exactly a stream of the expected count raises `ValueError`,
before anything larger than that count is allocated. The count (or size) is the caller's to bound: zero-bit
codings ("full", a single symbol) hold any. Given the choices a stream records (code lengths, gap width)
there is one valid stream for each result, so decoding it and coding the result again gives the same bytes.
"""

import heapq
from collections.abc import Iterable

import numpy as np

SYMBOL_CODINGS = ("fixed", "huffman")  # ties go to the earlier, here and below
POSITION_CODINGS = ("full", "bitmask", "csr", "relative", "relative-huffman")

MAX_LENGTH = 32  # bits of the longest Huffman code word
MAX_ALPHABET = 2**16
GAP_WIDTHS = range(1, 13)  # tried by `encode_mask`; the paper uses 8 (convolutions) and 5 (fully connected)

_SINGLE, _PLAIN, _DENSE, _SPARSE = range(4)  # layouts of a Huffman table, the first 2 bits of its stream
_CHUNK = 2**19  # bits of a Huffman stream looked at together: bounds the memory of decoding to a few MB

_Fields = list[tuple[int, int]]  # (value, width in bits)


def entropy(counts: np.ndarray) -> float:
    """Returns the entropy in bits per symbol of a histogram `counts` (Shannon 1948); 0 for an empty one."""
    used = counts[counts > 0].astype(np.float64)
    p = used / used.sum()
    return float(np.sum(p * -np.log2(p)))  # negated inside, so that one symbol gives 0.0 and not -0.0


# Fixed-width codes.


def pack_bits(values: np.ndarray, width: int) -> bytes:
    """Packs 1-D ints in [0, 2**width) into `width` bits each, 0 <= width <= 32.

    Width 0 writes no bytes, all values being 0. Raises `ValueError` on a value outside the range.
    """
    _check_width(width, 0, 32)
    values = _checked_ints(values, 2**width)
    return _pack(values, np.full(values.size, width))


def unpack_bits(data: bytes, width: int, count: int) -> np.ndarray:
    """Reads back the `count` int64 values of `pack_bits`; `ValueError` on any other length or padding."""
    _check_width(width, 0, 32)
    _check_count(count)
    _check_end(data, count * width)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count * width).reshape(count, width)
    values = np.zeros(count, np.int64)
    for column in bits.T:
        values = values << 1 | column
    return values


# Huffman codes.


def huffman_lengths(counts: np.ndarray) -> np.ndarray:
    """Returns the length in bits of every symbol's code word, uint8, 0 where `counts` is 0 (Huffman 1952).

    The code is optimal for the histogram, and of the optimal ones has the shortest longest word (ties take
    leaves before subtrees, then the lower symbol). A single used symbol gets length 1. Should a word exceed
    32 bits, which takes more than nine million Fibonacci-distributed symbols, the counts are halved, rounding
    up, until none does: that code is complete but no longer quite optimal.
    """
    counts = _checked_ints(counts, 2**62)
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
    lengths = _checked_ints(lengths, MAX_LENGTH + 1)
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
    symbols = _checked_symbols(symbols, alphabet)
    if not symbols.size:
        return b""
    lengths, table = _huffman_plan(np.bincount(symbols, minlength=alphabet))
    words, widths = np.array(table, np.int64).T
    if np.count_nonzero(lengths) > 1:
        words = np.append(words, canonical_codes(lengths)[symbols])
        widths = np.append(widths, lengths[symbols])
    return _pack(words, widths)


def decode_huffman(data: bytes, alphabet: int, count: int) -> np.ndarray:
    """Reads back the `count` int64 symbols of `encode_huffman`; `ValueError` on a malformed stream.

    Any complete code is accepted, optimal or not; its table must be in its shortest layout.
    """
    _check_alphabet(alphabet)
    _check_count(count)
    if count == 0:
        _check_end(data, 0)
        return np.zeros(0, np.int64)
    lengths, at = _read_table(data, alphabet)
    if np.count_nonzero(lengths) == 1:
        _check_end(data, at)
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
    _check_end(data, int(places[count]))
    rank = np.searchsorted(starts, _windows(words, places[:count]), side="right") - 1
    return order[rank]


# Values: which coding is shortest.


def encode_symbols(symbols: np.ndarray, alphabet: int) -> tuple[str, bytes]:
    """Returns the name and stream of the shortest of `SYMBOL_CODINGS` for 1-D `symbols` in [0, alphabet)."""
    return _shortest(_symbol_streams(symbols, alphabet))


def decode_symbols(coding: str, data: bytes, alphabet: int, count: int) -> np.ndarray:
    """Reads back the `count` int64 symbols of `encode_symbols`; `ValueError` on a malformed stream."""
    _check_alphabet(alphabet)
    _check_coding(coding, SYMBOL_CODINGS)
    if coding == "huffman":
        return decode_huffman(data, alphabet, count)
    return _checked_symbols(unpack_bits(data, (alphabet - 1).bit_length(), count), alphabet)


def symbol_bits(symbols: np.ndarray, alphabet: int) -> dict[str, int]:
    """Returns the bits of the stream, table and padding included, under each of `SYMBOL_CODINGS`."""
    return {coding: 8 * len(data) for coding, data in _symbol_streams(symbols, alphabet).items()}


# Positions kept by a mask.


def gaps_from_mask(mask: np.ndarray, width: int) -> np.ndarray:
    """Codes a 1-D bool mask as the gaps between its kept positions, int64 in [0, 2**width), width 1 to 16.

    Symbol s < 2**width - 1 skips s zeros and keeps the next position; 2**width - 1 is a filler that skips
    2**width - 1 zeros and keeps nothing. Zeros after the last kept position are not coded.
    Departure from Han et al. (figure 2): they keep a zero *weight* at each filler, we spend no weight on it.
    """
    _check_width(width, 1, 16)
    filler = 2**width - 1
    fillers, rest = np.divmod(_zero_runs(mask), filler)
    gaps = np.full(int(fillers.sum()) + rest.size, filler, np.int64)
    gaps[np.cumsum(fillers + 1) - 1] = rest
    return gaps


def mask_from_gaps(gaps: np.ndarray, width: int, size: int) -> np.ndarray:
    """Rebuilds the bool mask of `size` positions from `gaps_from_mask`.

    Raises `ValueError` where the gaps run past `size` or end in a filler (it would code nothing).
    """
    _check_width(width, 1, 16)
    gaps = _checked_ints(gaps, 2**width)
    kept = gaps != 2**width - 1
    if gaps.size and not kept[-1]:
        raise ValueError("gaps end in a filler, which keeps nothing")
    positions = np.cumsum(gaps + kept)[kept] - 1
    if positions.size and positions[-1] >= size:
        raise ValueError(f"gaps keep position {positions[-1]} of a mask of {size}")
    return _mask_at(positions, size)


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
    return _shortest(_mask_streams(mask, columns))


def decode_mask(coding: str, data: bytes, size: int, columns: int) -> np.ndarray:
    """Reads back the mask of `encode_mask`, bool (size,); `ValueError` on a malformed stream."""
    _check_coding(coding, POSITION_CODINGS)
    _check_columns(size, columns)
    if coding == "full":
        _check_end(data, 0)
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


# Streams of every coding.


def _shortest(streams: dict[str, bytes]) -> tuple[str, bytes]:
    return min(streams.items(), key=lambda item: len(item[1]))  # `min` keeps the first of equals


def _symbol_streams(symbols: np.ndarray, alphabet: int) -> dict[str, bytes]:
    symbols = _checked_symbols(symbols, alphabet)
    return {
        "fixed": pack_bits(symbols, (alphabet - 1).bit_length()),
        "huffman": encode_huffman(symbols, alphabet),
    }


def _mask_streams(mask: np.ndarray, columns: int) -> dict[str, bytes]:
    runs = _zero_runs(mask)
    _check_columns(mask.size, columns)
    fixed = min(GAP_WIDTHS, key=lambda width: int(_gap_counts(runs, width).sum()) * width)
    coded = min(GAP_WIDTHS, key=lambda width: _huffman_bytes(_gap_counts(runs, width)))
    gaps, coded_gaps = gaps_from_mask(mask, fixed), gaps_from_mask(mask, coded)
    coded_head = _gap_head(coded, coded_gaps.size, mask.size)
    streams = {"full": b""} if mask.all() else {}
    return streams | {
        "bitmask": pack_bits(mask.astype(np.int64), 1),
        "csr": _csr_from_mask(mask.reshape(-1, columns)),
        "relative": _gap_head(fixed, gaps.size, mask.size) + pack_bits(gaps, fixed),
        "relative-huffman": coded_head + encode_huffman(coded_gaps, 2**coded),
    }


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
    return (width - 1 << count_width | count).to_bytes(_bytes_of(4 + count_width), "big")


def _split_gap_head(data: bytes, size: int) -> tuple[int, int, bytes]:
    """Reads (width, number of gaps, rest of the stream) after `_gap_head`."""
    count_width = size.bit_length()
    head = _bytes_of(4 + count_width)
    if len(data) < head:
        raise ValueError(f"relative stream of {len(data)} bytes is shorter than its head, {head} bytes")
    width, count = divmod(int.from_bytes(data[:head], "big"), 2**count_width)
    if width + 1 not in GAP_WIDTHS or count > size:
        raise ValueError(f"relative stream claims {count} gaps of {width + 1} bits for {size} positions")
    return width + 1, count, data[head:]


def _csr_from_mask(rows: np.ndarray) -> bytes:
    columns = rows.shape[1]
    kept = pack_bits(np.count_nonzero(rows, axis=1), columns.bit_length())
    return kept + pack_bits(np.nonzero(rows)[1], (columns - 1).bit_length())


def _mask_from_csr(data: bytes, size: int, columns: int) -> np.ndarray:
    rows = size // columns
    head = _bytes_of(rows * columns.bit_length())
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


# Parts of the Huffman coding.


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


def _huffman_plan(counts: np.ndarray) -> tuple[np.ndarray, _Fields]:
    lengths = huffman_lengths(counts).astype(np.int64)
    return lengths, _table_fields(lengths)


def _huffman_bytes(counts: np.ndarray) -> int:
    """Returns the length of `encode_huffman`'s stream for symbols with histogram `counts`."""
    if not counts.any():
        return 0
    lengths, table = _huffman_plan(counts)
    payload = int(counts @ lengths) if np.count_nonzero(lengths) > 1 else 0
    return _bytes_of(_bits_of(table) + payload)


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


# Bits and checks.


def _pack(values: np.ndarray, widths: np.ndarray) -> bytes:
    """Writes every int64 value in its own width, one after the other, and zeros up to a whole byte."""
    ends = np.cumsum(widths)
    bits = np.zeros(int(ends[-1]) if ends.size else 0, np.uint8)
    for bit in range(int(widths.max(initial=0))):
        wide = widths > bit
        bits[ends[wide] - 1 - bit] = values[wide] >> bit & 1
    return np.packbits(bits).tobytes()


def _bytes_of(bits: int) -> int:
    return -(-bits // 8)


def _check_end(data: bytes, bits: int) -> None:
    """Refuses a stream that is not `bits` long but for zeros up to a whole byte."""
    if len(data) != _bytes_of(bits):
        raise ValueError(f"stream has {len(data)} bytes where {bits} bits are expected")
    if bits % 8 and data[-1] & (1 << -bits % 8) - 1:
        raise ValueError("padding bits after the end of the stream are not zero")


def _check_width(width: int, low: int, high: int) -> None:
    if not low <= width <= high:
        raise ValueError(f"width is {low} to {high} bits, got {width}")


def _check_count(count: int) -> None:
    if count < 0:
        raise ValueError(f"a stream holds 0 or more values, not {count}")


def _check_alphabet(alphabet: int) -> None:
    if not 1 <= alphabet <= MAX_ALPHABET:
        raise ValueError(f"alphabet is 1 to {MAX_ALPHABET} symbols, got {alphabet}")


def _check_columns(size: int, columns: int) -> None:
    if columns < 1 or size < 0 or size % columns:
        raise ValueError(f"a mask of {size} positions has no rows of {columns} columns")


def _check_coding(coding: str, codings: tuple[str, ...]) -> None:
    if coding not in codings:
        raise ValueError(f"coding {coding!r} is none of {', '.join(codings)}")


def _checked_symbols(symbols: np.ndarray, alphabet: int) -> np.ndarray:
    _check_alphabet(alphabet)
    return _checked_ints(symbols, alphabet)


def _checked_ints(values: np.ndarray, limit: int) -> np.ndarray:
    """Returns 1-D ints in [0, limit) as int64, refusing others."""
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ValueError(f"expected 1-D integers, got {values.dtype} {values.shape}")
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < limit:
        raise ValueError(f"values {values.min()} to {values.max()} are not within 0 to {limit - 1}")
    return values.astype(np.int64)
