"""Tables compare the paper's numbers with runs, whose folders are written here by hand."""

import json
import statistics
from dataclasses import replace

import pytest

from experiments import report, rows, runs, tables
from experiments.config import MLP, Data, Experiment, PostTraining, Row, Stage, Table
from experiments.data import fingerprint
from experiments.environment import environment
from experiments.provenance import code

STAGES = (Stage("dense", 1), Stage("pruned", 1), PostTraining("int8"))
EXPERIMENT = Experiment(Data("digits", 200), MLP((16,)), STAGES)
METRICS = {
    "error": 2.0, "accuracy": 98.0, "precision": 0.9, "recall": 0.8, "f1": 0.85, "bytes": 1000, "rate": 4.0,
    "parameters": 250, "dense_parameters": 1000, "macs": 1184, "dense_macs": 2000, "memory": 500, "differ": 3,
    "sparsity": 0.75, "bits": 4.0,
}  # fmt: skip
DERIVED = {
    "parameter rate": 4.0, "weights": 1000, "weights %": 25.0, "weights pruned %": 75.0, "macs %": 59.2, "FLOP": 4000,
    "errors": 45, **{f"errors on {k}": k for k in range(10)},
}  # fmt: skip
CONFUSION = [[10 - k if i == k else k * (i == (k + 1) % 10) for i in range(10)] for k in range(10)]  # k of 10 are wrong
LEAF = {
    "path": "fc1/kernel", "kind": "Masked(Clustered 4)", "parameters": 100, "nonzero": 20, "dense_bytes": 400,
    "packed_bytes": 41,
    "streams": {"mask:relative-huffman": 15, "codes:huffman": 10, "values:raw": 16},
    "alternatives": {"mask:relative": 20, "mask:bitmask": 13, "codes:fixed": 12},
}  # fmt: skip


@pytest.fixture
def settings(tmp_path):
    return runs.Settings(tmp_path / "runs", None, "disabled", progress=lambda *_: pytest.fail("trained"))


def finished(settings, stage="pruned", seed=0, **metrics):
    """Writes the folder of a finished run, so that none is trained."""
    folder = runs.locate(replace(EXPERIMENT.until(stage), seed=seed), settings.root).folder
    folder.mkdir(parents=True)
    more = {"activity": {"fc1/kernel": {"macs": 100, "input %": 40.0}}, "confusion": CONFUSION}
    more |= {"reached": {"fc1/kernel": {"sparsity": 0.8, "bits": 5.0}}}
    (folder / "metrics.json").write_text(json.dumps(METRICS | more | metrics))
    made = environment() | {"data_sha256": fingerprint(runs.dataset(EXPERIMENT.data, None))}
    (folder / "environment.json").write_text(json.dumps(made))
    (folder / "ledger.json").write_text(json.dumps({"entries": [LEAF]}))


def row(metric="error", **changes):
    return Row("a row", metric, "one", "pruned", **changes)


def table(*rows):
    return Table("a paper", "a table", {"one": EXPERIMENT}, rows, differs="the data")


@pytest.mark.parametrize(
    ("paper", "tolerance", "better", "verdict"),
    [
        (None, 0.0, "lower", ""),
        (2.0, 0.0, "lower", "reproduced"),
        (2.1, 0.1, "lower", "reproduced"),
        (1.9, 0.1, "lower", "reproduced"),
        (1.9, 0.1, "higher", "reproduced"),
        (1.8, 0.1, "lower", "worse"),
        (2.2, 0.1, "lower", "better"),
        (1.8, 0.1, "higher", "better"),
        (2.2, 0.1, "higher", "worse"),
        (0.0, 0.0, "lower", "worse"),
    ],
)
def test_verdict(settings, paper, tolerance, better, verdict):
    finished(settings)
    wanted = row(paper=paper, tolerance=tolerance, better=better)
    (result,) = tables.reproduce(table(wanted), settings, 1)
    assert result.verdict == verdict
    assert result.difference == (None if paper is None else pytest.approx(2.0 - paper))


def test_spread_is_the_sample_standard_deviation(settings):
    errors = [2.0, 3.0, 7.0]
    for seed, error in enumerate(errors):
        finished(settings, seed=seed, error=error)
    (result,) = tables.reproduce(table(row()), settings, 3)
    assert (result.mean, result.n, result.values) == (4.0, 3, (2.0, 3.0, 7.0))
    assert result.std == pytest.approx(statistics.stdev(errors)) == pytest.approx(7**0.5)
    assert len(set(result.runs)) == 3


@pytest.mark.parametrize(
    ("metric", "value"),
    [*((name, METRICS[name]) for name in METRICS if not name.startswith("dense_")), *DERIVED.items()],
)
def test_every_metric_of_a_model_is_read(settings, metric, value):
    stage = "int8" if metric == "differ" else "pruned"
    finished(settings, stage)
    assert tables.reproduce(table(replace(row(metric), stage=stage)), settings, 1)[0].mean == value


