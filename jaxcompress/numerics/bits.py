"""Writes and reads runs of bit fields: fixed-width codes, and the checks that every coding of numbers shares.

Every stream is a run of bit fields, most significant bit first, ended by zero bits up to a whole byte.
Decoders read untrusted files: whatever is not exactly a stream of the expected count raises `ValueError`,
before anything larger than that count is allocated. The count (or size) is the caller's to bound: zero-bit
codings (all positions kept, a single symbol) hold any. Given the choices a stream records (code lengths, gap
width) there is one valid stream for each result, so decoding it and coding the result again gives the same bytes.
"""

import numpy as np

MAX_ALPHABET = 2**16


def pack_bits(values: np.ndarray, width: int) -> bytes:
    """Packs 1-D ints in [0, 2**width) into `width` bits each, 0 <= width <= 32.

    Width 0 writes no bytes, all values being 0. Raises `ValueError` on a value outside the range.
    """
    check_width(width, 0, 32)
    values = checked_ints(values, 2**width)
    return pack(values, np.full(values.size, width))


def unpack_bits(data: bytes, width: int, count: int) -> np.ndarray:
    """Reads back the `count` int64 values of `pack_bits`; `ValueError` on any other length or padding."""
    check_width(width, 0, 32)
    check_count(count)
    check_end(data, count * width)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count * width).reshape(count, width)
    values = np.zeros(count, np.int64)
    for column in bits.T:
        values = values << 1 | column
    return values


# Parts of every stream.


def pack(values: np.ndarray, widths: np.ndarray) -> bytes:
    """Writes every int64 value in its own width, one after the other, and zeros up to a whole byte."""
    ends = np.cumsum(widths)
    bits = np.zeros(int(ends[-1]) if ends.size else 0, np.uint8)
    for bit in range(int(widths.max(initial=0))):
        wide = widths > bit
        bits[ends[wide] - 1 - bit] = values[wide] >> bit & 1
    return np.packbits(bits).tobytes()


def bytes_of(bits: int) -> int:
    """Returns how many whole bytes hold that many bits."""
    return -(-bits // 8)


def shortest(streams: dict[str, bytes]) -> tuple[str, bytes]:
    """Returns the name and stream of the shortest coding; ties go to the first."""
    return min(streams.items(), key=lambda item: len(item[1]))  # `min` keeps the first of equals


# Checks.


def check_end(data: bytes, bits: int) -> None:
    """Refuses a stream that is not `bits` long but for zeros up to a whole byte."""
    if len(data) != bytes_of(bits):
        raise ValueError(f"stream has {len(data)} bytes where {bits} bits are expected")
    if bits % 8 and data[-1] & (1 << -bits % 8) - 1:
        raise ValueError("padding bits after the end of the stream are not zero")


def check_width(width: int, low: int, high: int) -> None:
    """Refuses a width in bits outside `low` to `high`."""
    if not low <= width <= high:
        raise ValueError(f"width is {low} to {high} bits, got {width}")


def check_count(count: int) -> None:
    """Refuses a negative number of values."""
    if count < 0:
        raise ValueError(f"a stream holds 0 or more values, not {count}")


def check_alphabet(alphabet: int) -> None:
    """Refuses an alphabet outside 1 to `MAX_ALPHABET` symbols."""
    if not 1 <= alphabet <= MAX_ALPHABET:
        raise ValueError(f"alphabet is 1 to {MAX_ALPHABET} symbols, got {alphabet}")


def check_coding(coding: str, codings: tuple[str, ...]) -> None:
    """Refuses the name of a coding that is none of `codings`."""
    if coding not in codings:
        raise ValueError(f"coding {coding!r} is none of {', '.join(codings)}")


def checked_symbols(symbols: np.ndarray, alphabet: int) -> np.ndarray:
    """Returns 1-D ints in [0, alphabet) as int64, refusing others."""
    check_alphabet(alphabet)
    return checked_ints(symbols, alphabet)


def checked_ints(values: np.ndarray, limit: int) -> np.ndarray:
    """Returns 1-D ints in [0, limit) as int64, refusing others."""
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ValueError(f"expected 1-D integers, got {values.dtype} {values.shape}")
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < limit:
        raise ValueError(f"values {values.min()} to {values.max()} are not within 0 to {limit - 1}")
    return values.astype(np.int64)
