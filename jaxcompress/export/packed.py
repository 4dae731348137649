"""The file of a packed tree: every byte accounted for, restored bit for bit, safe to read from strangers.

Layout, integers little-endian::

    4 bytes   magic "JCPK"
    1 byte    version, 1
    4 bytes   CRC-32 of everything after it
    4 bytes   length of the header as stored
    header    JSON in UTF-8, compressed by zlib (RFC 1950)
    streams   raw bytes, one after the other, in the order in which the header names them

The header is a list of ``[path, leaf]``, a path being the list of a leaf's keys and a leaf
``[kind, attributes, [[role, coding, bytes], ...], {name: leaf}]``, in the terms of `jaxcompress.coding`. The file holds
numbers and names alone: nothing in it is executed, and there is no pickle.
"""

import json
import os
import pathlib
import struct
import zlib
from typing import Any

import jax

from jaxcompress import arrays
from jaxcompress.arrays import is_compressed
from jaxcompress.coding import Coded, Stream
from jaxcompress.export.files import write_whole
from jaxcompress.paths import Params
from jaxcompress.transform import pack

MAGIC, VERSION = b"JCPK", 1
_PREFIX = struct.Struct("<4sBII")
_HEADER_LIMIT = 2**22  # bytes of JSON: thousands of leaves, and no bomb
_DEPTH_LIMIT = 16  # leaves nested in leaves; a masked, quantized factor is three

DEFAULT_LIMIT = 2**32  # bytes of dense weights that reading may allocate


def save(path: str | os.PathLike[str], params: Params) -> int:
    """Packs `params`, a nested dict of arrays and compressed leaves, into a file; returns its size in bytes.

    The file is written whole or not at all. Raises ValueError for a tree that is not nested dicts with text keys, or
    for dtypes that have no place in the format.
    """
    data = to_bytes(params)
    write_whole(path, data)
    return len(data)


def load(path: str | os.PathLike[str], *, limit: int = DEFAULT_LIMIT) -> Params:
    """Restores the packed tree of a file, bit for bit; raises as `from_bytes` does, naming the file."""
    try:
        return from_bytes(pathlib.Path(path).read_bytes(), limit=limit)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def to_bytes(params: Params) -> bytes:
    """Packs `params` and returns the bytes of its file."""
    leaves = encode(params)
    header = [[list(path), _described(coded)] for path, coded in leaves]
    stored = zlib.compress(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(), 9)
    body = b"".join(stream.data for _, coded in leaves for stream in _streams(coded))
    rest = struct.pack("<I", len(stored)) + stored + body
    return _PREFIX.pack(MAGIC, VERSION, zlib.crc32(rest), len(stored)) + rest[4:]


def from_bytes(data: bytes, *, limit: int = DEFAULT_LIMIT) -> Params:
    """Restores the packed tree from the bytes of its file.

    Every length, shape, code and index is checked before it is used, and no more than `limit` bytes of dense weights
    are allocated. Raises ValueError, saying what is wrong, for anything that `to_bytes` did not write.
    """
    header, body = _split(data)
    tree: dict[str, Any] = {}
    at, total = 0, 0
    for entry in _checked(header, list):
        path, described = _checked(entry, list, length=2)
        coded, at = _undescribed(described, body, at)
        total += _dense_bytes(coded)
        if total > limit:
            raise ValueError(f"the weights need {total} bytes or more, above the limit of {limit}")
        _insert(tree, path, arrays.decode(coded))
    if at != len(body):
        raise ValueError(f"{len(body) - at} bytes follow the last stream")
    return tree


