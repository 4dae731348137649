"""A fresh run verifies; a run that was tampered with does not."""

import json
import shutil
from dataclasses import replace

import pytest

from experiments import config, runs
from experiments.verify import verify
from tests.experiments.test_runs import DENSE, NOISY, NORMED, PRUNED

pytestmark = pytest.mark.usefixtures("promotion")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """The folder that `test_runs` fills, so that one session trains these runs once."""
    return runs.Settings(tmp_path_factory.getbasetemp() / "shared" / "runs", None, "disabled")


@pytest.fixture
def copied(settings, tmp_path):
    """A copy of a fresh run, to tamper with."""
    folder = runs.run(DENSE, settings).folder
    shutil.copytree(folder, tmp_path / folder.name)
    return runs.Run(tmp_path / folder.name), settings._replace(root=tmp_path)


def edited(path, change):
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def failed(run, settings):
    return [check.name for check in verify(run, settings)[1] if not check.passed]


def test_fresh_run_passes_in_every_bit(settings):
    run = runs.run(PRUNED, settings)
    exact, checks = verify(run, settings)
    assert exact and all(check.passed for check in checks)
    names = [check.name for check in checks]
    assert names[:4] == ["data sha256", "final weights", "logits sha256", "test error, %"]
    assert names[4:] == ["loss of epoch 1", "weights after epoch 1"]


@pytest.mark.parametrize("experiment", [NORMED, NOISY], ids=["statistics", "noise"])
def test_run_with_running_statistics_passes_in_every_bit(experiment, settings):
    exact, checks = verify(runs.run(experiment, settings), settings)
    assert exact and all(check.passed for check in checks)
    assert checks[-1].name == "weights after epoch 1"


def test_declared_slice_is_trained(copied):
    run, settings = copied
    declared = replace(DENSE, stages=(replace(DENSE.stages[0], verify=9),))  # no more than there are epochs
    (run.folder / "config.yaml").write_text(json.dumps(config.to_plain(declared)))
    names = [check.name for check in verify(run, settings)[1]]
    assert names[-2:] == ["loss of epoch 2", "weights after epoch 2"]


def test_model_of_another_run_fails(copied, settings):
    run, here = copied
    shutil.copy(runs.run(PRUNED, settings).packed_file, run.packed_file)
    assert "logits sha256" in failed(run, here)


@pytest.mark.parametrize("name", ["logits_sha256", "error"])
def test_changed_metrics_fail(copied, name):
    run, settings = copied
    edited(run.folder / "metrics.json", lambda m: m | {name: "0" * 64 if "sha" in name else m[name] - 1})
    assert len(failed(run, settings)) == 1


def test_changed_weights_and_losses_of_an_epoch_fail(copied):
    run, settings = copied
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    changed = first | {"sha256": "0" * 64, "loss": first["loss"] * 1.000001}
    (run.folder / "metrics.jsonl").write_text("\n".join([json.dumps(changed), *lines[1:]]) + "\n")
    assert failed(run, settings) == ["loss of epoch 1", "weights after epoch 1"]


def test_other_data_fail(copied):
    run, settings = copied
    edited(run.folder / "environment.json", lambda e: e | {"data_sha256": "0" * 64})
    assert failed(run, settings) == ["data sha256"]


def test_changed_digest_of_the_final_weights_fails(copied):
    run, settings = copied
    edited(run.folder / "metrics.json", lambda m: m | {"params_sha256": "0" * 64})
    assert failed(run, settings)


def test_on_another_machine_losses_and_errors_are_held_to_tolerances(copied):
    run, settings = copied
    edited(run.folder / "environment.json", lambda e: e | {"bits_depend_on": {"processor": "another"}})
    exact, checks = verify(run, settings)
    assert not exact and all(check.passed for check in checks)
    assert not any("weights after" in check.name or "logits" in check.name for check in checks)
    edited(run.folder / "metrics.json", lambda m: m | {"error": m["error"] + 1})
    assert failed(run, settings) == ["test error, %"]


def test_unfinished_run_is_refused(copied):
    run, settings = copied
    (run.folder / "metrics.json").unlink()
    with pytest.raises(ValueError, match="is not finished"):
        verify(run, settings)


def test_lost_row_is_a_clear_error(copied):
    run, settings = copied
    (run.folder / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError):
        verify(run, settings)
