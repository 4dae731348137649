"""Codes symbols by the shortest of the codings, and says how short one could be.

What holds for every stream is said in `bits`.
"""

import numpy as np

from jaxcompress.numerics.bits import check_alphabet, check_coding, checked_symbols, pack_bits, shortest, unpack_bits
from jaxcompress.numerics.huffman import decode_huffman, encode_huffman

SYMBOL_CODINGS = ("fixed", "huffman")  # ties go to the earlier


def entropy(counts: np.ndarray) -> float:
    """Returns the entropy in bits per symbol of a histogram `counts` (Shannon 1948); 0 for an empty one."""
    used = counts[counts > 0].astype(np.float64)
    p = used / used.sum()
    return float(np.sum(p * -np.log2(p)))  # negated inside, so that one symbol gives 0.0 and not -0.0


def encode_symbols(symbols: np.ndarray, alphabet: int) -> tuple[str, bytes]:
    """Returns the name and stream of the shortest of `SYMBOL_CODINGS` for 1-D `symbols` in [0, alphabet)."""
    return shortest(_symbol_streams(symbols, alphabet))


def decode_symbols(coding: str, data: bytes, alphabet: int, count: int) -> np.ndarray:
    """Reads back the `count` int64 symbols of `encode_symbols`; `ValueError` on a malformed stream."""
    check_alphabet(alphabet)
    check_coding(coding, SYMBOL_CODINGS)
    if coding == "huffman":
        return decode_huffman(data, alphabet, count)
    return checked_symbols(unpack_bits(data, (alphabet - 1).bit_length(), count), alphabet)


def symbol_bits(symbols: np.ndarray, alphabet: int) -> dict[str, int]:
    """Returns the bits of the stream, table and padding included, under each of `SYMBOL_CODINGS`."""
    return {coding: 8 * len(data) for coding, data in _symbol_streams(symbols, alphabet).items()}


def _symbol_streams(symbols: np.ndarray, alphabet: int) -> dict[str, bytes]:
    symbols = checked_symbols(symbols, alphabet)
    return {
        "fixed": pack_bits(symbols, (alphabet - 1).bit_length()),
        "huffman": encode_huffman(symbols, alphabet),
    }