def test_every_metric_of_a_model_is_tested():
    tested = {*METRICS, *DERIVED} - {"dense_parameters", "dense_macs"}
    assert tested == {name for name in rows.METRICS if name not in {f"errors on {k}" for k in range(10, 100)}}


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("weights", 100),
        ("weights %", 20.0),
        ("FLOP", 200),
        ("act %", 40.0),
        ("FLOP %", 8.0),
        ("sparsity", 0.8),
        ("bits", 5.0),
        ("FLOP % of dense input", 20.0),
        ("weight bits P+Q", 8 * 12 / 20),
        ("weight bits P+Q+H", 8 * 10 / 20),
        ("index bits P+Q", 8 * 20 / 20),
        ("index bits P+Q+H", 8 * 15 / 20),
        ("rate P+Q %", 100 * (12 + 20 + 16) / 400),
        ("rate P+Q+H %", 100 * (10 + 15 + 16) / 400),
    ],
)
def test_every_metric_of_a_leaf_by_hand(settings, metric, value):
    finished(settings)
    (result,) = tables.reproduce(table(row(metric, leaf="fc1/kernel")), settings, 1)
    assert result.mean == pytest.approx(value)


def test_rows_are_of_their_stage(settings):
    finished(settings, "dense", error=1.0)
    finished(settings, "pruned", error=5.0)
    results = tables.reproduce(table(row(), replace(row(), stage="dense")), settings, 1)
    assert [result.mean for result in results] == [5.0, 1.0]


FILE = {
    "io": "integers", "calibration": {"name": "export", "rounding": "gptq"}, "format": "int8", "code": code(),
    "bytes": 400, "arena": 80,
    "litert_accuracy": 97.0, "latency": {"median_us": 2.5},
    "differences": {"xnnpack": {"-1": 3, "0": 90, "1": 7}, "reference": {"0": 100}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "value"),
    [("accuracy", 97), ("error", 3), ("bytes", 400), ("differ", 10), ("arena", 80), ("microseconds", 2.5)],
)
def test_every_metric_of_a_file_is_read_from_its_report(settings, metric, value):
    finished(settings)
    folder = runs.locate(EXPERIMENT.until("pruned"), settings.root).folder
    (folder / "model-int8.json").write_text(json.dumps(FILE))
    assert tables.reproduce(table(row(metric, format="int8")), settings, 1)[0].mean == value
    assert metric in rows.FILE_METRICS and len(rows.FILE_METRICS) == 6


def test_files_of_floats_have_no_integers_to_differ_from(settings):
    with pytest.raises(ValueError, match="format 'float32' are not evaluated in integers"):
        tables.reproduce(table(row("differ", format="float32")), settings, 1)


def test_a_file_has_one_row_and_one_maker(settings):
    wanted = table(replace(row("bytes", format="int8"), stage="int8"))
    with pytest.raises(ValueError, match="stage 'int8' has a file already"):
        tables.reproduce(wanted, settings, 1)
    with pytest.raises(ValueError, match="row 'a row' has a leaf and a format"):
        row("bytes", leaf="fc1/kernel", format="int8")


def test_curves_are_drawn_over_the_numbers_of_their_rows(settings, tmp_path):
    for seed in (0, 1):
        finished(settings, seed=seed, error=2.0 + seed)
    rows = [replace(row(), row=name, shown=shown) for name in ("80.0 %", "3.5 %") for shown in ("ticket", "reinit")]
    wanted = replace(table(*rows), picture="curves")
    tables.write(wanted, tables.reproduce(wanted, settings, 2), tmp_path, "curves")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert report.number("3.5 %") == 3.5 and report.number("10") == 10
    with pytest.raises(ValueError, match="row 'a row' does not begin with a number"):
        tables.reproduce(replace(table(row()), picture="curves"), settings, 1)


def test_unknown_metric_is_refused_before_any_run(settings):
    with pytest.raises(ValueError, match=r"row 'a row': unknown metric 'eror' \(did you mean 'error'\?\)"):
        tables.reproduce(table(row("eror")), settings, 1)
    with pytest.raises(ValueError, match="unknown metric 'error'"):
        tables.reproduce(table(row("error", leaf="fc1/kernel")), settings, 1)
    with pytest.raises(ValueError, match="unknown metric 'rate'"):
        tables.reproduce(table(row("rate", format="int8")), settings, 1)


def test_unknown_leaf_is_refused_with_those_there_are(settings):
    finished(settings)
    with pytest.raises(ValueError, match=r"no leaf 'fc1/kernl' \(did you mean 'fc1/kernel'\?\)"):
        tables.reproduce(table(row("weights", leaf="fc1/kernl")), settings, 1)


def test_coding_that_a_leaf_lacks_is_named(settings, monkeypatch):
    monkeypatch.setitem(LEAF, "alternatives", {})
    finished(settings)
    with pytest.raises(ValueError, match="fc1/kernel of kind .* has no codes:fixed"):
        tables.reproduce(table(row("weight bits P+Q", leaf="fc1/kernel")), settings, 1)


