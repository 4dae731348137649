"""`scripts/demo.py` on a table small enough for a test."""

import sys

import pytest

from tests.scripts.conftest import main_of
from tests.scripts.test_reproduce import TABLE

# TensorFlow's own, while it is imported and while it converts.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.usefixtures("promotion"),
]


@pytest.mark.slow
def test_demo_prints_and_draws_every_model(tmp_path, monkeypatch, capsys):
    (tmp_path / "small.yaml").write_text(TABLE)
    main = main_of("demo")
    monkeypatch.setattr(sys.modules["demo"], "CONFIG", tmp_path / "small.yaml")
    monkeypatch.setattr(sys, "argv", ["demo", "--out", str(tmp_path / "out"), "--wandb", "disabled"])
    monkeypatch.setenv("COLUMNS", "200")
    main()
    text = capsys.readouterr().out
    for word in ("first", "second", "ledger", "fc1/kernel", "total", "FULLY_CONNECTED"):
        assert word in text
    pictures = list((tmp_path / "out" / "tables").glob("*.png"))
    assert len(pictures) >= 2 and all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert len(list((tmp_path / "out" / "runs").glob("*/*.tflite"))) == 2
