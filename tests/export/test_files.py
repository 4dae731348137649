"""Files are written whole or not at all, on a disk that is really full."""

import subprocess
import sys
import textwrap

import pytest

from jaxcompress.export.files import write_whole

# A child process whose files may not exceed 64 kB: what a full disk does to a write.
FULL_DISK = """
    import pathlib, resource, signal, sys
    import numpy as np
    from jaxcompress.export import save
    from jaxcompress.export.files import write_whole
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
    new, old = (pathlib.Path(sys.argv[1]) / name for name in ("new", "old"))
    big = np.random.default_rng(0).normal(size=2**16).astype("float32")
    for target in (new, old):
        for write in (lambda path: write_whole(path, big.tobytes()), lambda path: save(path, {"a": big})):
            try:
                write(target)
            except OSError as error:
                print(error.strerror)
            else:
                sys.exit("the disk was not full")
"""


def test_full_disk_leaves_no_file_behind_and_keeps_the_old_one(tmp_path):
    (tmp_path / "old").write_bytes(b"what was there")
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["File too large"] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"what was there"


def test_written_file_replaces_the_old_one_and_nothing_else_is_left(tmp_path):
    for data in (b"first", b"", b"second"):
        write_whole(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_missing_folder_raises_os_error(tmp_path):
    with pytest.raises(OSError):
        write_whole(tmp_path / "none" / "file", b"")


def test_target_that_is_a_folder_raises_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "folder", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_path_may_be_text_and_long(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_whole("file", b"data")
    write_whole("x" * 220, b"data")
    assert (tmp_path / "file").read_bytes() == (tmp_path / ("x" * 220)).read_bytes() == b"data"
