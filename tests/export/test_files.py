"""Files are written whole or not at all, on a disk that is really full."""

import os
import stat
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from jaxcompress.export import save
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


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_stays_and_its_file_is_written(exists, tmp_path):
    (tmp_path / "beside").mkdir()
    real, link = tmp_path / "beside" / "real", tmp_path / "link"
    if exists:
        real.write_bytes(b"old")
        real.chmod(0o640)
    link.symlink_to(real)
    write_whole(link, b"new")
    assert link.is_symlink() and real.read_bytes() == b"new"
    assert not exists or real.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith("partial")] == []


def test_what_is_no_regular_file_is_left_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        write_whole(tmp_path / "pipe", b"data")
    assert [path.is_fifo() for path in tmp_path.iterdir()] == [True]


def test_path_may_be_text_and_long(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_whole("file", b"data")
    write_whole("x" * 220, b"data")
    assert (tmp_path / "file").read_bytes() == (tmp_path / ("x" * 220)).read_bytes() == b"data"


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask, mode", [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664), (0o000, 0o666)])
def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path, umask, mask, mode):
    umask(mask)
    write_whole(tmp_path / "file", b"data")
    save(tmp_path / "model.jcpk", {"a": np.ones(2, np.float32)})
    assert mode_of(tmp_path / "file") == mode_of(tmp_path / "model.jcpk") == mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_a_replaced_file_keeps_its_permissions(tmp_path, umask, mode):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    for mask in (0o077, 0o000):
        umask(mask)
        write_whole(path, b"new")
        assert (mode_of(path), path.read_bytes()) == (mode, b"new")


def test_what_a_killed_process_left_is_removed_once_it_is_old(tmp_path):
    for name in (".file[1].aa.partial", ".file[1].bb.partial", ".other.cc.partial"):
        (tmp_path / name).write_bytes(b"half")
    hours_ago = time.time() - 7200
    for name in (".file[1].aa.partial", ".other.cc.partial"):
        os.utime(tmp_path / name, (hours_ago, hours_ago))
    write_whole(tmp_path / "file[1]", b"data")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".file[1].bb.partial", ".other.cc.partial", "file[1]"]
