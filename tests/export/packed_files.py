"""Packed files made by hand, with a right prefix and checksum whatever their header says."""

import json
import struct
import zlib

import jax.numpy as jnp
import numpy as np

from jaxcompress.arrays import Clustered, LowRank, Masked, PackedFloat8, Quantized, Scaled
from tests.arrays.test_contract import assert_same_leaf

PREFIX = struct.Struct("<4sBII")

MASK = np.array([[True, False, True], [False, False, True]])
CODES = jnp.array([[0, 1, 2], [2, 1, 0]], jnp.uint8)


def assert_same_tree(a, b):
    assert sorted(a) == sorted(b)
    for key, leaf in a.items():
        assert_same_tree(leaf, b[key]) if isinstance(leaf, dict) else assert_same_leaf(leaf, b[key])


def small_tree():
    """One leaf of every kind that a file can hold, and of every coding that fits in a few bytes."""
    clustered = Clustered(CODES, jnp.array([1.0, 2.0, 3.0]))
    return {
        "a": {"kernel": Masked(jnp.arange(1.0, 7.0).reshape(2, 3), jnp.asarray(MASK)), "bias": jnp.array([True])},
        "b": Masked(clustered, jnp.asarray(MASK)),
        "c": LowRank(jnp.ones((2, 1)), jnp.ones((1, 3))),
        "d": Quantized(CODES.astype(jnp.int8), jnp.full((1, 3), 0.5), jnp.ones((1, 3), jnp.int8), 3),
        "e": clustered,
        "f": Scaled(jnp.ones((1, 2)), jnp.full((1, 1), 0.5)),
        "g": PackedFloat8(CODES, jnp.ones((1, 1)), "e4m3"),
        "h": Quantized(jnp.ones((4, 1), jnp.int8), jnp.ones((2, 1)), jnp.ones((2, 1), jnp.int8), 3),
    }


def header_of(data):
    size = PREFIX.unpack_from(data)[3]
    return json.loads(zlib.decompress(data[PREFIX.size : PREFIX.size + size])), data[PREFIX.size + size :]


def file_of(header, body=b""):
    """Writes a file whose prefix and checksum are right, whatever its header says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return file_of_stored(zlib.compress(text), body)


def file_of_stored(stored, body=b""):
    rest = struct.pack("<I", len(stored)) + stored + body
    return b"JCPK\x01" + struct.pack("<I", zlib.crc32(rest)) + rest


def with_checksum(data):
    return data[:5] + struct.pack("<I", zlib.crc32(data[9:])) + data[9:]


def array(shape, dtype="float32", size=None):
    size = 4 * int(np.prod(shape)) if size is None else size
    return ["array", {"dtype": dtype, "shape": shape}, [["values", "raw", size]], {}]
