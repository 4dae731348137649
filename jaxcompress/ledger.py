"""The ledger: what a compressed model costs, leaf by leaf, to the last byte of its file."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np

from jaxcompress import arrays
from jaxcompress.coding import Coded, columns
from jaxcompress.export import packed
from jaxcompress.export.trees import packed_tree
from jaxcompress.interpreters.cost import macs
from jaxcompress.interpreters.memory import peak_memory
from jaxcompress.numerics import entropy, positions
from jaxcompress.paths import Params


@dataclass(frozen=True)
class Entry:
    """Accounts for one leaf: its dense form, what is left of it, and the bytes of each of its streams.

    `streams` maps ``role:coding`` to bytes, as stored. `alternatives` maps the same names for the codings that were
    tried and found longer to their bytes.
    """

    path: str
    kind: str
    parameters: int
    nonzero: int
    dense_bytes: int
    packed_bytes: int
    streams: dict[str, int]
    alternatives: dict[str, int]


@dataclass(frozen=True)
class Ledger:
    """Accounts for a model. ``packed_bytes`` is the size of the file that `jaxcompress.export.save` writes.

    `memory` is the peak of activations in bytes. It and the multiply-adds are None for parameters without a model.
    """

    entries: tuple[Entry, ...]
    overhead_bytes: int
    dense_macs: int | None = None
    macs: int | None = None
    dense_memory: int | None = None
    memory: int | None = None

    @property
    def dense_bytes(self) -> int:
        """The bytes of the dense weights."""
        return sum(entry.dense_bytes for entry in self.entries)

    @property
    def packed_bytes(self) -> int:
        """The bytes of the packed file, prefix and header included."""
        return self.overhead_bytes + sum(entry.packed_bytes for entry in self.entries)

    @property
    def rate(self) -> float:
        """How many times smaller the file is than the dense weights."""
        return self.dense_bytes / self.packed_bytes

    @property
    def parameters(self) -> int:
        """The number of weights of the dense model."""
        return sum(entry.parameters for entry in self.entries)

    @property
    def nonzero(self) -> int:
        """The number of stored values that are not zero."""
        return sum(entry.nonzero for entry in self.entries)

    def to_json(self) -> str:
        """Returns the ledger as JSON, totals included."""
        totals = {
            "dense_bytes": self.dense_bytes,
            "packed_bytes": self.packed_bytes,
            "rate": self.rate,
            "parameters": self.parameters,
            "nonzero": self.nonzero,
        }
        return json.dumps(asdict(self) | totals, indent=2)

    def __str__(self) -> str:
        """Prints the ledger as a table."""
        rows: list[tuple[str, ...]] = [("leaf", "kind", "weights", "nonzero", "dense B", "packed B", "x", "coding")]
        for entry in self.entries:
            codings = " ".join(name for name, size in entry.streams.items() if size)
            rows.append((_printable(entry.path), entry.kind, *_counts(entry), codings))
        rows.append(("(prefix, header)", "", "", "", "", f"{self.overhead_bytes:,}", "", ""))
        rows.append(("total", "", *_counts(self), ""))
        if self.macs is not None:
            rows.append(("multiply-adds", "", "", "", f"{self.dense_macs:,}", f"{self.macs:,}", "", ""))
        if self.memory is not None:
            rows.append(("activations, peak B", "", "", "", f"{self.dense_memory:,}", f"{self.memory:,}", "", ""))
        return _aligned(rows)


def ledger(apply: Callable[..., Any] | None, params: Params, *example: Any) -> Ledger:
    """Accounts for `params`, packed or not, by leaf and by coding.

    With `apply`, a lifted ``apply(params, *example)``, the multiply-adds of one call and its `peak_memory` are counted
    as well, dense and as compressed; give an `example` of one input to read them per input. Bytes are those of the
    packed file, exactly.
    """
    stored = packed_tree(params)
    coded = packed.encode(stored)
    size = len(packed.written(coded))
    leaves = jax.tree.leaves(stored, is_leaf=arrays.is_compressed)  # in the order in which they are coded
    entries = tuple(_entry("/".join(path), leaf, code) for leaf, (path, code) in zip(leaves, coded, strict=True))
    overhead = packed.overhead(size, coded)
    if apply is None:
        return Ledger(entries, overhead)
    counts = [count(apply, of, *example) for count in (macs, peak_memory) for of in (arrays.densify(stored), stored)]
    return Ledger(entries, overhead, *counts)


def _printable(path: str) -> str:
    """Escapes what would change the screen: a key may turn the direction of the text, and a ledger may be of any."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in path)


