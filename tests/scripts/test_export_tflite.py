"""`scripts/export_tflite.py` as a user runs it."""

import json
import shutil

import pytest

from experiments import runs
from tests.experiments.test_runs import DENSE

# TensorFlow's own, while it is imported and while it converts.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.usefixtures("promotion"),
]


@pytest.fixture
def folder(tmp_path_factory):
    settings = runs.Settings(tmp_path_factory.getbasetemp() / "shared" / "runs", None, "disabled")
    return runs.run(DENSE, settings).folder


@pytest.mark.slow
def test_export_is_written_and_described(run, folder, tmp_path):
    code, text, messages = run("export_tflite", folder, "--out", tmp_path / "model.tflite")
    assert code == 0, messages
    assert (tmp_path / "model.tflite").stat().st_size > 0 and (tmp_path / "model.json").exists()
    for word in ("bytes", "FULLY_CONNECTED", "accuracy in LiteRT", "latency", "device"):
        assert word in text


def test_unfinished_run_ends_with_code_2(run, folder, tmp_path):
    (tmp_path / "config.yaml").write_text((folder / "config.yaml").read_text())
    code, _, messages = run("export_tflite", tmp_path)
    assert code == 2 and "is not finished" in messages and "Traceback" not in messages


def test_a_folder_that_is_not_there_is_named(run, folder, tmp_path):
    code, _, messages = run("export_tflite", folder, "--out", tmp_path / "none" / "model.tflite")
    assert code == 2 and f"there is no folder {tmp_path / 'none'}" in messages


def test_a_run_of_other_code_is_exported_with_a_warning(run, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / folder.name)
    made = json.loads((copy / "environment.json").read_text())
    (copy / "environment.json").write_text(json.dumps({key: made[key] for key in made if key != "code"}))
    given = ("export_tflite", copy, "--format", "int8", "--examples", "50", "--rounding", "nearest")
    code, _, messages = run(*given)
    assert code == 0 and (copy / "model-int8.tflite").exists()
    assert f"warning: {copy.name} was made by code of which it records no version" in messages


def test_folder_that_is_no_run_ends_with_code_2(run, tmp_path):
    code, _, messages = run("export_tflite", tmp_path / "none")
    assert code == 2 and "is not a run" in messages


def test_integers_with_reals_outside_are_written_beside(run, folder):
    options = ("--format", "int8", "--io", "float32", "--examples", "50", "--ranges", "mse", "--rounding", "nearest")
    code, text, messages = run("export_tflite", folder, *options)
    assert code == 0, messages
    assert (folder / "model-int8-float32-io.tflite").exists()
    for word in ("takes and gives reals", "1 x QUANTIZE", "LiteRT less JAX", "arena in bytes"):
        assert word in text


@pytest.mark.parametrize("option", [("--ranges", "widest"), ("--rounding", "up"), ("--examples", "0")])
def test_a_calibration_that_is_not_there_ends_with_code_2(run, folder, option):
    code, _, messages = run("export_tflite", folder, "--format", "int8", *option)
    assert code == 2 and option[1] in messages and "Traceback" not in messages


def test_unknown_format_ends_with_code_2(run, folder):
    code, _, messages = run("export_tflite", folder, "--format", "int3")
    assert code == 2 and "int3" in messages
