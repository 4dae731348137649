"""Where published files come from: a folder that the user names, or the publisher, with checksums.

Files come from the folders given by the `data_dir` argument, else from those that JAXCOMPRESS_DATA names (one, or
several with the separator of PATH between them), else from the user's cache, which alone is filled by downloading.
Every file is checked against a table of checksums before it is parsed.

    mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz
    fashion-mnist/                                          the same four names
    cifar-10-batches-bin/{data_batch_1,...,data_batch_5,test_batch}.bin
    cifar-100-binary/{train,test}.bin
    mlperf-tiny/*.tflite                                    trained models of MLPerf Tiny
    lc-lenet300/lenet300_classic.pklz                       the LC toolkit's trained LeNet-300-100
"""

import hashlib
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pooch

ARCHIVES = {"cifar-10": "cifar-10-binary.tar.gz", "cifar-100": "cifar-100-binary.tar.gz"}

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
    "mlperf-tiny/pretrainedResnet.tflite": ("6ba6fa3ed68c479ef7be253ba3f0b789",),
    "mlperf-tiny/pretrainedResnet_quant.tflite": ("2d6dd48722471313e4c4528249205ae3",),
    "lc-lenet300/lenet300_classic.pklz": ("bf36838da42b6a3f2016c363db4044ab",),
    "cifar-10-binary.tar.gz": ("c32a1d4ab5d03f1284b67883e8d87530",),
    "cifar-100-binary.tar.gz": ("03b5dce01913d631647c71ecec9e9cb8",),
    "cifar-100-binary/train.bin": ("6172c7755cfe09b2fe270c85cebc1b15",),
    "cifar-100-binary/test.bin": ("4499cfba6c016c1be1438163640a0898",),
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
    "cifar-100": ("https://www.cs.toronto.edu/~kriz/",),
    "mlperf-tiny": (
        "https://raw.githubusercontent.com/mlcommons/tiny/master/benchmark/training/image_classification/trained_models/",
    ),
    "lc-lenet300": (
        "https://raw.githubusercontent.com/UCMerced-ML/LC-model-compression/bf12c3c1baad2bdd8d2aa3c560f8d7d0bed64a1e/examples/lenet300/",
    ),
}


def files(name: str) -> tuple[str, ...]:
    """Lists the files of set `name`, as paths below the data directory, training files first."""
    if name == "cifar-10":
        stems = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
        return tuple(f"cifar-10-batches-bin/{stem}.bin" for stem in stems)
    if name == "cifar-100":
        return ("cifar-100-binary/train.bin", "cifar-100-binary/test.bin")
    if name == "mlperf-tiny":
        return tuple(f"mlperf-tiny/pretrainedResnet{kind}.tflite" for kind in ("", "_quant"))
    if name == "lc-lenet300":
        return ("lc-lenet300/lenet300_classic.pklz",)
    kinds = ("images-idx3", "labels-idx1")
    return tuple(f"{name}/{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in kinds)


def locate(name: str, data_dir: str | os.PathLike[str] | None = None, accepted: Checksums = ACCEPTED) -> Path:
    """Finds the folder that holds every file of `name`, downloading only when the user named no folder.

    Named folders (`data_dir`, else those of JAXCOMPRESS_DATA) are never written to: FileNotFoundError says what
    they lack.
    """
    named = data_dir or os.environ.get("JAXCOMPRESS_DATA")
    if not named:
        root = Path(pooch.os_cache("jaxcompress"))
        fetch(name, root, accepted=accepted)
        return root
    roots = [Path(part).expanduser() for part in str(named).split(os.pathsep) if part]
    missing = {root: [path for path in files(name) if not (root / path).is_file()] for root in roots}
    nearest = min(roots, key=lambda root: len(missing[root]))
    if missing[nearest]:
        origin = "data_dir" if data_dir else "JAXCOMPRESS_DATA"
        source = MIRRORS[name][0] + ARCHIVES.get(name, "")
        raise FileNotFoundError(
            f"{nearest / missing[nearest][0]} does not exist. The directory given by {origin} must hold"
            f" {', '.join(files(name))} (missing: {len(missing[nearest])} of {len(files(name))})."
            f" Put the files there from {source}, or name no directory to have them downloaded to the cache."
        )
    return nearest


def fetch(
    name: str, root: Path, *, mirrors: Mapping[str, Sequence[str]] = MIRRORS, accepted: Checksums = ACCEPTED
) -> None:
    """Downloads into `root` whatever files of `name` it lacks; a complete set is left alone."""
    if name not in ARCHIVES:
        for path in files(name):
            urls = [base + Path(path).name for base in mirrors[name]]
            download(urls, accepted[path][0], root / path)
    elif not all((root / path).is_file() for path in files(name)):
        archive = root / ARCHIVES[name]
        download([base + archive.name for base in mirrors[name]], accepted[archive.name][0], archive)
        _extract(archive, files(name), root)
        archive.unlink()  # nothing reads it again


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


def verified(path: Path, accepted: Sequence[str]) -> bytes:
    """Reads a file whose MD5 is one of `accepted`; ValueError otherwise."""
    raw = path.read_bytes()
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if found not in accepted:
        raise ValueError(
            f"{path} is corrupted or another version: its MD5 is {found}, accepted: {', '.join(accepted)}."
            " Delete it and get it again."
        )
    return raw
