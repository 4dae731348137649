"""The page says what the JSON says."""

import html.parser
import json

import pytest

from experiments import sweep_report
from experiments.grid import Axis
from experiments.outcomes import Outcome

AXES = [Axis("sparsity", (0.5, 0.9)), Axis("seed", (0, 1))]


def outcomes():
    numbers = {(0.5, 0): (1.25, 4000), (0.5, 1): (1.75, 4010), (0.9, 0): (2.123456789, 1000), (0.9, 1): (3.0, 1001)}
    for (sparsity, seed), (error, size) in numbers.items():
        values, metrics = {"sparsity": sparsity, "seed": seed}, {"error": error, "bytes": float(size), "macs": 7.0}
        yield Outcome(values, f"pruned-{size}", f"python scripts/sweep.py --over=seed={seed}", "finished", metrics)


class Cells(html.parser.HTMLParser):
    """Collects the exact values of the rows of every table, by its name."""

    def __init__(self):
        super().__init__()
        self.rows, self.at, self.links = {}, "", []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "table":
            self.at = given["id"]
        if tag == "tr":
            self.rows.setdefault(self.at, []).append(([], given.get("class")))
        if tag == "td" and "data-value" in given:
            self.rows[self.at][-1][0].append(given["data-value"])
        self.links += [value for name, value in attrs if name in ("src", "href")]


@pytest.fixture
def written(tmp_path):
    (tmp_path / "runs" / "pruned-1000").mkdir(parents=True)
    (tmp_path / "runs" / "pruned-1000" / "ledger.txt").write_text("a ledger <of> bytes")
    paths = sweep_report.write(tmp_path, tmp_path / "runs", "a sweep", "the command", AXES, list(outcomes()))
    return tmp_path, paths


def test_numbers_of_the_page_are_those_of_the_json(written):
    folder, _ = written
    summary, cells = json.loads((folder / "sweep.json").read_text()), Cells()
    cells.feed((folder / "report.html").read_text())
    head, *rows = cells.rows["points"]
    for (found, marked), point in zip(rows, summary["points"], strict=True):
        expected = [*point["values"].values(), *(point["metrics"][name] for name in summary["metrics"])]
        assert list(map(float, found)) == expected
        assert (marked == "front") == point["front"]
    head, *rows = cells.rows["seeds"]
    for (found, _), spread in zip(rows, summary["spreads"], strict=True):
        assert list(map(float, found)) == [0.5 if spread["mean"] == 1.5 else 0.9, spread["mean"], spread["half"], 2]


def test_the_page_needs_nothing_beside_it(written):
    folder, _ = written
    cells = Cells()
    cells.feed((folder / "report.html").read_text())
    assert cells.links and all(link.startswith(("data:", "#")) for link in cells.links)


def test_ledgers_and_commands_are_shown_as_they_are(written):
    folder, _ = written
    page = (folder / "report.html").read_text()
    assert "a ledger &lt;of&gt; bytes" in page and page.count("python scripts/sweep.py --over=seed=") == 4


def test_plots_are_drawn_of_what_differs(written):
    folder, paths = written
    assert {path.name for path in paths} == {
        "sweep.json",
        "error-over-sparsity.png",
        "error-and-bytes.png",
        "report.html",
    }
    assert all(path.stat().st_size > 1000 for path in paths if path.suffix == ".png")


def test_front_is_of_the_error_and_a_cost(written):
    folder, _ = written
    summary = json.loads((folder / "sweep.json").read_text())
    assert summary["costs"] == ["bytes"] and [point["front"] for point in summary["points"]] == [
        True,
        False,
        True,
        False,
    ]


def test_points_that_are_not_there_are_shown_without_numbers(tmp_path):
    lost = Outcome({"sparsity": 0.5, "seed": 0}, "pruned-0", "a command", "diverged in epoch 2", {})
    sweep_report.write(tmp_path, tmp_path, "a sweep", "the command", AXES, [lost])
    page = (tmp_path / "report.html").read_text()
    assert "diverged in epoch 2" in page and "0 of 1 points finished" in page


def test_files_measured_are_what_the_front_is_of(tmp_path):
    def of(size, error):
        metrics = {"error": 1.0, "bytes": 5.0, "file error": error, "file bytes": size, "microseconds": 10.0}
        return Outcome({"seed": int(size)}, f"r{size}", "", "finished", metrics)

    summary = sweep_report.summarized(
        "a sweep", "", [Axis("seed", (1, 2, 3))], [of(1.0, 2.0), of(2.0, 1.0), of(3.0, 1.5)]
    )
    assert summary["goal"] == "file error" and summary["costs"] == ["file bytes"]
    assert [point["front"] for point in summary["points"]] == [True, True, False]


def test_what_was_reached_and_what_was_not_stand_on_the_page(tmp_path):
    late = "stage 'pruned': sparsity 0.41 of 0.9 <is> reached"
    metrics = {"error": 1.0, "reached sparsity": 0.41, "reached bits": 4.0}
    found = [Outcome({"sparsity": 0.9}, "pruned-1", "the command", "finished", metrics, (late,))]
    *_, page = sweep_report.write(tmp_path, tmp_path / "runs", "a sweep", "the command", AXES[:1], found)
    (point,) = json.loads((tmp_path / "sweep.json").read_text())["points"]
    assert point["unreached"] == [late] and point["metrics"]["reached sparsity"] == 0.41
    text = page.read_text()
    assert "<th>reached sparsity</th><th>reached bits</th>" in text and 'data-value="0.41"' in text
    assert "Not reached: stage &#39;pruned&#39;: sparsity 0.41 of 0.9 &lt;is&gt; reached" in text
