"""Pictures are written whole, and close what they open."""

import matplotlib.pyplot as plt
import pytest

from experiments import report
from experiments.results import Result


def rows(validation):
    return [{"epoch": e, "loss": 1 / e, "validation_error": validation and 10.0 - e} for e in (1, 2, 3)]


def result(metric, paper=None, std=float("nan")):
    return Result("a row", metric, paper, 2.0, std, 1, None, "", (2.0,), ("run",))


PICTURES = {
    "curves": lambda path: report.training_curves(rows(True), path),
    "curves_without_validation": lambda path: report.training_curves(rows(None), path),
    "curves_of_no_epochs": lambda path: report.training_curves([], path),
    "confusion": lambda path: report.confusion_matrix([[5, 0], [1, 300]], path),
    "confusion_of_nothing": lambda path: report.confusion_matrix([[0, 0], [0, 0]], path),
    "bytes": lambda path: report.bytes_and_accuracy([("dense", 4000, 98.0), ("pruned", 500, 97.5)], path),
    "paper": lambda path: report.paper_and_ours([result("error", 1.0, 0.5), result("bytes")], "a title", path),
}


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_a_png_and_nothing_else_is_left(name, tmp_path):
    PICTURES[name](tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    assert plt.get_fignums() == []
