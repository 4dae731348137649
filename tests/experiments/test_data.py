"""Tests the readers on small files written here in the published formats, downloads on a local server."""

import gzip
import hashlib
import os
import struct
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import data, downloads

TRAIN, TEST = 12, 5

# Of load("digits", validation=200), computed here with scikit-learn 1.9.1 and numpy 2.4.6. A change means
# that the split or the scaling moved, so that old runs do not compare with new ones.
DIGITS_FINGERPRINT = "e086075af05a91622d492ef4f1a0e12bf1e0a15cde5004f4e0d2698293608b1d"


def idx(array: np.ndarray) -> bytes:
    """Writes a uint8 array as IDX."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def md5(raw: bytes) -> str:
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()


def examples(rng: np.random.Generator, n: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return rng.integers(0, 256, (n, *shape), np.uint8), (np.arange(n) % 10).astype(np.uint8)


def write(root: Path, contents: dict[str, bytes]) -> dict[str, tuple[str, ...]]:
    """Writes files below `root` and returns their table of checksums."""
    for path, raw in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(raw)
    return {path: (md5(raw),) for path, raw in contents.items()}


def mnist_files(name: str = "mnist") -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """Makes the four files of a tiny MNIST, 12 + 5 images of 4x3; also returns all images and labels."""
    images, labels = examples(np.random.default_rng(0), TRAIN + TEST, (4, 3))
    parts = (images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:])
    packed = (gzip.compress(idx(part), mtime=0) for part in parts)
    return dict(zip(downloads.files(name), packed, strict=True)), images, labels


def cifar_files() -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """Makes the six files of a tiny CIFAR-10, two images in each; returns also all planar images, labels."""
    planes, labels = examples(np.random.default_rng(1), 12, (3, 32, 32))
    records = np.concatenate([labels[:, None], planes.reshape(12, -1)], axis=1)
    batches = (records[i : i + 2].tobytes() for i in range(0, 12, 2))
    return dict(zip(downloads.files("cifar-10"), batches, strict=True)), planes, labels


@pytest.fixture(autouse=True)
def no_directory_named(request, monkeypatch):
    """Hides the developer's JAXCOMPRESS_DATA, except from the test that reads the real sets."""
    if request.node.get_closest_marker("data") is None:
        monkeypatch.delenv("JAXCOMPRESS_DATA", raising=False)


@pytest.fixture
def mnist(tmp_path):
    """Lays out a tiny MNIST; returns its directory and checksums."""
    return tmp_path, write(tmp_path, mnist_files()[0])


# --- reading


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_sets_hold_what_was_written(tmp_path, name):
    contents, images, labels = mnist_files(name)
    accepted = write(tmp_path, contents)
    loaded = data.load(name, data_dir=tmp_path, validation=3, accepted=accepted)
    assert (loaded.name, loaded.classes) == (name, 10)
    np.testing.assert_array_equal(loaded.train.images, images[: TRAIN - 3, ..., None])
    np.testing.assert_array_equal(loaded.validation.images, images[TRAIN - 3 : TRAIN, ..., None])
    np.testing.assert_array_equal(loaded.test.images, images[TRAIN:, ..., None])
    np.testing.assert_array_equal(np.concatenate([s.labels for s in loaded[1:4]]), labels)
    for split in loaded[1:4]:
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        assert not split.images.flags.writeable and not split.labels.flags.writeable


def test_cifar_keeps_file_order_and_moves_channels_last(tmp_path):
    contents, planes, labels = cifar_files()
    loaded = data.load("cifar-10", data_dir=tmp_path, validation=4, accepted=write(tmp_path, contents))
    images = np.concatenate([split.images for split in loaded[1:4]])
    assert [len(split.labels) for split in loaded[1:4]] == [6, 4, 2]
    for channel in range(3):
        np.testing.assert_array_equal(images[..., channel], planes[:, channel])
    np.testing.assert_array_equal(np.concatenate([split.labels for split in loaded[1:4]]), labels)


