"""What a user can mend ends in one message and an exit code."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from experiments import cli

ROOT = pathlib.Path(__file__).parent.parent.parent
LONG = """
paper: a paper
table: a table
experiments:
  one:
    data: {name: digits, validation: 200}
    model: {type: MLP, hidden: [256]}
    stages: [{name: dense, epochs: 100000, batch: 20}]
rows: [{row: a row, metric: error, experiment: one, stage: dense}]
"""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("a [bold] value"), 2, "error: a [bold] value"),
        (TypeError("a type"), 2, "error: a type"),
        (FileNotFoundError(2, "No such file", "x.gz"), 2, "error: [Errno 2] No such file: 'x.gz'"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (FloatingPointError("diverged"), 3, "error: diverged"),
        (KeyboardInterrupt(), 130, "go on from their last checkpoint"),
        (ValueError("long " * 100), 2, "long " * 99),
    ],
)
def test_errors_end_with_a_message_and_a_code(error, code, message, capsys):
    with pytest.raises(SystemExit) as caught, cli.ending():
        raise error
    assert caught.value.code == code
    found = capsys.readouterr()
    assert message in found.err and "Traceback" not in found.err and found.out == ""


def test_mistakes_of_the_program_are_not_hidden():
    with pytest.raises(ZeroDivisionError), cli.ending():
        _ = 1 / 0


def test_settings_lead_to_the_runs_folder_and_report_progress(tmp_path, capsys):
    with cli.settings(tmp_path, pathlib.Path("data"), "disabled") as settings:
        assert (settings.root, settings.data_dir) == (tmp_path / "runs", pathlib.Path("data"))
        assert settings.wandb == "disabled"
        for done in (1, 2):
            settings.progress(done, 2, "dense seed 0")
    assert "done: dense seed 0, 2 of 2" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(6))
def test_an_interrupt_from_the_keyboard_ends_with_code_130(attempt, tmp_path):
    """Wherever it comes in training, also while programs run and files are written."""
    table = tmp_path / "table.yaml"
    table.write_text(LONG)
    command = [sys.executable, "-X", "faulthandler", str(ROOT / "scripts" / "reproduce.py"), str(table)]
    command += ["--out", str(tmp_path / "out"), "--wandb", "disabled", "--checkpoint-seconds", "0.2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
        while not any(tmp_path.glob("out/runs/*/metrics.jsonl")) and child.poll() is None:
            time.sleep(0.05)
        time.sleep(0.25 * attempt)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=300)
    assert child.returncode == 130, said
    assert "go on from their last checkpoint" in said and "Fatal Python error" not in said
