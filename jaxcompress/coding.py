"""Streams of bytes: how a packed leaf is laid out in a file, before it is written anywhere.

Every class of `jaxcompress.arrays` turns itself into a `Coded` and back. What is plain (shapes, names of codings) goes
to the header of the file as JSON; what is data goes to streams.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.numerics import entropy, positions

DTYPES = ("bool", "int8", "uint8", "int16", "int32", "uint32", "float16", "bfloat16", "float32", "float64")

MOST_AXES, MOST_ENTRIES = 64, 2**63  # of an array, as numpy has them

FLOATS = ("float16", "bfloat16", "float32", "float64")


class Stream(NamedTuple):
    """Holds one run of bytes: its role in the leaf (``mask``, ``codes``, ``values``), its coding, its data."""

    role: str
    coding: str
    data: bytes


class Coded(NamedTuple):
    """Holds one leaf as attributes for the header, streams, and the leaves nested in it."""

    kind: str
    attributes: dict[str, Any]
    streams: tuple[Stream, ...] = ()
    parts: "dict[str, Coded]" = {}

    def stream(self, role: str) -> Stream:
        """Returns the stream of that role; raises ValueError if the leaf has none."""
        for stream in self.streams:
            if stream.role == role:
                return stream
        raise ValueError(f"{self.kind} has no stream {role!r}")

    def part(self, name: str) -> "Coded":
        """Returns the nested leaf of that name; raises ValueError if there is none."""
        if name not in self.parts:
            raise ValueError(f"{self.kind} has no part {name!r}")
        return self.parts[name]

    def attribute(self, name: str, kind: type) -> Any:
        """Returns an attribute after checking its type; raises ValueError otherwise."""
        value = self.attributes.get(name)
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise ValueError(f"{self.kind} has no attribute {name!r} of type {kind.__name__}")
        return value

    def shape(self) -> tuple[int, ...]:
        """Returns the declared shape after checking that it is one: 64 axes at most, and fewer than 2**63 entries."""
        shape = self.attribute("shape", list)
        if len(shape) > MOST_AXES or not all(type(n) is int and 0 <= n < MOST_ENTRIES for n in shape):
            raise ValueError(f"{self.kind} has the shape {str(shape[:8])[:80]}, of {len(shape)} axes")
        if math.prod(n for n in shape if n) >= MOST_ENTRIES:  # also beside an axis of none, since arrays count so
            raise ValueError(f"{self.kind} has the shape {shape!r}, of 2**63 entries or more")
        return tuple(shape)

    def size(self) -> int:
        """Returns the number of entries that the declared shape holds."""
        return math.prod(self.shape())

    def bytes_by_coding(self) -> dict[str, int]:
        """Sums the bytes of all streams, nested ones included, by ``role:coding``."""
        total: dict[str, int] = {}
        for stream in self.streams:
            name = f"{stream.role}:{stream.coding}"
            total[name] = total.get(name, 0) + len(stream.data)
        for part in self.parts.values():
            for name, size in part.bytes_by_coding().items():
                total[name] = total.get(name, 0) + size
        return total


def columns(shape: tuple[int, ...]) -> int:
    """Returns the row length under which positions of a sparse leaf are coded: its last axis."""
    return max(1, shape[-1]) if shape else 1


def encode_array(array: jax.Array, kept: np.ndarray | None = None) -> Coded:
    """Stores an array as its raw little-endian bytes; with `kept` (bool, flat) only those entries."""
    if str(array.dtype) not in DTYPES:  # before numpy looks at it, which knows no random keys
        raise ValueError(f"an array of dtype {array.dtype} cannot be stored; allowed are {', '.join(DTYPES)}")
    values = np.asarray(array)
    flat = values.reshape(-1) if kept is None else values.reshape(-1)[kept]
    attributes = {"dtype": values.dtype.name, "shape": list(values.shape)}
    return Coded("array", attributes, (Stream("values", "raw", flat.tobytes()),))


def decode_array(coded: Coded, kept: np.ndarray | None = None) -> jax.Array:
    """Restores an array; entries that are not `kept` become zero. Raises ValueError where sizes disagree."""
    name = coded.attribute("dtype", str)
    if coded.kind != "array" or name not in DTYPES:
        raise ValueError(f"{coded.kind!r} of dtype {name!r} is not an array this version reads")
    dtype, data = jnp.dtype(name), coded.stream("values").data
    if dtype != jax.dtypes.canonicalize_dtype(dtype):
        raise ValueError("a float64 array can only be read with jax_enable_x64; without it bits would be lost")
    if kept is not None and kept.size != coded.size():
        raise ValueError(f"a mask of {kept.size} entries does not fit an array of {coded.size()}")
    count = coded.size() if kept is None else int(np.count_nonzero(kept))
    if len(data) != count * dtype.itemsize:
        raise ValueError(f"{count} values of {name} need {count * dtype.itemsize} bytes, not {len(data)}")
    if name == "bool" and data.strip(b"\x00\x01"):
        raise ValueError("a stored bool is neither 0 nor 1")
    values = np.frombuffer(data, dtype)
    if kept is not None:
        whole = np.zeros(coded.size(), dtype)
        whole[kept] = values
        values = whole
    return jnp.asarray(values.reshape(coded.shape()))


def decode_scale(coded: Coded) -> jax.Array:
    """Restores the scale of a leaf; raises ValueError unless it is float32, finite and positive."""
    scale = decode_array(coded.part("scale"))
    if scale.dtype != jnp.float32:
        raise ValueError(f"a scale of dtype {scale.dtype} does not fit a {coded.kind}, whose is float32")
    if not np.all(np.isfinite(scale)) or not np.all(np.asarray(scale) > 0):
        raise ValueError(f"a scale of {coded.kind} is not finite and positive")
    return scale


def decode_dtype(coded: Coded) -> str:
    """Returns the dtype that a leaf means; raises ValueError unless it is one of floating-point that JAX has here."""
    name = coded.attribute("dtype", str)
    if name not in FLOATS or jnp.dtype(name) != jax.dtypes.canonicalize_dtype(name):
        raise ValueError(f"{coded.kind} of dtype {name!r} is not one this version reads; float64 needs jax_enable_x64")
    return name


def encode_mask(mask: np.ndarray) -> Stream:
    """Stores the positions of a boolean array by the cheapest coding."""
    coding, data = positions.encode_mask(mask.reshape(-1), columns(mask.shape))
    return Stream("mask", coding, data)


def decode_mask(coded: Coded) -> np.ndarray:
    """Restores the positions, flat."""
    stream = coded.stream("mask")
    return positions.decode_mask(stream.coding, stream.data, coded.size(), columns(coded.shape()))


def encode_codes(codes: np.ndarray, alphabet: int) -> Stream:
    """Stores integer codes in [0, alphabet) by the cheapest coding."""
    return Stream("codes", *entropy.encode_symbols(codes.reshape(-1), alphabet))


def decode_codes(coded: Coded, alphabet: int, count: int) -> np.ndarray:
    """Restores `count` integer codes, flat."""
    stream = coded.stream("codes")
    return entropy.decode_symbols(stream.coding, stream.data, alphabet, count)
