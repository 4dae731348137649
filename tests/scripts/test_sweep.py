"""`scripts/sweep.py` as a user runs it."""

import json
import shlex

import pytest

pytestmark = pytest.mark.usefixtures("promotion")

TABLE = """
paper: a paper
table: a table
experiments:
  one:
    data: {name: digits, validation: 200, limit: 300}
    model: {type: MLP, hidden: [16]}
    stages:
      - name: small
        epochs: 1
        batch: 50
        recipe: [{type: Magnitude, pattern: fc1/kernel, sparsity: 0.5}]
rows: []
"""
OTHER = TABLE.replace("  one:", "  other:").split("experiments:\n")[1].split("rows:")[0]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "small" / "table.yaml"
    path.parent.mkdir()
    path.write_text(TABLE)
    return path


def test_a_sweep_leaves_runs_a_page_and_commands_that_find_them(run, table, tmp_path):
    given = [table, "--out", tmp_path / "out", "--wandb", "disabled", "--width", 2]
    code, text, messages = run("sweep", *given, "--over", "sparsity=0.5,0.9", "--over", "seed=0:2")
    assert code == 0, messages
    assert "finished" in text and "report.html" in text
    (folder,) = (tmp_path / "out" / "sweeps").glob("small-one-sparsity-seed-*")
    summary = json.loads((folder / "sweep.json").read_text())
    assert [point["values"] for point in summary["points"]] == [
        {"sparsity": s, "seed": k} for s in (0.5, 0.9) for k in (0, 1)
    ]
    assert (folder / "report.html").exists() and len(list((tmp_path / "out" / "runs").iterdir())) == 4
    _, _, *arguments = shlex.split(summary["points"][3]["command"])
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*")}
    assert run("sweep", *arguments, "--wandb", "disabled")[0] == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*")}
    (other,) = set((tmp_path / "out" / "sweeps").iterdir()) - {folder}
    (alone,) = json.loads((other / "sweep.json").read_text())["points"]
    assert alone["metrics"] == summary["points"][3]["metrics"]


@pytest.mark.slow
def test_shards_have_reports_of_their_own(run, table, tmp_path):
    given = [table, "--out", tmp_path / "out", "--wandb", "disabled", "--over", "seed=0:3", "--width", 1]
    for part in ("0/2", "1/2"):
        assert run("sweep", *given, "--shard", part)[0] == 0
    reports = (tmp_path / "out" / "sweeps").iterdir()
    seeds = [[p["values"]["seed"] for p in json.loads((r / "sweep.json").read_text())["points"]] for r in reports]
    assert sorted(seeds) == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--over", "sparsty=0.5,0.6"], "did you mean 'sparsity'"),
        (["--over", "sparsity=0.5:2:3"], "sparsity=1.25"),
        (["--over", "seed"], "is not of the form"),
        (["--experiment", "on"], "did you mean 'one'"),
        (["--stage", "smal"], "did you mean 'small'"),
        (["--shard", "2/2"], "--shard '2/2'"),
        (["--width", "0"], "0 points at a time"),
        (["--data-parallel", "3"], "cannot stand in rows of 3"),
        (["--processes", "2", "--process", "0"], "coordinator=None, processes=2, process=0: give all three"),
        (["--compile-for", "v9:2x2"], "generations are v5e, v5p, v6e"),
        (["--compile-for", "v5e"], "is not of the form v5e:2x4"),
        (["--set", "experiments.*.stages.*.recipe.*.pattern=fc9/kernel"], "matches no parameter"),
    ],
)
def test_bad_input_ends_with_code_2_before_anything_is_written(run, table, tmp_path, arguments, message):
    code, _, messages = run("sweep", table, "--out", tmp_path / "out", "--wandb", "disabled", *arguments)
    assert code == 2 and message in messages and "Traceback" not in messages
    assert not (tmp_path / "out").exists()


def test_the_experiment_has_to_be_named_where_there_are_two(run, table, tmp_path):
    table.write_text(TABLE.replace("rows: []", "") + OTHER + "rows: []\n")
    code, _, messages = run("sweep", table, "--out", tmp_path, "--wandb", "disabled")
    assert code == 2 and "--experiment is missing" in messages and "one, other" in messages
