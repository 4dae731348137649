"""Reads the image sets that the experiments train on: digits, MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100.

Images stay uint8 as published; they become float32 on the device (`experiments.build.scaled`). Nothing is unpickled.
"""

import difflib
import gzip
import hashlib
import math
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.downloads import ACCEPTED, Checksums, files, locate, verified

CLASSES = {"digits": 10, "mnist": 10, "fashion-mnist": 10, "cifar-10": 10, "cifar-100": 100}


class Split(NamedTuple):
    """Holds examples in a fixed order: `images` (n, h, w, c), `labels` (n,) int32, both read-only.

    Images are uint8 from 0 to 255, or floats that a model is given as they are.
    """

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """Holds one image set, cut into disjoint splits; labels lie in 0..classes-1."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    validation: int = 5000,
    limit: int | None = None,
    labels: int | None = None,
    accepted: Checksums = ACCEPTED,
) -> Dataset:
    """Loads "digits", "mnist", "fashion-mnist", "cifar-10" or "cifar-100", the last with its 100 fine labels.

    `validation` is how many examples, the last of the training set in file order, are held out of it (0 or
    more, fewer than there are: digits has 1437). `limit` then keeps the first `limit` examples of each split,
    for quick runs, and `labels` the first of the training set alone, as if there were no more. `accepted` maps
    each file to the MD5s it may have. Raises ValueError for an unknown name, a bad count or a corrupted file,
    FileNotFoundError for a file absent from a directory that the user named, OSError when no mirror serves it.
    """
    if name not in CLASSES:
        close = difflib.get_close_matches(name.lower(), CLASSES, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"no data set is called {name!r}{hint} The names are {', '.join(CLASSES)}.")
    for option, kept in (("limit", limit), ("labels", labels)):
        if kept is not None and kept < 1:
            raise ValueError(f"{option}={kept} keeps no examples; give a count of at least 1, or None for all")
    if name == "digits":
        train, test = _digits()
    else:
        root = locate(name, data_dir, accepted)
        train, test = _cifar(root, name, accepted) if name.startswith("cifar") else _mnist(root, name, accepted)
    count = len(train.labels)
    if not 0 <= validation < count:
        raise ValueError(
            f"validation={validation} must be at least 0 and below the {count} training examples of {name}"
        )
    kept = count - validation
    training, held_out = _take(train, 0, kept), _take(train, kept, count)
    splits = [_take(split, 0, limit) for split in (training, held_out, test)]
    return Dataset(name, _take(splits[0], 0, labels), *splits[1:], classes=CLASSES[name])


def drawn(split: Split, count: int, seed: int) -> Split:
    """Draws `count` examples of a split without repetition by a seed, all if there are fewer, in the split's order."""
    chosen = drawn_rows(len(split.labels), count, seed)
    return Split(split.images[chosen], split.labels[chosen])


