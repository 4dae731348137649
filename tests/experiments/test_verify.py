"""A fresh run verifies; a run that was tampered with does not."""

import json
import shutil
from dataclasses import replace

import pytest

from experiments import config, devices, runs
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
    assert names[:3] == ["data sha256", "packed file", "test error, %"]
    assert names[-4:] == ["ledger.txt", "ledger.json", "loss of epoch 1", "weights after epoch 1"]
    assert {"final weights", "logits sha256"} < set(names) and len(set(names)) == len(names) == 29


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


def changed(value):
    """Returns a value that is another one by a little."""
    match value:
        case dict():
            first, *_ = value or {"new": 0}
            return value | {first: changed(value.get(first, 0))}
        case list():
            return [changed(value[0]), *value[1:]] if value else ["new"]
        case str():
            return "0" * len(value)
        case None:
            return 0.5
        case _:
            return value + 1


def test_every_changed_metric_fails(copied):
    """One by one; what a table prints is among them."""
    run, settings = copied
    path = run.folder / "metrics.json"
    whole = json.loads(path.read_text())
    names = {"params_sha256": "final weights", "logits_sha256": "logits sha256", "error": "test error, %"}
    assert {"bytes", "rate", "macs", "memory", "precision", "recall", "f1", "accuracy", "broken", "activity"} < set(
        whole
    )
    edited(path, lambda m: {name: changed(value) for name, value in m.items()})
    assert set(failed(run, settings)) == {names.get(name, name) for name in whole}
    for name in ("bytes", "activity", "confusion"):
        path.write_text(json.dumps(whole | {name: changed(whole[name])}))
        assert failed(run, settings) == [name]
    path.write_text(json.dumps({name: value for name, value in whole.items() if name != "rate"}))
    assert failed(run, settings) == ["rate"]


@pytest.mark.parametrize("name", ["ledger.txt", "ledger.json"])
def test_a_changed_or_lost_ledger_fails(copied, name):
    run, settings = copied
    path = run.folder / name
    path.write_text(path.read_text().replace("fc1", "fc0"))
    assert failed(run, settings) == [name]
    path.unlink()
    assert failed(run, settings) == [name]


@pytest.mark.slow
def test_a_quantized_run_is_written_run_and_measured_again(settings, tmp_path):
    last = config.PostTraining("int8", examples=100)
    quantized = runs.run(replace(DENSE, stages=(*DENSE.stages, last)), settings)
    exact, checks = verify(quantized, settings)
    assert exact and all(check.passed for check in checks)
    for run in (quantized, runs.locate(DENSE, settings.root)):
        shutil.copytree(run.folder, tmp_path / run.folder.name)
    run, here = runs.Run(tmp_path / quantized.folder.name), settings._replace(root=tmp_path)
    whole = run.metrics
    edited(run.folder / "metrics.json", lambda m: {name: changed(value) for name, value in m.items()})
    assert set(failed(run, here)) == {"test error, %", *(set(whole) - {"error"})}
    (run.folder / "metrics.json").write_text(json.dumps(whole))
    (run.folder / "model.tflite").write_bytes((run.folder / "model.tflite").read_bytes() + b"0")
    assert failed(run, here) == ["TFLite file"]


@pytest.mark.slow
def test_a_file_that_rows_are_of_is_written_and_run_again(copied):
    run, settings = copied
    devices.export(
        run, run.folder / "model-int8.tflite", "int8", calibration=config.PostTraining("export", examples=50)
    )
    assert failed(run, settings) == []
    report = run.folder / "model-int8.json"
    edited(
        report, lambda r: r | {"litert_accuracy": r["litert_accuracy"] + 1, "arena": 5, "latency": {"median_us": 0.1}}
    )
    assert failed(run, settings) == ["int8: litert_accuracy", "int8: arena"]


def test_a_run_of_other_code_is_verified_with_a_warning(copied):
    run, settings = copied
    said = []
    edited(run.folder / "environment.json", lambda e: {name: value for name, value in e.items() if name != "code"})
    edited(run.folder / "metrics.json", lambda m: {name: value for name, value in m.items() if name != "unreached"})
    assert failed(run, settings._replace(say=said.append)) == []
    assert len(said) == 1 and said[0].startswith(f"warning: {run.folder.name} was made by code of which it records no")


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
    near = {"error": 0.1, "accuracy": -0.1, "precision": 0.01, "recall": -0.01, "f1": 0.01}
    edited(run.folder / "metrics.json", lambda m: m | {name: m[name] + by for name, by in near.items()})
    assert failed(run, settings) == []
    edited(
        run.folder / "metrics.json",
        lambda m: m | {"error": m["error"] + 1, "f1": m["f1"] + 0.1, "bytes": m["bytes"] + 1},
    )
    assert failed(run, settings) == ["test error, %", "f1", "bytes"]


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