def test_cifar_100_is_read_by_its_fine_labels(tmp_path):
    planes, _ = examples(np.random.default_rng(1), 6, (3, 32, 32))
    coarse, fine = np.arange(6, dtype=np.uint8), np.array([99, 0, 50, 1, 98, 7], np.uint8)
    records = np.concatenate([coarse[:, None], fine[:, None], planes.reshape(6, -1)], axis=1)
    contents = dict(zip(downloads.files("cifar-100"), (records[:4].tobytes(), records[4:].tobytes()), strict=True))
    loaded = data.load("cifar-100", data_dir=tmp_path, validation=1, accepted=write(tmp_path, contents))
    assert loaded.classes == 100
    np.testing.assert_array_equal(np.concatenate([split.labels for split in loaded[1:4]]), fine)
    images = np.concatenate([split.images for split in loaded[1:4]])
    np.testing.assert_array_equal(images, planes.transpose(0, 2, 3, 1))


def test_directory_may_come_from_the_environment(mnist, monkeypatch):
    root, accepted = mnist
    monkeypatch.setenv("JAXCOMPRESS_DATA", str(root))
    assert len(data.load("mnist", validation=2, accepted=accepted).train.labels) == TRAIN - 2


def test_argument_wins_over_the_environment(mnist, monkeypatch):
    root, accepted = mnist
    monkeypatch.setenv("JAXCOMPRESS_DATA", str(root / "nowhere"))
    assert len(data.load("mnist", data_dir=root, validation=2, accepted=accepted).test.labels) == TEST


@pytest.mark.skipif(sys.platform != "linux", reason="only there XDG_CACHE_HOME moves the cache")
def test_complete_cache_is_read_without_network(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    accepted = write(tmp_path / "jaxcompress", mnist_files()[0])
    assert len(data.load("mnist", validation=2, accepted=accepted).test.labels) == TEST


# --- digits, splits, limits


def test_digits_are_scaled_exactly_and_always_the_same():
    first, second = (data.load("digits", validation=200) for _ in range(2))
    assert [split.images.shape for split in first[1:4]] == [(1237, 8, 8, 1), (200, 8, 8, 1), (360, 8, 8, 1)]
    assert set(np.unique(first.train.images)) == set(range(0, 241, 15))
    assert np.bincount(first.test.labels).min() >= 34  # stratified: 20 % of 174..183 in each class
    assert data.fingerprint(first) == data.fingerprint(second) == DIGITS_FINGERPRINT


@given(validation=st.integers(0, TRAIN - 1), limit=st.none() | st.integers(1, TRAIN + 2))
def test_splits_are_disjoint_ordered_and_limited(tmp_path_factory, validation, limit):
    contents, images, _ = mnist_files()
    root = tmp_path_factory.mktemp("mnist")
    loaded = data.load("mnist", data_dir=root, validation=validation, limit=limit, accepted=write(root, contents))
    wanted = images[: TRAIN - validation], images[TRAIN - validation : TRAIN], images[TRAIN:]
    for split, part in zip(loaded[1:4], wanted, strict=True):
        np.testing.assert_array_equal(split.images[..., 0], part[:limit])
        assert len(split.images) == len(split.labels)


@pytest.mark.parametrize("validation", [-1, 1437, 5000])
def test_impossible_validation_counts_are_refused(validation):
    with pytest.raises(ValueError, match=f"validation={validation}.*1437"):
        data.load("digits", validation=validation)


def test_limit_must_keep_something():
    with pytest.raises(ValueError, match="limit=0"):
        data.load("digits", validation=10, limit=0)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("cifar10", "cifar-10"), ("cifar100", "cifar-100"), ("MNIST", "mnist"), ("fashion", "fashion-mnist")],
)
def test_unknown_name_suggests_the_closest(wrong, right):
    with pytest.raises(ValueError, match=f"{wrong!r}; did you mean {right!r}.*digits, mnist"):
        data.load(wrong)


def test_name_like_no_other_gets_the_list_alone():
    with pytest.raises(ValueError, match=r"'xyz'\. The names are digits, mnist"):
        data.load("xyz")


def test_fingerprint_sees_pixels_labels_splits_and_order(mnist):
    root, accepted = mnist
    load = partial(data.load, "mnist", data_dir=root, accepted=accepted)
    base = load(validation=3)
    flipped = data.Split(base.train.images[::-1], base.train.labels)
    relabelled = data.Split(base.train.images, base.train.labels[::-1])
    variants = [base, load(validation=2), load(validation=0), load(validation=3, limit=2)]
    variants += [base._replace(train=flipped), base._replace(train=relabelled)]
    assert len({data.fingerprint(variant) for variant in variants}) == len(variants)


# --- files that are not what they should be


