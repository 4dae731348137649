"""JSON lines survive a cut; Weights & Biases is a view that needs neither account nor network."""

import json
import os
import pathlib
import struct
import subprocess
import sys
import textwrap

import pytest

from experiments import logging
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
    from experiments.logging import wandb_log, wandb_table
    from experiments.report import confusion_matrix
    folder, packed = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1], "model.jcpk")
    confusion_matrix([[1, 0], [0, 1]], folder / "confusion.png")
    packed.write_bytes(bytes(1000))
    with wandb_log("auto", folder, "a run", {"seed": 0}, "runs of a sweep") as log:
        log.row({"epoch": 1, "loss": 0.5, "validation_error": None, "sha256": "ab"})
        log.row({"epoch": 2, "loss": 0.25, "validation_error": 3.0, "sha256": "cd"})
        log.finish({"error": 1.0, "confusion": [[1]]}, [folder / "confusion.png", *([packed] if sys.argv[2] else [])])
    (folder / "run-2").mkdir()
    try:
        with wandb_log("auto", folder / "run-2", "a run that fails", {}):
            raise OSError("the disk is full")
    except OSError as error:
        print(error)
    wandb_table("auto", folder, "a table", ["row"], [["first"]], [folder / "confusion.png"])
    print("done")
"""


def read_offline(log):
    """Yields the records of a .wandb file: LevelDB's log format of blocks of 32 KiB after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = log.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        parts, at = parts + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


@pytest.mark.slow
@pytest.mark.parametrize(("variable", "project", "upload"), [("offline", "ours", "yes"), (None, None, "")])
def test_offline_run_is_written_without_network_or_account(variable, project, upload, tmp_path):
    """What is written lies in the folder of the run, and none at home."""
    folder, home, work = (tmp_path / name for name in ("run-1", "home", "work"))
    for made in (folder, home, work):
        made.mkdir()
    nowhere = "http://127.0.0.1:9"  # refuses every connection
    proxies = {"HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere}
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "XDG_")) and "proxy" not in k.lower()
    }
    environment |= {"HOME": str(home), "MPLCONFIGDIR": str(tmp_path / "matplotlib"), "TMPDIR": str(work)}
    environment |= {"WANDB_BASE_URL": nowhere, "PYTHONPATH": str(ROOT), **proxies}
    environment |= {"WANDB_MODE": variable} if variable else {}
    environment |= {"WANDB_PROJECT": project} if project else {}
    command = [sys.executable, "-c", textwrap.dedent(OFFLINE), str(folder), upload]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=work)
    assert done.returncode == 0 and done.stdout.splitlines()[-2:] == ["the disk is full", "done"], done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not [path for path in (*home.rglob("*"), *work.rglob("*")) if path.is_file()]
    (log,) = folder.glob("wandb/offline-run-*/run-run-1.wandb")
    records = list(read_offline(log))
    (run,) = {record.run.run_id: record.run for record in records if record.HasField("run")}.values()
    assert (run.project, run.run_group) == (project or "jaxcompress", "runs of a sweep")
    losses = [
        json.loads(item.value_json)
        for record in records
        for item in record.history.item
        if "loss" in (item.key, *item.nested_key)
    ]
    assert losses == [0.5, 0.25]
    entries = [entry for record in records for entry in record.request.log_artifact.artifact.manifest.contents]
    entries += [entry for record in records for entry in record.artifact.manifest.contents]
    assert {entry.path for entry in entries} == ({"model.jcpk", "confusion.png"} if upload else set())
    assert all(pathlib.Path(entry.local_path).is_relative_to(folder / "wandb" / "data") for entry in entries)
    assert all(pathlib.Path(entry.local_path).exists() for entry in entries)


NETRC = "machine api.wandb.ai login user password " + 40 * "a" + "\n"
OTHER = NETRC.replace("api.wandb.ai", "wandb.example.org:8443")


@pytest.mark.parametrize(
    ("netrc", "settings", "environment", "expected"),
    [
        (None, None, {}, "offline"),
        (NETRC, None, {}, "online"),
        (OTHER, None, {}, "offline"),
        (OTHER, None, {"WANDB_BASE_URL": "https://wandb.example.org:8443"}, "online"),
        (OTHER, "[default]\nbase_url = https://wandb.example.org:8443\n", {}, "online"),
        (NETRC, "[default]\nbase_url = https://wandb.example.org:8443\n", {}, "offline"),
        (NETRC, "[default\n", {}, "online"),
        ("machine\n", None, {}, "offline"),
        (None, None, {"WANDB_API_KEY": 40 * "a"}, "online"),
        (None, None, {"WANDB_IDENTITY_TOKEN_FILE": "token.jwt"}, "online"),
        (NETRC, None, {"WANDB_MODE": "offline"}, "offline"),
        (NETRC, None, {"NETRC": "nowhere"}, "offline"),
    ],
)
def test_a_key_for_the_host_in_use_is_being_logged_in(netrc, settings, environment, expected, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    for name, value in ({"HOME": str(tmp_path)} | environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    if netrc is not None:
        (tmp_path / ".netrc").write_text(netrc)
        (tmp_path / ".netrc").chmod(0o600)
    if settings is not None:
        (tmp_path / ".config" / "wandb").mkdir(parents=True)
        (tmp_path / ".config" / "wandb" / "settings").write_text(settings)
    assert logging._resolved("auto") == expected


def test_text_of_a_row_is_json(tmp_path):
    append_row(tmp_path / "rows.jsonl", {"epoch": 1})
    assert json.loads((tmp_path / "rows.jsonl").read_text()) == {"epoch": 1}