def encode(params: Params) -> list[tuple[tuple[str, ...], Coded]]:
    """Packs `params` and lays every leaf out as streams, by the keys of its path; raises as `save` does."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(pack(params), is_leaf=is_compressed)
    return [(_text_keys(keys), arrays.encode(leaf)) for keys, leaf in leaves]


def overhead(file_size: int, leaves: list[tuple[tuple[str, ...], Coded]]) -> int:
    """Returns the bytes of a file that are not streams: its prefix and header."""
    return file_size - sum(len(stream.data) for _, coded in leaves for stream in _streams(coded))


def _text_keys(keys: tuple[Any, ...]) -> tuple[str, ...]:
    if not keys or not all(isinstance(key, jax.tree_util.DictKey) and isinstance(key.key, str) for key in keys):
        raise ValueError(f"{jax.tree_util.keystr(keys)}: a packed tree is nested dicts with text keys")
    return tuple(key.key for key in keys)


def _streams(coded: Coded) -> list[Stream]:
    return [*coded.streams, *(stream for part in coded.parts.values() for stream in _streams(part))]


def _described(coded: Coded) -> list[Any]:
    streams = [[stream.role, stream.coding, len(stream.data)] for stream in coded.streams]
    return [coded.kind, coded.attributes, streams, {name: _described(part) for name, part in coded.parts.items()}]


def _undescribed(described: Any, body: bytes, at: int, depth: int = 0) -> tuple[Coded, int]:
    """Cuts the streams that a description names out of `body` from `at` on; returns the leaf and where it ends."""
    if depth > _DEPTH_LIMIT:
        raise ValueError(f"leaves are nested more than {_DEPTH_LIMIT} deep")
    kind, attributes, listed, nested = _checked(described, list, length=4)
    streams = []
    for item in _checked(listed, list):
        role, coding, size = _checked(item, list, length=3)
        if type(size) is not int or not 0 <= size <= len(body) - at:
            raise ValueError(f"a stream of {size!r} bytes does not fit the {len(body) - at} that are left")
        streams.append(Stream(_checked(role, str), _checked(coding, str), body[at : at + size]))
        at += size
    parts = {}
    for name, part in _checked(nested, dict).items():
        parts[name], at = _undescribed(part, body, at, depth + 1)
    return Coded(_checked(kind, str), _checked(attributes, dict), tuple(streams), parts), at


def _split(data: bytes) -> tuple[Any, bytes]:
    if len(data) < _PREFIX.size:
        raise ValueError(f"{len(data)} bytes are too few for a packed file")
    magic, version, checksum, size = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise ValueError(f"not a packed file: it begins with {magic!r}, not {MAGIC!r}")
    if version != VERSION:
        raise ValueError(f"the file is of version {version}; this program reads version {VERSION}")
    if zlib.crc32(data[_PREFIX.size - 4 :]) != checksum:
        raise ValueError("the checksum does not match: the file is truncated or corrupted")
    stored = data[_PREFIX.size : _PREFIX.size + size]
    if len(stored) != size:
        raise ValueError(f"a header of {size} bytes does not fit the file")
    try:
        inflate = zlib.decompressobj()
        text = inflate.decompress(stored, _HEADER_LIMIT)
        if not inflate.eof or inflate.unused_data:
            raise ValueError(f"the header is not one zlib stream of at most {_HEADER_LIMIT} bytes")
        return json.loads(text), data[_PREFIX.size + size :]
    except (zlib.error, RecursionError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"the header cannot be read: {error}") from error


def _checked(value: Any, kind: type, length: int | None = None) -> Any:
    if type(value) is not kind or (length is not None and len(value) != length):
        raise ValueError(f"the header holds {str(value)[:60]!r} where a {kind.__name__} belongs")
    return value


def _dense_bytes(coded: Coded) -> int:
    """Returns the bytes of a leaf's entries, four each but where the dtype is wider: what decoding it allocates."""
    width = 8 if coded.attributes.get("dtype") == "float64" else 4
    own = width * coded.size() if "shape" in coded.attributes else 0
    return own + sum(_dense_bytes(part) for part in coded.parts.values())


def _insert(tree: dict[str, Any], path: list[Any], leaf: Any) -> None:
    keys = [_checked(key, str) for key in _checked(path, list)]
    if not keys:
        raise ValueError("a leaf has no path")
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if type(tree) is not dict:
            raise ValueError(f"the path {keys} goes through a leaf")
    if keys[-1] in tree:
        raise ValueError(f"the path {keys} is given twice")
    tree[keys[-1]] = leaf
