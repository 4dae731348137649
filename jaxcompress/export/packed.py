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
import math
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
from jaxcompress.export.trees import check_path, check_same, packed_tree
from jaxcompress.paths import Params

MAGIC, VERSION = b"JCPK", 1
_PREFIX = struct.Struct("<4sBII")
_HEADER_LIMIT = 2**22  # bytes of JSON: thousands of leaves, and no bomb
_DEPTH_LIMIT = 16  # leaves nested in leaves; a masked, quantized factor is three

Encoded = list[tuple[tuple[str, ...], Coded]]  # the keys of every leaf, and the leaf as streams


def save(path: str | os.PathLike[str], params: Params, *, limit: int | None = None) -> int:
    """Packs `params`, a nested dict of arrays and compressed leaves, into a file; returns its size in bytes.

    `params` may be any mapping of mappings, such as an ``nnx.State``, see `export.trees.packed_tree`; what `load`
    returns is a nested dict with the same paths, integer keys as text. The file is written whole or not at all, and
    only if `load` restores it bit for bit within `limit`: what was encoded is decoded and compared first, which takes
    about as long as `load` does.

    Raises ValueError, with the path of the leaf, for a tree that is not nested dicts with text keys, for dtypes that
    have no place in the format, for numbers that would be narrowed (int64, float64 without ``jax_enable_x64``), and for
    what `load` would refuse: keys with control characters, more than 64 keys in a path, scales that are not finite and
    positive.
    """
    stored = packed_tree(params)
    data = written(_encoded(stored))
    check_same(stored, from_bytes(data, limit=limit))
    write_whole(path, data)
    return len(data)


def load(path: str | os.PathLike[str], *, limit: int | None = None) -> Params:
    """Restores the packed tree of a file, bit for bit; raises as `from_bytes` does, naming the file."""
    try:
        return from_bytes(pathlib.Path(path).read_bytes(), limit=limit)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def to_bytes(params: Params) -> bytes:
    """Packs `params` and returns the bytes of its file, which are not read back; raises as `save` does."""
    return written(encode(params))


def written(leaves: Encoded) -> bytes:
    """Returns the bytes of the file of encoded leaves."""
    header = [[list(path), _described(coded)] for path, coded in leaves]
    stored = zlib.compress(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(), 9)
    body = b"".join(stream.data for _, coded in leaves for stream in _streams(coded))
    rest = struct.pack("<I", len(stored)) + stored + body
    return _PREFIX.pack(MAGIC, VERSION, zlib.crc32(rest), len(stored)) + rest[4:]


def default_limit(size: int) -> int:
    """Returns the bytes that a file of `size` bytes may ask for unless `load` is told another limit.

    64 MiB, or 1024 times its size if that is more. Weights of which one in a hundred is left and shares one of sixteen
    values take about a hundredth of their bytes, and what is a thousand times smaller has next to nothing left.
    """
    return max(2**26, 2**10 * size)


def from_bytes(data: bytes, *, limit: int | None = None) -> Params:
    """Restores the packed tree from the bytes of its file.

    Every length, shape, code and index is checked before it is used, and no more than `limit` bytes are allocated, as
    dense weights of four bytes (float64: eight) and the lists of entries that sliced weights keep; the working memory
    of decoding stays within ten times that. By default the limit is `default_limit` of the file's size. Raises
    ValueError, saying what is wrong and in which leaf, for anything that `to_bytes` did not write.
    """
    limit = default_limit(len(data)) if limit is None else limit
    header, body = _split(data)
    tree: dict[str, Any] = {}
    at, total = 0, 0
    for entry in _checked(header, list):
        path, described = _checked(entry, list, length=2)
        keys = tuple(_checked(key, str) for key in _checked(path, list))
        check_path(keys)
        try:
            coded, at = _undescribed(described, body, at)
            total += _needed_bytes(coded)
            if total > limit:
                raise ValueError(
                    f"the weights need {total} bytes or more, above the limit of {limit}, which the argument `limit` is"
                )
            _insert(tree, keys, arrays.decode(coded))
        except ValueError as error:
            raise ValueError(f"{'/'.join(keys)}: {error}") from error
    if at != len(body):
        raise ValueError(f"{len(body) - at} bytes follow the last stream")
    return tree


def encode(params: Params) -> Encoded:
    """Packs `params` and lays every leaf out as streams, by the keys of its path; raises as `save` does."""
    return _encoded(packed_tree(params))


def _encoded(stored: Params) -> Encoded:
    leaves: Encoded = []
    for keys, leaf in jax.tree_util.tree_flatten_with_path(stored, is_leaf=is_compressed)[0]:
        path = tuple(key.key for key in keys)
        try:
            leaves.append((path, arrays.encode(leaf)))
        except ValueError as error:
            raise ValueError(f"{'/'.join(path)}: {error}") from error
    return leaves


def overhead(file_size: int, leaves: Encoded) -> int:
    """Returns the bytes of a file that are not streams: its prefix and header."""
    return file_size - sum(len(stream.data) for _, coded in leaves for stream in _streams(coded))


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
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(stored, _HEADER_LIMIT)
        header = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number) if inflate.eof else None
    except (zlib.error, RecursionError, ValueError) as error:
        raise ValueError(f"the header cannot be read: {error}") from error
    if not inflate.eof or inflate.unused_data:
        raise ValueError(f"the header is not one zlib stream of at most {_HEADER_LIMIT} bytes")
    return header, data[_PREFIX.size + size :]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object; raises ValueError for a key that is given twice."""
    held = dict(pairs)
    if len(held) != len(pairs):
        raise ValueError(f"an object of the {len(pairs)} keys {ascii(list(held))[:60]} gives one twice")
    return held


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _checked(value: Any, kind: type, length: int | None = None) -> Any:
    if type(value) is not kind or (length is not None and len(value) != length):
        raise ValueError(f"the header holds {str(value)[:60]!r} where a {kind.__name__} belongs")
    return value


def _needed_bytes(coded: Coded) -> int:
    """Returns the bytes of a leaf's entries, four each but where the dtype is wider: what decoding it allocates.

    The entries that a sliced axis keeps are a tuple of integers, of 40 bytes each.
    """
    width = 8 if coded.attributes.get("dtype") == "float64" else 4
    shape = coded.shape() if "shape" in coded.attributes else (0,)
    cut = sum(n for axis, n in enumerate(shape) if any(stream.role == f"keep{axis}" for stream in coded.streams))
    return width * math.prod(shape) + 40 * cut + sum(_needed_bytes(part) for part in coded.parts.values())


def _insert(tree: dict[str, Any], keys: tuple[str, ...], leaf: Any) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if type(tree) is not dict:
            raise ValueError("the path goes through a leaf")
    if keys[-1] in tree:
        raise ValueError("the path is given twice")
    tree[keys[-1]] = leaf
