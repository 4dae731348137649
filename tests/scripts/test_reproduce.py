"""`scripts/reproduce.py` as a user runs it."""

import gzip
import json
import os
import pathlib
import shutil
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


TECHNIQUES = "experiments.one.stages.small.recipe=[{type: Magnitude, pattern: fc1/kernel, sparsity: 0.5, every: 5}]"

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
    copy = out / "copy.json"
    code, text, messages = run("reproduce", table, "--out", out, "--seeds", 2, "--json", copy)
    assert code == 0 and "±" in text
    assert "seed 1" in messages and "seed 0" not in messages
    first = json.loads(copy.read_text())["rows"][0]
    assert first["n"] == 2 and first["std"] == pytest.approx(statistics.stdev(first["values"]))
    code, _, messages = run("reproduce", table, "--out", out, "--set", "first_seed=1", "--json", copy)
    again = json.loads(copy.read_text())["rows"][0]
    assert code == 0 and "seed" not in messages and again["values"] == first["values"][1:]
    assert "runs that are there and used again: 2\n" in messages


def test_a_table_with_overrides_has_files_of_its_own(run, table, out):
    assert run("reproduce", table, "--out", out, "--seeds", 1, "--set", "seeds=1")[0] == 0  # as its file says
    names = ("paper-table.md", "paper-table.json", "paper-table.png")
    whole = {name: (out / "tables" / name).read_bytes() for name in names}
    before = set((out / "tables").iterdir())
    given = ("--set", "experiments.*.data.limit=100", "--set", "experiments.one.stages.*.epochs=0")
    code, text, messages = run("reproduce", table, "--out", out, *given)
    assert code == 0, messages
    assert {name: (out / "tables" / name).read_bytes() for name in names} == whole
    made = {path.suffix: path for path in set((out / "tables").iterdir()) - before}
    assert set(made) == {".md", ".json", ".png"} and len({path.stem for path in made.values()}) == 1
    assert made[".md"].stem.startswith("paper-table-with-")
    told = "--set experiments.*.data.limit=100, --set experiments.one.stages.*.epochs=0"
    assert told in made[".md"].read_text() and told in " ".join(text.split())
    assert ", ".join(json.loads(made[".json"].read_text())["overrides"]) == told
    assert "overrides" not in whole["paper-table.md"].decode()
    assert json.loads(whole["paper-table.json"])["overrides"] == []


def test_runs_of_other_code_stop_a_table_unless_it_is_said_what_to_do(run, table, out, tmp_path):
    assert run("reproduce", table, "--out", out)[0] == 0
    shutil.copytree(out / "runs", tmp_path / "runs")
    whole = json.loads((out / "tables" / "paper-table.json").read_text())["rows"][1]["runs"][0]
    small = tmp_path / "runs" / whole
    path = small / "environment.json"
    made = json.loads(path.read_text())
    path.write_text(json.dumps(made | {"code": {"jaxcompress": "0.0.1", "sources_sha256": "0" * 64}}))
    given = ("reproduce", table, "--out", tmp_path)
    code, _, messages = run(*given)
    told = messages.strip()
    assert code == 2 and "\n" not in told and "done" not in told
    assert told.startswith(f"error: {small.name} was made by other code (jaxcompress 0.0.1 of sources 000000000000")
    code, _, messages = run(*given, "--reuse")
    assert code == 0 and "done" not in messages and f"warning: {small.name} was made by other code" in messages
    code, _, messages = run(*given, "--force")
    assert code == 0 and f"done: {small.name}" in messages and "done: dense" not in messages
    assert json.loads(path.read_text())["code"] == made["code"] and run(*given)[0] == 0
    code, _, messages = run(*given, "--force", "--reuse")
    assert code == 2 and "give one of them" in messages


def test_what_cannot_be_written_at_the_end_is_found_at_the_start(run, table, tmp_path):
    code, _, messages = run("reproduce", table, "--out", tmp_path / "out", "--json", tmp_path / "none" / "table.json")
    assert code == 2 and f"there is no folder {tmp_path / 'none'}" in messages and not (tmp_path / "out").exists()


def test_a_ramp_that_outlasts_its_stage_is_said(run, table, tmp_path):
    ramp = "experiments.one.stages.small.recipe.*.ramp={end: 4}"
    code, _, messages = run("reproduce", table, "--out", tmp_path, "--set", TECHNIQUES, "--set", ramp)
    assert code == 0 and messages.index("warning: stage 'small': Magnitude of 'fc1/kernel'") < messages.index("done:")
    (text,) = (tmp_path / "tables").glob("*.md")
    assert "Not reached: stage 'small': Magnitude of 'fc1/kernel': sparsity" in text.read_text()


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
        ("rows.*.leaf=fc1/kernl", ["no leaf 'fc1/kernl'|unknown metric"]),
        (
            "rows=[{row: r, metric: act %, experiment: one, stage: dense, leaf: fc1/kernl}]",
            ["did you mean 'fc1/kernel'"],
        ),
        ("rows=[{row: r, metric: act %, experiment: one, stage: dense, leaf: fc1/bias}]", ["fc1/bias", "input %"]),
        ("rows.*.metric=differ", ["'differ' is of PostTraining stages"]),
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
