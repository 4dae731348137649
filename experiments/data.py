"""Reads the image sets that the experiments train on: digits, MNIST, Fashion-MNIST and CIFAR-10.

Images stay uint8 as published; the trainer maps them to float32 on the device. Files come from the directory
given by the `data_dir` argument, else from the one that JAXCOMPRESS_DATA names, else from the user's cache,
which alone is filled by downloading. Every file is checked against a table of checksums before it is parsed,
and nothing is unpickled.

    mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz
    fashion-mnist/                                          the same four names
    cifar-10-batches-bin/{data_batch_1,...,data_batch_5,test_batch}.bin
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import math
import os
import struct
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pooch

NAMES = ("digits", "mnist", "fashion-mnist", "cifar-10")
CLASSES = 10  # in each of the sets above
CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"

Checksums = Mapping[str, Sequence[str]]

# Path below the data directory -> accepted MD5s, the publisher's first (the one a download must have).
# The second MD5 of a CIFAR-10 file is a copy rebuilt from a lossless mosaic in which 105 of the 60,000 images
# (82 training, 23 test) are JPEG decodes; it is fit for testing, and `fingerprint` tells the two apart.
ACCEPTED: Checksums = {
    "mnist/train-images-idx3-ubyte.gz": ("f68b3c2dcbeaaa9fbdd348bbdeb94873",),
    "mnist/train-labels-idx1-ubyte.gz": ("d53e105ee54ea40749a09fcbcd1e9432",),
    "mnist/t10k-images-idx3-ubyte.gz": ("9fb629c4189551a2d022fa330f9573f3",),
    "mnist/t10k-labels-idx1-ubyte.gz": ("ec29112dd5afa0611ce80d1b7f02629c",),
    "fashion-mnist/train-images-idx3-ubyte.gz": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d",),
    "fashion-mnist/train-labels-idx1-ubyte.gz": ("25c81989df183df01b3e8a0aad5dffbe",),
    "fashion-mnist/t10k-images-idx3-ubyte.gz": ("bef4ecab320f06d8554ea6380940ec79",),
    "fashion-mnist/t10k-labels-idx1-ubyte.gz": ("bb300cfdad3c16e7a12a480ee83cd310",),
    CIFAR_ARCHIVE: ("c32a1d4ab5d03f1284b67883e8d87530",),
    "cifar-10-batches-bin/data_batch_1.bin": (
        "5dd7e06a14cb22eb9f671a540d1b7c25",
        "e8800bf27ec6f45491f149f7317b9608",
    ),
    "cifar-10-batches-bin/data_batch_2.bin": (
        "5ea93a67294ea407fff1d09f752e9692",
        "1bb2d7e74730a6de1041faa9416eba9b",
    ),
    "cifar-10-batches-bin/data_batch_3.bin": (
        "942cd6a4bcdd0dd3c604fbe906cb4421",
        "a07657a99d38d72989b3d36914cccca1",
    ),
    "cifar-10-batches-bin/data_batch_4.bin": (
        "ae636b3ba5c66a11e91e8cb52e771fcb",
        "283bd9849c582269bbeca495e3d1e985",
    ),
    "cifar-10-batches-bin/data_batch_5.bin": (
        "53f37980c15c3d472c316c40844f3f0d",
        "bb2cb22b9fb926de4da54317ccfe567b",
    ),
    "cifar-10-batches-bin/test_batch.bin": (
        "803d5f7f4d78ea53de84dbe85f74fb6d",
        "93c50caff54ea4ec07fd1329bab59d6e",
    ),
}

# Where each set is published, tried in order. LeCun's own host is unreliable, so MNIST comes from the two
# mirrors that the field uses.
MIRRORS: Mapping[str, Sequence[str]] = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    "cifar-10": ("https://www.cs.toronto.edu/~kriz/",),
}


class Split(NamedTuple):
    """Holds examples in a fixed order: `images` (n, h, w, c) uint8, `labels` (n,) int32, both read-only."""

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
    accepted: Checksums = ACCEPTED,
) -> Dataset:
    """Loads "digits", "mnist", "fashion-mnist" or "cifar-10".

    `validation` is how many examples, the last of the training set in file order, are held out of it (0 or
    more, fewer than there are: digits has 1437). `limit` then keeps the first `limit` examples of each split,
    for quick runs. `accepted` maps each file to the MD5s it may have. Raises ValueError for an unknown name,
    a bad count or a corrupted file, FileNotFoundError for a file absent from a directory that the user named,
    OSError when no mirror serves it.
    """
    if name not in NAMES:
        close = difflib.get_close_matches(name.lower(), NAMES, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"no data set is called {name!r}{hint} The names are {', '.join(NAMES)}.")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} keeps no examples; give a count of at least 1, or None for all")
    if name == "digits":
        train, test = _digits()
    else:
        root = locate(name, data_dir, accepted)
        train, test = _cifar(root, accepted) if name == "cifar-10" else _mnist(root, name, accepted)
    count = len(train.labels)
    if not 0 <= validation < count:
        raise ValueError(
            f"validation={validation} must be at least 0 and below the {count} training examples of {name}"
        )
    kept = count - validation
    splits = _take(train, 0, kept), _take(train, kept, count), test
    return Dataset(name, *(_take(split, 0, limit) for split in splits), classes=CLASSES)


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


def files(name: str) -> tuple[str, ...]:
    """Lists the files of set `name`, as paths below the data directory, training files first."""
    if name == "cifar-10":
        stems = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
        return tuple(f"cifar-10-batches-bin/{stem}.bin" for stem in stems)
    kinds = ("images-idx3", "labels-idx1")
    return tuple(f"{name}/{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in kinds)


# --- where the files come from


def locate(name: str, data_dir: str | os.PathLike[str] | None = None, accepted: Checksums = ACCEPTED) -> Path:
    """Finds the directory that holds every file of `name`, downloading only when the user named no directory.

    A named directory (`data_dir`, else JAXCOMPRESS_DATA) is never written to: FileNotFoundError says what it
    lacks.
    """
    named = data_dir or os.environ.get("JAXCOMPRESS_DATA")
    if not named:
        root = Path(pooch.os_cache("jaxcompress"))
        fetch(name, root, accepted=accepted)
        return root
    root = Path(named).expanduser()
    missing = [path for path in files(name) if not (root / path).is_file()]
    if missing:
        origin = "data_dir" if data_dir else "JAXCOMPRESS_DATA"
        source = MIRRORS[name][0] + (CIFAR_ARCHIVE if name == "cifar-10" else "")
        raise FileNotFoundError(
            f"{root / missing[0]} does not exist. The directory given by {origin} must hold"
            f" {', '.join(files(name))} (missing: {len(missing)} of {len(files(name))})."
            f" Put the files there from {source}, or name no directory to have them downloaded to the cache."
        )
    return root


def fetch(
    name: str, root: Path, *, mirrors: Mapping[str, Sequence[str]] = MIRRORS, accepted: Checksums = ACCEPTED
) -> None:
    """Downloads into `root` whatever files of `name` it lacks; a complete set is left alone."""
    if name != "cifar-10":
        for path in files(name):
            urls = [base + Path(path).name for base in mirrors[name]]
            download(urls, accepted[path][0], root / path)
    elif not all((root / path).is_file() for path in files(name)):
        archive = root / CIFAR_ARCHIVE
        download([base + CIFAR_ARCHIVE for base in mirrors[name]], accepted[CIFAR_ARCHIVE][0], archive)
        _extract(archive, files(name), root)
        archive.unlink()  # 170 MB that nothing reads again


def download(urls: Sequence[str], md5: str, target: Path) -> Path:
    """Downloads `target` from the first of `urls` that serves bytes whose MD5 is `md5`, and returns it.

    A file already there with that checksum is kept, without touching the network; another is replaced.
    OSError tells how each URL failed.
    """
    failures = []
    for url in urls:
        try:
            pooch.retrieve(
                url,
                known_hash=f"md5:{md5}",
                fname=target.name,
                path=target.parent,
                downloader=pooch.HTTPDownloader(progressbar=True),  # pyright: ignore (it is one of pooch)
            )
            return target
        except (OSError, ValueError) as error:  # unreachable or refused (requests); wrong checksum (pooch)
            failures.append(f"\n  {url}: {error}")
    raise OSError(
        f"could not download {target} with MD5 {md5}; tried in order:{''.join(failures)}\n"
        "Without network, put the files in a directory and name it by data_dir or JAXCOMPRESS_DATA."
    )


def _extract(archive: Path, members: Sequence[str], root: Path) -> None:
    """Writes the named members of a tar file, and no others, below `root`."""
    with tarfile.open(archive) as tar:
        for member in members:
            source = tar.extractfile(member)
            if source is None:
                raise ValueError(f"{archive}: {member} is not a regular file")
            target = root / member
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(".partial")  # an interrupted run must not leave half a file
            partial.write_bytes(source.read())
            partial.replace(target)


def _verified(path: Path, accepted: Sequence[str]) -> bytes:
    """Reads a file whose MD5 is one of `accepted`; ValueError otherwise."""
    raw = path.read_bytes()
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if found not in accepted:
        raise ValueError(
            f"{path} is corrupted or another version: its MD5 is {found}, accepted: {', '.join(accepted)}."
            " Delete it and get it again."
        )
    return raw


# --- what the files say


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


def parse_cifar(raw: bytes, source: str) -> Split:
    """Parses a CIFAR-10 binary file (Krizhevsky 2009) into images (n, 32, 32, 3) and labels (n,).

    A record is one label byte and 3072 pixel bytes: the red plane, the green, the blue, each row by row.
    ValueError, naming `source`, when the length is not a whole number of records or a label is not a class;
    that a file holds all 10,000 records its checksum tells.
    """
    record = 1 + 3 * 32 * 32
    if not raw or len(raw) % record:
        raise ValueError(f"{source}: {len(raw)} bytes are not a whole, positive number of {record}-byte records")
    rows = np.frombuffer(raw, np.uint8).reshape(-1, record)
    return _split(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0], source)


def _mnist(root: Path, name: str, accepted: Checksums) -> tuple[Split, Split]:
    """Reads the four gzipped IDX files of MNIST or Fashion-MNIST as (train, test)."""

    def read(path: str, ndim: int) -> np.ndarray:
        raw = _verified(root / path, accepted[path])
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{root / path}: not a whole gzip file ({error})") from error
        return parse_idx(raw, ndim, str(root / path))

    def split(images: str, labels: str) -> Split:
        return _split(read(images, 3)[..., None], read(labels, 1), str(root / images))

    paths = files(name)
    return split(*paths[:2]), split(*paths[2:])


def _cifar(root: Path, accepted: Checksums) -> tuple[Split, Split]:
    """Reads the six binary files of CIFAR-10 as (train, test)."""
    batches = [parse_cifar(_verified(root / path, accepted[path]), str(root / path)) for path in files("cifar-10")]
    *training, test = batches
    images, labels = (np.concatenate(parts) for parts in zip(*training, strict=True))
    return _split(images, labels, str(root)), test


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


def _split(images: np.ndarray, labels: np.ndarray, source: str) -> Split:
    """Makes a Split of contiguous read-only arrays; ValueError for unequal counts or a label not a class."""
    if len(images) != len(labels):
        raise ValueError(f"{source}: {len(images)} images but {len(labels)} labels")
    if labels.max() >= CLASSES:
        raise ValueError(f"{source}: label {labels.max()} is not in 0..{CLASSES - 1}")
    split = Split(np.ascontiguousarray(images), labels.astype(np.int32))
    for array in split:
        array.flags.writeable = False  # one loaded set is shared by every run in a process
    return split


def _take(split: Split, start: int, stop: int | None) -> Split:
    """Keeps examples start..stop-1 as views; `stop` may be None or past the end."""
    return Split(split.images[start:stop], split.labels[start:stop])