def drawn_rows(total: int, count: int, seed: int) -> np.ndarray:
    """Draws the places of `count` examples of `total` as `drawn` does."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


def fingerprint(dataset: Dataset) -> str:
    """Hashes every array of `dataset`, with its type and shape, to 64 hexadecimal digits (SHA-256).

    Runs record it: two runs with equal fingerprints saw the same examples in the same order and splits.
    """
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.validation, dataset.test):
        labels = split.labels.astype("<i4", copy=False)  # the same bytes on every machine
        for array in (split.images, labels):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def parse_idx(raw: bytes, ndim: int, source: str) -> np.ndarray:
    """Parses an IDX file of unsigned bytes into a uint8 array of `ndim` axes.

    Layout (LeCun, Cortes, Burges): 0, 0, 8 (unsigned byte), ndim; ndim big-endian uint32 sizes; the bytes,
    last axis fastest. ValueError, naming `source`, when the magic number, the sizes or the length disagree.
    """
    magic = bytes((0, 0, 8, ndim))
    if raw[:4] != magic:
        raise ValueError(f"{source}: IDX magic number is 0x{raw[:4].hex()}, expected 0x{magic.hex()}")
    start = 4 + 4 * ndim
    if len(raw) < start:
        raise ValueError(f"{source}: IDX header is cut short at {len(raw)} of {start} bytes")
    shape = struct.unpack(f">{ndim}I", raw[4:start])
    expected = start + math.prod(shape)
    if 0 in shape or len(raw) != expected:
        raise ValueError(f"{source}: IDX sizes {shape} need {expected} bytes and no empty axis, found {len(raw)} bytes")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def parse_cifar(raw: bytes, source: str, *, coarse: bool = False, classes: int = 10) -> Split:
    """Parses a CIFAR binary file (Krizhevsky 2009) into images (n, 32, 32, 3) and labels (n,).

    A record is one label byte, behind another of the `coarse` label in CIFAR-100, and 3072 pixel bytes: the red plane,
    the green, the blue, each row by row. ValueError, naming `source`, when the length is not a whole number of records
    or a label is not one of the `classes`; that a file holds all its records its checksum tells.
    """
    start = 2 if coarse else 1
    record = start + 3 * 32 * 32
    if not raw or len(raw) % record:
        raise ValueError(f"{source}: {len(raw)} bytes are not a whole, positive number of {record}-byte records")
    rows = np.frombuffer(raw, np.uint8).reshape(-1, record)
    images = rows[:, start:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return _split(images, rows[:, start - 1], source, classes)


def _mnist(root: Path, name: str, accepted: Checksums) -> tuple[Split, Split]:
    """Reads the four gzipped IDX files of MNIST or Fashion-MNIST as (train, test)."""

    def read(path: str, ndim: int) -> np.ndarray:
        raw = verified(root / path, accepted[path])
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{root / path}: not a whole gzip file ({error})") from error
        return parse_idx(raw, ndim, str(root / path))

    def split(images: str, labels: str) -> Split:
        return _split(read(images, 3)[..., None], read(labels, 1), str(root / images))

    paths = files(name)
    return split(*paths[:2]), split(*paths[2:])


def _cifar(root: Path, name: str, accepted: Checksums) -> tuple[Split, Split]:
    """Reads the binary files of CIFAR-10 or CIFAR-100 as (train, test)."""
    options = {"coarse": name == "cifar-100", "classes": CLASSES[name]}
    batches = [parse_cifar(verified(root / path, accepted[path]), str(root / path), **options) for path in files(name)]
    *training, test = batches
    images, labels = (np.concatenate(parts) for parts in zip(*training, strict=True))
    return _split(images, labels, str(root), CLASSES[name]), test


def _digits() -> tuple[Split, Split]:
    """Splits scikit-learn's 8x8 digits (Alpaydin, Kaynak 1998) into 1437 training and 360 test examples.

    Pixels 0..16 become 0..240 by an exact multiplication by 15. The stratified split is drawn once and for
    all with random state 0; both parts keep the order it drew.
    """
    # Imported here: it takes a second that the other sets need not wait for.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    images = (pixels * 15).astype(np.uint8).reshape(-1, 8, 8, 1)
    rows = np.arange(len(labels))
    train, test = map(np.asarray, train_test_split(rows, test_size=0.2, stratify=labels, random_state=0))
    return _split(images[train], labels[train], "digits"), _split(images[test], labels[test], "digits")


def _split(images: np.ndarray, labels: np.ndarray, source: str, classes: int = 10) -> Split:
    """Makes a Split of contiguous read-only arrays; ValueError for unequal counts or a label not a class."""
    if len(images) != len(labels):
        raise ValueError(f"{source}: {len(images)} images but {len(labels)} labels")
    if labels.max() >= classes:
        raise ValueError(f"{source}: label {labels.max()} is not in 0..{classes - 1}")
    split = Split(np.ascontiguousarray(images), labels.astype(np.int32))
    for array in split:
        array.flags.writeable = False  # one loaded set is shared by every run in a process
    return split


def _take(split: Split, start: int, stop: int | None) -> Split:
    """Keeps examples start..stop-1 as views; `stop` may be None or past the end."""
    return Split(split.images[start:stop], split.labels[start:stop])
