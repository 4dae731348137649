"""JSON lines survive a cut; Weights & Biases is a view that needs neither account nor network."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

from experiments.logging import append_row, read_rows, wandb_log

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_rows_come_back(tmp_path):
    written = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "validation_error": None, "sha256": "ab"}]
    for row in written:
        append_row(tmp_path / "rows.jsonl", row)
    assert read_rows(tmp_path / "rows.jsonl") == written
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2


def test_last_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_row(path, {"epoch": 1, "loss": 0.5})
    first = path.read_bytes()
    append_row(path, {"epoch": 2, "loss": 0.25})
    whole = path.read_bytes()
    for size in range(len(first), len(whole) - 1):
        path.write_bytes(whole[:size])
        assert read_rows(path) == [{"epoch": 1, "loss": 0.5}]


@pytest.mark.parametrize("line", ['{"epoch": 1, "lo', "[]", "3", "{}", '{"epoch": "1"}'])
def test_a_damaged_line_before_others_is_named(line, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"epoch": 1}\n' + line + '\n{"epoch": 3}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl is damaged \(line 2: .*\); remove its folder"):
        read_rows(path)


def test_no_file_has_no_rows(tmp_path):
    assert read_rows(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(("mode", "variable"), [("disabled", "online"), ("auto", "disabled")])
def test_disabled_wandb_is_not_even_imported(mode, variable, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", variable)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with wandb_log(mode, tmp_path, "name", {}) as log:
        log.row({"epoch": 1})
        log.finish({"error": 1.0}, [])
    assert list(tmp_path.iterdir()) == []


OFFLINE = """
    import json, pathlib, sys
    from experiments.logging import wandb_log
    from experiments.report import confusion_matrix
    folder = pathlib.Path(sys.argv[1])
    confusion_matrix([[1, 0], [0, 1]], folder / "confusion.png")
    with wandb_log("auto", folder, "a run", {"seed": 0}, "runs of a sweep") as log:
        log.row({"epoch": 1, "loss": 0.5, "validation_error": None, "sha256": "ab"})
        log.row({"epoch": 2, "loss": 0.25, "validation_error": 3.0, "sha256": "cd"})
        log.finish({"error": 1.0, "confusion": [[1]]}, [folder / "confusion.png"])
    print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["offline", None])
def test_offline_run_is_written_without_network_or_account(variable, tmp_path):
    folder = tmp_path / "run-1"
    folder.mkdir()
    nowhere = "http://127.0.0.1:9"  # refuses every connection
    proxies = {"HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_") and "proxy" not in k.lower()}
    environment |= {"HOME": str(tmp_path), "WANDB_BASE_URL": nowhere, "PYTHONPATH": str(ROOT), **proxies}
    environment |= {"WANDB_MODE": variable} if variable else {}
    command = [sys.executable, "-c", textwrap.dedent(OFFLINE), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0 and "done" in done.stdout, done.stderr
    (written,) = (folder / "wandb").glob("offline-run-*")
    (log,) = written.glob("*.wandb")
    assert log.name == "run-run-1.wandb" and b"runs of a sweep" in log.read_bytes()
    assert "Traceback" not in done.stderr


def test_text_of_a_row_is_json(tmp_path):
    append_row(tmp_path / "rows.jsonl", {"epoch": 1})
    assert json.loads((tmp_path / "rows.jsonl").read_text()) == {"epoch": 1}
