"""Mutates packed files under a right checksum and reads them: ``python tests/export/fuzz_packed.py 200000 [seed]``.

Every leaf of the contract is a seed. The header is mutated as JSON and as text, the streams as bytes, the stored header
as what zlib reads. Whatever comes of it is read, within 2 seconds and ten times the memory that the file may ask for,
or refused by a ValueError; what is read is written and read again, to the same bytes (of the long form every tenth).
"""

import copy
import json
import pathlib
import random
import resource
import struct
import sys
import time
import tracemalloc
import zlib
from collections import Counter
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from jaxcompress.arrays import kinds
from jaxcompress.coding import DTYPES
from jaxcompress.export.packed import from_bytes, to_bytes
from jaxcompress.numerics.entropy import SYMBOL_CODINGS
from jaxcompress.numerics.positions import POSITION_CODINGS
from tests.arrays.test_contract import LEAVES

LIMIT = 2**20  # bytes of weights that a mutated file may ask for
SECONDS, TIMES = 2.0, 10
PREFIX = struct.Struct("<4sBII")
NUMBERS = (*range(-2, 10), 15, 16, 255, 256, 2**16, 2**20, 2**31, 2**32, 2**62, 2**63, 2**64, 10**40, 0.5, -0.0, 1e308)
WORDS = (
    *DTYPES,
    *SYMBOL_CODINGS,
    *POSITION_CODINGS,
    *sorted(kinds()),
    "raw",
    "array",
    "weight",
    "shape",
    "e4m3",
    "\x1b",
)


class Seed(NamedTuple):
    """Holds a packed file as its header and its streams."""

    header: Any
    body: bytes


def seeds() -> list[Seed]:
    """Returns a file for every leaf of the contract, and one of a few of them together."""
    trees = [{"layer": {name: make()}} for name, make in LEAVES.items()]
    trees.append({name: LEAVES[name]() for name in list(LEAVES)[::9]})
    return [_opened(to_bytes(tree)) for tree in trees]


def mutated(draw: random.Random, files: list[Seed]) -> bytes:
    """Returns a file of right prefix and checksum that was changed in one to four places."""
    header, body = draw.choice(files)
    header = copy.deepcopy(header)
    text: bytes | None = None
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        match draw.randrange(6):
            case 0 | 1:
                header = _changed(draw, header)
            case 2:
                other = draw.choice(files)
                if type(header) is list:
                    header, body = header + copy.deepcopy(other.header), body + other.body
            case 3 | 4:
                body = _scrambled(draw, body)
            case _:
                text = _scrambled(draw, json.dumps(header).encode())
    stored = zlib.compress(json.dumps(header).encode() if text is None else text, 1)
    return _file(_scrambled(draw, stored) if draw.random() < 0.05 else stored, body)


def outcome(data: bytes, rewrite: bool = True) -> str:
    """Reads a file within the bounds and returns ``read`` or ``refused``; raises AssertionError beyond them."""
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    start, result = time.process_time(), "read"
    try:
        tree = from_bytes(data, limit=LIMIT)
    except ValueError:
        tree, result = None, "refused"
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1] - before
    assert seconds < SECONDS, f"{seconds:.1f} s for {data!r}"
    assert peak < TIMES * max(LIMIT, len(data)), f"{peak} bytes for {data!r}"
    if tree and rewrite:
        again = to_bytes(tree)
        assert to_bytes(from_bytes(again)) == again, f"written otherwise: {data!r}"
    return result


def fuzz(count: int, seed: int, every: int = 1) -> Counter[str]:
    """Reads `count` mutated files, writes one in `every` again if it is read, and counts what came of them."""
    draw, files, outcomes = random.Random(seed), seeds(), Counter[str]()
    tracemalloc.start()
    try:
        for done in range(count):
            data = mutated(draw, files)
            try:
                outcomes[outcome(data, rewrite=done % every == 0)] += 1
            except Exception as error:
                raise AssertionError(
                    f"file {done} of seed {seed}: {type(error).__name__}: {error}: {data!r}"
                ) from error
            if (done + 1) % 20_000 == 0:
                print(f"{done + 1:,}: {dict(outcomes)}", flush=True)
    finally:
        tracemalloc.stop()
    return outcomes


def _opened(data: bytes) -> Seed:
    size = PREFIX.unpack_from(data)[3]
    return Seed(json.loads(zlib.decompress(data[PREFIX.size : PREFIX.size + size])), data[PREFIX.size + size :])


def _file(stored: bytes, body: bytes) -> bytes:
    rest = struct.pack("<I", len(stored)) + stored + body
    return b"JCPK\x01" + struct.pack("<I", zlib.crc32(rest)) + rest


def _places(header: Any) -> list[tuple[Any, Any]]:
    """Lists every container and key of a header."""
    found: list[tuple[Any, Any]] = []

    def visit(value: Any) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            found.append((value, key))
            visit(inner)

    visit(header)
    return found


def _changed(draw: random.Random, header: Any) -> Any:
    """Changes one place of a header: another value, another's value, none, twice, nested, or a number next to it."""
    places = _places(header)
    if not places:
        return draw.choice(NUMBERS)
    container, key = draw.choice(places)
    value = container[key]
    match draw.randrange(7):
        case 0:
            container[key] = draw.choice(NUMBERS)
        case 1:
            container[key] = draw.choice(WORDS)
        case 2:
            other, name = draw.choice(places)
            container[key] = copy.deepcopy(other[name])
        case 3:
            del container[key]
        case 4 if isinstance(container, list):
            container.insert(key, copy.deepcopy(value))
        case 5:
            container[key] = [value] * draw.choice((1, 2, 70)) if draw.random() < 0.5 else {"weight": value}
        case _ if type(value) is int:
            container[key] = (
                value + draw.choice((-1, 1, 8)) if draw.random() < 0.7 else value * draw.choice((2, 3, 1000))
            )
    return header


def _scrambled(draw: random.Random, data: bytes) -> bytes:
    """Changes bytes: some flipped, cut out, doubled, put in, or all of one value."""
    start = draw.randrange(len(data) + 1)
    end = min(len(data), start + draw.choice((1, 1, 2, 4, 40)))
    piece = data[start:end]
    match draw.randrange(5):
        case 0:
            piece = bytes(byte ^ (1 << draw.randrange(8)) for byte in piece)
        case 1:
            piece = b""
        case 2:
            piece += piece
        case 3:
            piece = draw.randbytes(draw.choice((1, 2, 4, 8)))
        case _:
            piece = draw.choice((b"\x00", b"\xff", b"\x7f", b"9", b'"')) * len(piece)
    return data[:start] + piece + data[end:]


if __name__ == "__main__":
    number, first = (int(text) for text in (*sys.argv[1:], "200000", "0")[:2])
    began = time.process_time()
    counts = dict(fuzz(number, first, every=10))
    print(f"seed {first}: {counts} of {number:,}, only ValueError, none above {SECONDS:g} s or")
    print(f"{TIMES} x {LIMIT:,} bytes; {time.process_time() - began:.0f} s of CPU time;", end=" ")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB resident at most")
