"""`scripts/reproduce.py` as a user runs it."""

import gzip
import json
import os
import pathlib
import statistics
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))

TABLE = """
paper: a paper
table: a table
seeds: 1
experiments:
  one:
    data: {name: digits, validation: 200}
    model: {type: MLP, hidden: [16]}
    stages:
      - {name: dense, epochs: 1, batch: 50}
      - {name: small, epochs: 1, batch: 50, recipe: [{type: Magnitude, pattern: fc1/kernel, sparsity: 0.5}]}
rows:
  - {row: first, metric: error, experiment: one, stage: dense, paper: 99, tolerance: 99}
  - {row: second, metric: bytes, experiment: one, stage: small, paper: 1}
"""


pytestmark = pytest.mark.usefixtures("promotion")


@pytest.fixture
def table(tmp_path):
    folder = tmp_path / "paper"
    folder.mkdir()
    (folder / "table.yaml").write_text(TABLE)
    return folder / "table.yaml"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Where the runs of this module are, so that each is trained once."""
    return tmp_path_factory.mktemp("out")


def test_table_is_printed_and_written(run, table, out, tmp_path):
    code, text, messages = run("reproduce", table, "--out", out, "--json", tmp_path / "copy.json")
    assert code == 0, messages
    for word in ("a paper", "a table", "paper", "ours", "first", "second", "reproduced", "worse"):
        assert word in text
    names = sorted(path.name for path in (out / "tables").iterdir())
    assert names == ["paper-table.json", "paper-table.md", "paper-table.png"]
    assert "done: dense" in messages and "Traceback" not in messages
    rows = json.loads((out / "tables" / "paper-table.json").read_text())["rows"]
    assert [set(row) >= {"row", "metric", "paper", "mean", "std", "n", "verdict"} for row in rows] == [True, True]
    assert [(row["n"], row["std"]) for row in rows] == [(1, None), (1, None)]
    assert (tmp_path / "copy.json").read_text() == (out / "tables" / "paper-table.json").read_text()


def test_seeds_give_a_spread_and_train_only_what_is_missing(run, table, out):
    assert run("reproduce", table, "--out", out)[0] == 0
    code, text, messages = run("reproduce", table, "--out", out, "--seeds", 2)
    assert code == 0 and "±" in text
    assert "seed 1" in messages and "seed 0" not in messages
    first = json.loads((out / "tables" / "paper-table.json").read_text())["rows"][0]
    assert first["n"] == 2 and first["std"] == pytest.approx(statistics.stdev(first["values"]))
    code, _, messages = run("reproduce", table, "--out", out, "--set", "first_seed=1")
    again = json.loads((out / "tables" / "paper-table.json").read_text())["rows"][0]
    assert code == 0 and "seed" not in messages and again["values"] == first["values"][1:]


def test_set_changes_the_config(run, table, tmp_path):
    changes = ["--set", "experiments.*.data.limit=100", "--set", "experiments.one.stages.*.epochs=0"]
    code, _, messages = run("reproduce", table, "--out", tmp_path / "out", *changes)
    assert code == 0, messages
    (config,) = (tmp_path / "out" / "runs").glob("small-*/config.yaml")
    assert "limit: 100" in config.read_text() and "epochs: 0" in config.read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("experiments.one.stagse=1", ["stagse"]),
        ("experiments.one.stages.small.recipe=[{type: Magnitud}]", ["unknown type 'Magnitud'", "did you mean"]),
        ("experiments.two.seed=1", ["names nothing"]),
        (
            "experiments.one.stages.dense.recipe=[{type: SVD, pattern: fc9/kernel, rank: 2}]",
            ["fc9/kernel", "there are"],
        ),
        ("experiments.one.stages.dense.recipe=[{type: Weights, pattern: '(', bits: 4}]", ["regular expression"]),
        (
            "experiments.one.stages.dense.recipe=[{type: Magnitude, pattern: fc1/kernel, sparsity: 1.5}]",
            ["sparsity", "1.5"],
        ),
        ("experiments.one.stages.dense.recipe=[{type: Weights, pattern: fc1/kernel, bits: 40}]", ["bits", "40"]),
        ("experiments.one.stages.dense.batch=5000", ["batches of 5000"]),
        ("experiments.one.data.name=mnst", ["mnst|name"]),
        ("experiments.one.data.validation=9999", ["9999"]),
        ("rows.*.metric=eror", ["eror", "did you mean 'error'"]),
        ("rows.*.stage=dens", ["dens"]),
    ],
)
def test_bad_input_ends_with_a_message_and_code_2(run, table, tmp_path, change, words):
    code, _, messages = run("reproduce", table, "--out", tmp_path / "out", "--set", change)
    assert code == 2 and "Traceback" not in messages
    assert "error: " in messages
    for word in words:
        assert any(option in messages for option in word.split("|")), messages


@pytest.mark.parametrize("arguments", [["none.yaml"], ["--seeds", "0"], ["--set", "seeds=["]])
def test_bad_arguments_end_with_code_2(run, table, tmp_path, arguments):
    config = [] if arguments[0].endswith("yaml") else [table]
    code, _, messages = run("reproduce", *config, *arguments, "--out", tmp_path / "out")
    assert code == 2 and "error: " in messages


def test_diverged_training_ends_with_code_3(run, table, tmp_path):
    change = "experiments.one.stages.*.optimiser={name: sgd, learning_rate: 1e30}"
    code, _, messages = run("reproduce", table, "--out", tmp_path / "out", "--set", change)
    assert code == 3 and "lower the learning rate" in messages


def test_missing_data_folder_is_named(run, table, tmp_path):
    change = "experiments.one.data={name: mnist}"
    code, _, messages = run("reproduce", table, "--out", tmp_path, "--set", change, "--data-dir", tmp_path / "none")
    assert code == 2 and str(tmp_path / "none") in messages and "data_dir" in messages


def test_corrupted_data_file_is_named_with_its_checksum(run, table, tmp_path):
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / "mnist").mkdir(exist_ok=True)
        (tmp_path / "mnist" / f"{part}-ubyte.gz").write_bytes(gzip.compress(b"not MNIST"))
    change = "experiments.one.data={name: mnist}"
    code, _, messages = run("reproduce", table, "--out", tmp_path, "--set", change, "--data-dir", tmp_path)
    assert code == 2 and "train-images-idx3-ubyte.gz is corrupted" in messages and "MD5" in messages


def test_output_that_cannot_be_written_is_an_error_of_the_disk(run, table, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, messages = run("reproduce", table, "--out", tmp_path / "file")
    assert code == 1 and "error: " in messages and "Traceback" not in messages


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_is_printed(run, script):
    code, text, _ = run(script.stem, "--help")
    assert code == 0 and "usage" in text.lower() and "--" in text


def test_a_user_in_a_shell_sees_a_message_and_no_traceback(table, tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "reproduce.py"), str(table), "--set", "sedes=1"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2 and "sedes" in done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