def _entry(path: str, leaf: Any, coded: Coded) -> Entry:
    streams = coded.bytes_by_coding()
    dense_bytes = leaf.size * np.dtype(leaf.dtype).itemsize
    return Entry(
        path=path,
        kind=_kind(leaf),
        parameters=leaf.size,
        nonzero=_nonzero(leaf),
        dense_bytes=dense_bytes,
        packed_bytes=sum(streams.values()),
        streams=streams,
        alternatives={name: size for name, size in _alternatives(leaf).items() if name not in streams},
    )


def _kind(leaf: Any) -> str:
    match leaf:
        case arrays.Masked():
            return f"Masked({_kind(leaf.weight)})"
        case arrays.Sliced():
            return f"Sliced({_kind(leaf.weight)})"
        case arrays.Zeros():
            return "Zeros"
        case arrays.Factored():
            return f"{type(leaf).__name__}({', '.join(map(_kind, leaf.parts()))})"
        case arrays.Summed():
            return f"Summed({_kind(leaf.first)}, {_kind(leaf.second)})"
        case arrays.Quantized():
            return f"Quantized {leaf.bits}-bit"
        case arrays.Clustered():
            return f"Clustered {leaf.centroids.shape[0]}"
        case arrays.PackedFloat8():
            return f"Float8 {leaf.format}"
        case arrays.Scaled():
            return f"Scaled({_kind(leaf.weight)})"
        case _:
            return str(leaf.dtype)


def _nonzero(leaf: Any) -> int:
    """Counts the values that a leaf stores and that are not zero; of factors, the entries of both."""
    match leaf:
        case arrays.Factored():
            return sum(map(_nonzero, leaf.parts()))
        case arrays.Summed():
            return _nonzero(leaf.first) + _nonzero(leaf.second)
        case arrays.Sliced():
            return _nonzero(leaf.weight)
        case arrays.Masked() if isinstance(leaf.weight, arrays.Factored):
            return _nonzero(leaf.weight)
        case _:
            return int(np.count_nonzero(np.asarray(arrays.dense(leaf))))


def _alternatives(leaf: Any) -> dict[str, int]:
    """Returns the bytes of a sparse or clustered leaf's streams under every coding."""
    match leaf:
        case arrays.Sliced():
            return _alternatives(leaf.weight)
        case arrays.Masked():
            mask = np.asarray(leaf.mask)
            bits = positions.mask_bits(mask.reshape(-1), columns(mask.shape))
            by_mask = {f"mask:{name}": count // 8 for name, count in bits.items()}
            return by_mask | _alternatives_of_codes(leaf.weight, mask)
        case arrays.Clustered():
            return _alternatives_of_codes(leaf, np.ones(leaf.shape, bool))
        case _:
            return {}


def _alternatives_of_codes(leaf: Any, mask: np.ndarray) -> dict[str, int]:
    if not isinstance(leaf, arrays.Clustered):
        return {}
    bits = entropy.symbol_bits(np.asarray(leaf.codes)[mask], leaf.centroids.shape[0])
    return {f"codes:{name}": count // 8 for name, count in bits.items()}


def _counts(account: Entry | Ledger) -> tuple[str, ...]:
    rate = account.dense_bytes / max(1, account.packed_bytes)
    counted = (account.parameters, account.nonzero, account.dense_bytes, account.packed_bytes)
    return (*(f"{n:,}" for n in counted), f"{rate:.1f}")


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = (0, 1, len(widths) - 1)  # text to the left, numbers to the right
    lines = [
        "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
