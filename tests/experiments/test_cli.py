"""What a user can mend ends in one message and an exit code."""

import pathlib

import pytest

from experiments import cli


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
