"""`scripts/verify.py` as a user runs it."""

import json
import shutil

import pytest

from experiments import runs
from tests.experiments.test_runs import DENSE

pytestmark = pytest.mark.usefixtures("promotion")


@pytest.fixture
def folder(tmp_path_factory, tmp_path):
    """A copy of a finished run, which the tests of runs share."""
    settings = runs.Settings(tmp_path_factory.getbasetemp() / "shared" / "runs", None, "disabled")
    found = runs.run(DENSE, settings).folder
    return shutil.copytree(found, tmp_path / found.name)


def test_fresh_run_ends_with_code_0(run, folder):
    code, text, _ = run("verify", folder)
    assert code == 0 and "equal" in text and "DIFFERS" not in text


def test_relative_folder_is_found(run, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert run("verify", ".")[0] == 0


def test_changed_record_ends_with_code_1(run, folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"logits_sha256": "0" * 64}))
    code, text, _ = run("verify", folder)
    assert code == 1 and "DIFFERS" in text


def test_a_changed_number_that_a_table_prints_ends_with_code_1(run, folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"bytes": 5, "rate": 999, "macs": 1, "accuracy": 99}))
    code, text, _ = run("verify", folder)
    assert code == 1 and text.count("DIFFERS") == 4


def test_a_run_of_other_code_is_verified_with_a_warning(run, folder):
    made = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps(made | {"code": {"jaxcompress": "0.0.1"}}))
    code, _, messages = run("verify", folder)
    assert code == 0 and f"warning: {folder.name} was made by other code (jaxcompress 0.0.1 of sources" in messages


@pytest.mark.parametrize("file", ["metrics.json", "environment.json", "structure.json", "metrics.jsonl", "config.yaml"])
def test_a_damaged_file_is_named_with_its_remedy(run, folder, file):
    path = folder / file
    path.write_bytes(b"[" + path.read_bytes()[:40] + b"\n{}")
    code, _, messages = run("verify", folder)
    assert code == 2 and f"error: {path} is damaged" in messages and "remove its folder" in messages
    assert messages.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "message"),
    [("metrics.json", "is not finished"), ("config.yaml", "is not a run"), ("model.jcpk", "model.jcpk")],
)
def test_missing_file_ends_with_code_2(run, folder, file, message):
    (folder / file).unlink()
    code, _, messages = run("verify", folder)
    assert code == 2 and message in messages and "Traceback" not in messages


def test_damaged_packed_file_is_named(run, folder):
    (folder / "model.jcpk").write_bytes((folder / "model.jcpk").read_bytes()[:-1])
    code, _, messages = run("verify", folder)
    assert code in (1, 2) and "model.jcpk" in messages and "corrupted" in messages


def test_folder_that_does_not_exist_ends_with_code_2(run, tmp_path):
    code, _, messages = run("verify", tmp_path / "none")
    assert code == 2 and "is not a run" in messages
