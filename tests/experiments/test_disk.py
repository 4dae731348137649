"""What the disk refuses ends in a line that names the file and says what to do; what is there stays as it was."""

import errno
import fcntl
import resource
import shutil

import numpy as np
import pytest

from experiments import cli, runs
from experiments.checkpoints import Checkpoints, load_params, save_params
from experiments.disk import DiskError, writing
from experiments.logging import append_row
from tests.experiments.test_runs import DENSE, rows

pytestmark = pytest.mark.usefixtures("promotion")

TREE = {"a": np.arange(90_000, dtype=np.uint32) * np.uint32(2654435761)}  # which does not compress


@pytest.fixture
def small_files():
    """Lets files have 16 KiB at most, which the system refuses as it does what a full disk has no room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_has_no_room_leaves_the_one_before(tmp_path, small_files, capfd):
    kept = Checkpoints(tmp_path / "checkpoint")
    kept.save(1, {"a": np.arange(3)})
    with pytest.raises(SystemExit) as ended, cli.ending():
        kept.save(2, TREE)
    assert ended.value.code == 1
    said = capfd.readouterr()
    assert said.out == "" and said.err == (
        f"error: File too large: {tmp_path / 'checkpoint' / '2'}; make room and give the same command again: "
        "runs go on from their last checkpoint\n"
    )
    epoch, tree = kept.latest({"a": np.zeros(3, int)})
    assert epoch == 1 and tree["a"].tolist() == [0, 1, 2]


def test_parameters_that_have_no_room_are_written_with_room(tmp_path, small_files):
    with pytest.raises(DiskError, match="File too large: .*params; make room"):
        save_params(tmp_path / "params", TREE)
    resource.setrlimit(resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1:] * 2)
    save_params(tmp_path / "params", TREE)
    np.testing.assert_array_equal(load_params(tmp_path / "params")["a"], TREE["a"])


def test_a_row_that_a_full_device_refuses_names_its_file(tmp_path):
    (tmp_path / "rows.jsonl").symlink_to("/dev/full")
    with pytest.raises(DiskError, match=r"^No space left on device: .*rows\.jsonl; make room and give the same"):
        append_row(tmp_path / "rows.jsonl", {"epoch": 1})


def test_a_folder_that_is_removed_in_training_ends_with_code_1_and_is_made_again(tmp_path, capsys):
    settings, this = runs.Settings(tmp_path, None, "disabled", checkpoint_seconds=1e9), runs.locate(DENSE, tmp_path)
    removing = settings._replace(progress=lambda *_: shutil.rmtree(this.folder))
    with pytest.raises(SystemExit) as ended, cli.ending():
        runs.run(DENSE, removing)
    said = capsys.readouterr().err
    assert ended.value.code == 1 and len(said.splitlines()) == 1
    assert f"No such file or directory: {this.folder / 'metrics.jsonl'}; its folder was removed meanwhile" in said
    assert len(rows(runs.run(DENSE, settings))) == 2


def test_a_checkpoint_does_not_bring_a_removed_folder_back(tmp_path):
    with pytest.raises(DiskError, match="its folder was removed meanwhile"):
        Checkpoints(tmp_path / "run" / "checkpoint").save(1, {"a": np.arange(3)})
    assert not (tmp_path / "run").exists()


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(DiskError, match=r"^No locks available: .*\.claim; its file system has no locks.*--out"):
        runs.run(DENSE, runs.Settings(tmp_path, None, "disabled"))


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "RESOURCE_EXHAUSTED: x: No space left on device [os_error_code='28']",
            "No space left on device: f; make room",
        ),
        ("RESOURCE_EXHAUSTED: x [OS error 122: EDQUOT Disk quota exceeded]", "Disk quota exceeded: f; make room"),
        ("PERMISSION_DENIED: x [OS error 13: EACCES]", "Permission denied: f; choose another folder by --out"),
        ("DATA_LOSS: x [OS error 5: EIO]", "Input/output error: f"),
    ],
)
def test_errors_of_the_system_are_read_from_messages(message, told, tmp_path):
    with pytest.raises(DiskError) as raised, writing("f"):
        raise ValueError(message)
    assert str(raised.value).startswith(told)


def test_other_errors_are_what_they_were():
    with pytest.raises(ValueError, match="^shapes differ$"), writing("f"):
        raise ValueError("shapes differ")
