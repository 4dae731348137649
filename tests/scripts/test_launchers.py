"""Launchers are files that run: their shells parse, and what they start is a command line that is understood."""

import pathlib
import shlex
import subprocess

import pytest
import yaml

from experiments import config, grid

ROOT = pathlib.Path(__file__).parent.parent.parent
LAUNCHERS = ROOT / "scripts" / "launchers"


@pytest.mark.parametrize("name", [path.name for path in sorted(LAUNCHERS.glob("*.sh"))])
def test_shells_parse(name):
    done = subprocess.run(["bash", "-n", LAUNCHERS / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (LAUNCHERS / name).stat().st_mode & 0o111


def started(*words):
    """Returns the points of a command line, as `scripts/sweep.py` would make them."""
    table, options = ROOT / words[0], [word.partition("=") for word in words[1:]]
    given = {key: value for key, _, value in options if key != "--over"}
    experiment = config.load_table(table).experiments[given["--experiment"]]
    points = grid.points(experiment, [grid.Axis.parse(value) for key, _, value in options if key == "--over"])
    return grid.shard(points, given.get("--shard"))


def test_slurm_arrays_count_from_zero(tmp_path):
    """What a task of an array from 3 to 5 starts, with a command in python's place that says it."""
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    task = {"SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "3"}
    command = ["bash", LAUNCHERS / "slurm_array.sh", "table.yaml", "--over", "seed=0:8"]
    done = subprocess.run(command, env=task | {"PATH": "/usr/bin:/bin"}, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "scripts/sweep.py table.yaml --over seed=0:8 --shard 1/3\n", done.stderr


def test_agents_of_weights_and_biases_share_all_points():
    sweep = yaml.safe_load((LAUNCHERS / "wandb_sweep.yaml").read_text())
    assert sweep["command"][:3] == ["${env}", "python", "${program}"] and sweep["command"][-1] == "${args}"
    words = sweep["command"][3:-1]
    shards = [started(*words, f"--shard={shard}") for shard in sweep["parameters"]["shard"]["values"]]
    assert sorted(str(point) for part in shards for point in part) == sorted(map(str, started(*words)))


def test_pods_of_kubernetes_share_all_points():
    job = yaml.safe_load((LAUNCHERS / "gke.yaml").read_text())["spec"]
    (container,) = job["template"]["spec"]["containers"]
    words = shlex.split(container["args"][0].replace("$JOB_COMPLETION_INDEX/8", "INDEX/8"))
    assert words[:2] == ["python", "scripts/sweep.py"] and words[-2:] == ["--shard", "INDEX/8"]
    given = dict(zip(words[3:-2:2], words[4:-2:2], strict=True)) | {"--out": "/runs"}
    assert given["--experiment"] == "distilled" and job["completions"] == 8
    axes = [word for option, word in zip(words, words[1:], strict=False) if option == "--over"]
    assert len(started(words[2], "--experiment=distilled", *(f"--over={axis}" for axis in axes))) == 40