def test_markdown_json_and_picture_are_written(settings, tmp_path):
    for seed in (0, 1):
        finished(settings, seed=seed, error=2.0 + seed, sparsity=None, bits=None)
    wanted = table(row(paper=3.0, tolerance=1.0), row("bytes"))
    results = tables.reproduce(wanted, settings, 2)
    text, data, picture = tables.write(wanted, results, tmp_path / "tables", "name")
    assert [path.name for path in (text, data, picture)] == ["name.md", "name.json", "name.png"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    lines = text.read_text().splitlines()
    assert "| a row | error | 3.00 | 2.50 ± 0.71 | 2 | -0.50 | reproduced |" in lines
    assert "| a row | bytes |  | 1,000 ± 0 | 2 |  |  |" in lines
    assert "the data" in text.read_text()
    first = json.loads(data.read_text())["rows"][0]
    assert first.items() >= {"row": "a row", "metric": "error", "paper": 3.0, "mean": 2.5, "n": 2}.items()
    assert first["verdict"] == "reproduced" and first["std"] == pytest.approx(0.5**0.5)
    assert data.read_text() == tables.to_json(wanted, results)


def test_one_seed_has_no_spread(settings, tmp_path):
    finished(settings)
    wanted = table(row(paper=2.0))
    results = tables.reproduce(wanted, settings, 1)
    tables.write(wanted, results, tmp_path / "tables", "name")
    assert json.loads(tables.to_json(wanted, results))["rows"][0]["std"] is None
    assert "±" not in tables.markdown(wanted, results)


def test_what_was_reached_stands_in_the_table(settings, tmp_path):
    late = "stage 'pruned': Magnitude of 'fc1/kernel': sparsity 0.41 of 0.9 is reached"
    for seed, sparsity in enumerate((0.25, 0.5)):
        finished(settings, seed=seed, sparsity=sparsity, bits=5.5, unreached=[late])
    finished(settings, "dense", sparsity=None, bits=None)
    finished(settings, "dense", seed=1, sparsity=None, bits=None)
    wanted = table(row("bytes"), replace(row(), stage="dense"))
    results = tables.reproduce(wanted, settings, 2)
    text = tables.markdown(wanted, results)
    assert "| n | difference | verdict | reached |" in text and f"\nNot reached: {late}\n" in text
    assert "| 2 |  |  | sparsity 0.375, 5.5 bits |" in text and text.splitlines()[7].endswith("| 2 |  |  |  |")
    of_rows = json.loads(tables.to_json(wanted, results))["rows"]
    assert [(r["sparsity"], r["bits"], r["unreached"]) for r in of_rows] == [(0.375, 5.5, [late]), (None, None, [])]


def test_overrides_are_said_in_text_json_and_picture(settings, tmp_path, monkeypatch):
    finished(settings)
    wanted, titles = table(row()), []
    results = tables.reproduce(wanted, settings, 1)
    draw = report.paper_and_ours
    monkeypatch.setattr(report, "paper_and_ours", lambda r, title, path: titles.append(title) or draw(r, title, path))
    told = ("--set experiments.*.data.limit=500", "--seeds 1")
    text, data, _ = tables.write(wanted, results, tmp_path, "sliced", told)
    for place in (text.read_text(), *titles):
        assert "it has the overrides --set experiments.*.data.limit=500, --seeds 1" in place
    assert json.loads(data.read_text())["overrides"] == list(told)
    tables.write(wanted, results, tmp_path, "whole")
    assert "overrides" not in (tmp_path / "whole.md").read_text() + titles[1]


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("metrics.json", "", r"metrics\.json is damaged \(Expecting value"),
        ("metrics.json", "[]", r"metrics\.json is damaged \(it holds a list"),
        ("metrics.json", "{}", r"metrics\.json is damaged \(row 'a row', 'error': KeyError 'error'\)"),
        ("metrics.json", '{"error": "low"}', r"metrics\.json is damaged \(row 'a row', 'error': .*'low' is no number"),
        ("ledger.json", '{"entries": [{}]}', r"ledger\.json is damaged \(row 'a row', 'weights': KeyError 'path'\)"),
        ("ledger.json", "", r"ledger\.json is damaged"),
        ("environment.json", '{"code', r"environment\.json is damaged"),
    ],
)
def test_a_damaged_file_is_named_with_its_remedy(settings, file, content, told):
    finished(settings)
    path = runs.locate(EXPERIMENT.until("pruned"), settings.root).folder / file
    path.write_text(content)
    wanted = row("weights", leaf="fc1/kernel") if file == "ledger.json" else row()
    with pytest.raises(ValueError, match=rf"{told}.*; remove its folder and give the command that made it again"):
        tables.reproduce(table(wanted), settings, 1)