def test_missing_file_is_named_and_nothing_is_written(mnist):
    root, accepted = mnist
    gone = root / downloads.files("mnist")[1]
    gone.unlink()
    before = sorted(root.rglob("*"))
    with pytest.raises(FileNotFoundError, match="train-labels-idx1.*data_dir.*1 of 4.*https://"):
        data.load("mnist", data_dir=root, validation=2, accepted=accepted)
    assert sorted(root.rglob("*")) == before


def test_missing_directory_from_the_environment_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXCOMPRESS_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"JAXCOMPRESS_DATA.*6 of 6.*cifar-10-binary\.tar\.gz"):
        data.load("cifar-10")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw[:40] + bytes([raw[40] ^ 1]) + raw[41:]])
def test_damaged_file_is_refused_by_its_checksum(mnist, damage):
    root, accepted = mnist
    path = downloads.files("mnist")[0]
    raw = damage((root / path).read_bytes())
    (root / path).write_bytes(raw)
    with pytest.raises(ValueError, match=f"train-images.*{md5(raw)}.*{accepted[path][0]}"):
        data.load("mnist", data_dir=root, validation=2, accepted=accepted)


def test_real_table_refuses_other_files(mnist):
    with pytest.raises(ValueError, match="f68b3c2dcbeaaa9fbdd348bbdeb94873"):
        data.load("mnist", data_dir=mnist[0])


def test_cut_gzip_is_refused_even_with_its_checksum_accepted(mnist):
    root, accepted = mnist
    path = downloads.files("mnist")[0]
    accepted |= write(root, {path: (root / path).read_bytes()[:-12]})
    with pytest.raises(ValueError, match="train-images.*gzip"):
        data.load("mnist", data_dir=root, validation=2, accepted=accepted)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "magic"),
        (b"\0\0\x0d\x01" + b"\0\0\0\1" + b"\0", "0x00000d01, expected 0x00000801"),  # float32 data
        (b"\0\0\x08\x03" + b"\0\0\0\1" * 3 + b"\0", "0x00000803, expected 0x00000801"),  # images for labels
        (b"\0\0\x08\x01\0\0", "cut short at 6 of 8"),
        (b"\0\0\x08\x01" + b"\0\0\0\2" + b"\0", "need 10 bytes .* found 9"),
        (b"\0\0\x08\x01" + b"\0\0\0\2" + b"\0\0\0", "need 10 bytes .* found 11"),
        (b"\0\0\x08\x01" + b"\0\0\0\0", "no empty axis"),
    ],
)
def test_idx_parser_is_strict(raw, message):
    with pytest.raises(ValueError, match=f"labels.gz: .*{message}"):
        data.parse_idx(raw, 1, "labels.gz")


@pytest.mark.parametrize("size", [0, 3072, 3074])
def test_cifar_parser_wants_whole_records(size):
    with pytest.raises(ValueError, match=f"batch.bin: {size} bytes"):
        data.parse_cifar(bytes(size), "batch.bin")


def test_label_outside_the_classes_is_refused():
    with pytest.raises(ValueError, match="batch.bin: label 10"):
        data.parse_cifar(bytes([10]) + bytes(3072), "batch.bin")


def test_image_and_label_counts_must_agree(mnist):
    root, accepted = mnist
    accepted |= write(root, {downloads.files("mnist")[1]: gzip.compress(idx(np.zeros(TRAIN - 1, np.uint8)))})
    with pytest.raises(ValueError, match="12 images but 11 labels"):
        data.load("mnist", data_dir=root, validation=2, accepted=accepted)


# --- the real sets


@pytest.mark.data
@pytest.mark.skipif(
    "JAXCOMPRESS_DATA" not in os.environ,
    reason="needs the published files: JAXCOMPRESS_DATA=/path/to/data pytest -m data",
)
def test_real_mnist_has_its_published_shape():
    loaded = data.load("mnist", validation=0)
    assert loaded.train.images.shape == (60000, 28, 28, 1)
    assert loaded.test.images.shape == (10000, 28, 28, 1)
    assert np.bincount(loaded.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_labels_keep_the_first_training_examples_alone():
    whole, few = data.load("digits", validation=200), data.load("digits", validation=200, labels=50)
    np.testing.assert_array_equal(few.train.images, whole.train.images[:50])
    assert len(few.validation.labels) == 200 and len(few.test.labels) == len(whole.test.labels)
    with pytest.raises(ValueError, match="labels=0 keeps no examples"):
        data.load("digits", labels=0)
