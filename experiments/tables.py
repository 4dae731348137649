"""Paper beside ours: every row of a table, measured over seeds, with a verdict."""

import json
import math
import pathlib
import statistics
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from experiments import config, devices, report, runs
from experiments.config import Row, Table
from experiments.rehearsal import Rehearsal
from experiments.results import Result
from jaxcompress.export.files import write_whole
from jaxcompress.paths import did_you_mean

COLUMNS = ("row", "metric", "paper", "ours", "n", "difference", "verdict")


def _errors(confusion: list[list[int]]) -> list[int]:
    """Counts the errors on the examples of each class."""
    return [sum(row) - row[label] for label, row in enumerate(confusion)]


# What a row may ask of a whole model, from the metrics of its run.
METRICS: dict[str, Callable[[dict[str, Any]], float]] = {
    "error": lambda m: m["error"],
    "accuracy": lambda m: m["accuracy"],
    "precision": lambda m: m["precision"],
    "recall": lambda m: m["recall"],
    "f1": lambda m: m["f1"],
    "bytes": lambda m: m["bytes"],
    "rate": lambda m: m["rate"],
    "parameters": lambda m: m["parameters"],
    "parameter rate": lambda m: m["dense_parameters"] / m["parameters"],
    "macs": lambda m: m["macs"],
    "memory": lambda m: m["memory"],
    "differ": lambda m: m["differ"],
    "weights": lambda m: m["dense_parameters"],
    "weights %": lambda m: 100 * m["parameters"] / m["dense_parameters"],
    "weights pruned %": lambda m: 100 - 100 * m["parameters"] / m["dense_parameters"],
    "macs %": lambda m: 100 * m["macs"] / m["dense_macs"],
    "FLOP": lambda m: 2 * m["dense_macs"],
    "errors": lambda m: sum(_errors(m["confusion"])),
}
METRICS |= {f"errors on {k}": lambda m, k=k: _errors(m["confusion"])[k] for k in range(10)}


def _differ(report: dict[str, Any]) -> float:
    """Counts the outputs of LiteRT, by both of its kernel libraries, that are not the integers evaluated in JAX."""
    if report["differences"] is None:
        raise ValueError(f"files of format {report['format']!r} are not evaluated in integers")
    return sum(n for counts in report["differences"].values() for value, n in counts.items() if int(value))


# What a row may ask of a TFLite file, from its report; accuracy is that of LiteRT's default kernels.
FILE_METRICS: dict[str, Callable[[dict[str, Any]], float]] = {
    "accuracy": lambda report: report["litert_accuracy"],
    "error": lambda report: 100 - report["litert_accuracy"],
    "bytes": lambda report: report["bytes"],
    "differ": _differ,
    "arena": lambda report: report["arena"],
    "microseconds": lambda report: report["latency"]["median_us"],
}


def _weights_kept(leaf: dict[str, Any]) -> float:
    return 100 * leaf["nonzero"] / leaf["parameters"]


def _per_weight(role: str, coding: str) -> Callable[[dict[str, Any]], float]:
    return lambda leaf: 8 * _stream(leaf, f"{role}:{coding}") / max(1, leaf["nonzero"])


def _rate(codes: str, mask: str) -> Callable[[dict[str, Any]], float]:
    """Returns the stored bytes in % of the dense ones, codebook included, under a pair of codings."""
    return lambda leaf: (
        100
        * (_stream(leaf, f"codes:{codes}") + _stream(leaf, f"mask:{mask}") + leaf["streams"].get("values:raw", 0))
        / leaf["dense_bytes"]
    )


# What a row may ask of one leaf, from its entry in the ledger and its activity. P is pruning, Q shared weights, H is
# Huffman coding. "act %" is of the activations given to the leaf: that of a layer is asked of the next one's leaf.
LEAF_METRICS: dict[str, Callable[[dict[str, Any]], float]] = {
    "weights": lambda leaf: leaf["parameters"],
    "weights %": _weights_kept,
    "FLOP": lambda leaf: 2 * leaf["macs"],
    "act %": lambda leaf: leaf["input %"],
    "FLOP %": lambda leaf: _weights_kept(leaf) * leaf["input %"] / 100,
    "FLOP % of dense input": _weights_kept,
    "weight bits P+Q": _per_weight("codes", "fixed"),
    "weight bits P+Q+H": _per_weight("codes", "huffman"),
    "index bits P+Q": _per_weight("mask", "relative"),
    "index bits P+Q+H": _per_weight("mask", "relative-huffman"),
    "rate P+Q %": _rate("fixed", "relative"),
    "rate P+Q+H %": _rate("huffman", "relative-huffman"),
}


def check(table: Table) -> None:
    """Raises ValueError for a row whose metric is not known, or of another TFLite file than its stage makes.

    Rows that are drawn as curves must begin with a number.
    """
    for row in table.rows:
        if table.picture == "curves":
            report.number(row.row)
        known = list(_metrics(row))
        if row.metric not in known:
            raise ValueError(
                f"row {row.row!r}: unknown metric {row.metric!r}{did_you_mean(row.metric, known)}; {known}"
            )
        (*_, stage) = table.experiments[row.experiment].until(row.stage).stages
        if row.format is not None and isinstance(stage, config.PostTraining):
            raise ValueError(f"row {row.row!r}: stage {row.stage!r} has a file already; a row of it has no format")


def _metrics(row: Row) -> dict[str, Callable[[dict[str, Any]], float]]:
    if row.format is not None:
        return FILE_METRICS
    return METRICS if row.leaf is None else LEAF_METRICS


def reproduce(table: Table, settings: runs.Settings, seeds: int) -> list[Result]:
    """Runs every experiment of a table from `seeds` seeds, as far as its rows need, and measures the rows.

    What is there already is settled, and every stage that is still to be trained is rehearsed, before the first is.
    Raises ValueError as `check` and `runs.settle` do, and as stages do that cannot begin.
    """
    drawn = range(table.first_seed, table.first_seed + seeds)
    check(table)
    runs.settle([_seeded(table, row.experiment, row.stage, seed) for row in table.rows for seed in drawn], settings)
    settings = settings._replace(differing="reuse")
    _rehearse(table, settings)
    return [_result(row, [_run(table, row, seed, settings) for seed in drawn], settings) for row in table.rows]


def _rehearse(table: Table, settings: runs.Settings) -> None:
    rehearsal = Rehearsal(lambda data: runs.dataset(data, settings.data_dir), settings.data_dir)
    for row in table.rows:
        experiment = _seeded(table, row.experiment, row.stage, table.first_seed)
        if runs.locate(experiment, settings.root).finished:
            continue
        try:
            rehearsal.begin(experiment)
        except ValueError as error:
            raise ValueError(f"experiment {row.experiment!r}, as far as stage {row.stage!r}: {error}") from error


def _seeded(table: Table, name: str, stage: str, seed: int) -> config.Experiment:
    return replace(table.experiments[name].until(stage), seed=seed)


def _run(table: Table, row: Row, seed: int, settings: runs.Settings) -> runs.Run:
    return runs.run(_seeded(table, row.experiment, row.stage, seed), settings)


def _result(row: Row, made: list[runs.Run], settings: runs.Settings) -> Result:
    values = tuple(float(_value(row, run, settings)) for run in made)
    mean = statistics.fmean(values)
    std = statistics.stdev(values) if len(values) > 1 else math.nan
    difference = None if row.paper is None else mean - row.paper
    names = tuple(run.folder.name for run in made)
    verdict = _verdict(row, difference)
    return Result(
        row.row, row.shown or row.metric, row.paper, mean, std, len(values), difference, verdict, values, names
    )


def _value(row: Row, run: runs.Run, settings: runs.Settings) -> float:
    if row.format is not None:
        return FILE_METRICS[row.metric](devices.reported(run, row.format, settings.data_dir))
    if row.leaf is None:
        return METRICS[row.metric](run.metrics)
    entries = json.loads((run.folder / "ledger.json").read_text())["entries"]
    by_path = {entry["path"]: entry for entry in entries}
    if row.leaf not in by_path:
        raise ValueError(
            f"row {row.row!r}: no leaf {row.leaf!r}{did_you_mean(row.leaf, list(by_path))}; {list(by_path)}"
        )
    return LEAF_METRICS[row.metric](by_path[row.leaf] | run.metrics["activity"].get(row.leaf, {}))


def _verdict(row: Row, difference: float | None) -> str:
    if difference is None:
        return ""
    if abs(difference) <= row.tolerance + 1e-9:
        return "reproduced"
    return "better" if (difference < 0) == (row.better == "lower") else "worse"


def _stream(leaf: dict[str, Any], name: str) -> int:
    found = leaf["streams"].get(name, leaf["alternatives"].get(name))
    if found is None:
        raise ValueError(f"leaf {leaf['path']} of kind {leaf['kind']} has no {name}")
    return found


def markdown(table: Table, results: list[Result]) -> str:
    """Returns the table as Markdown."""
    lines = [f"# {table.paper}", "", f"{table.table}", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|---|---|---:|---:|---:|---:|---|"]
    for r in results:
        lines.append("| " + " | ".join(cells(r)) + " |")
    if table.differs:
        lines += ["", f"What differs from the paper: {table.differs}"]
    return "\n".join(lines) + "\n"


def cells(result: Result) -> tuple[str, ...]:
    """Returns a result as text, by the columns of a table."""
    spread = "" if math.isnan(result.std) else f" ± {_number(result.std)}"
    return (
        result.row,
        result.metric,
        "" if result.paper is None else _number(result.paper),
        f"{_number(result.mean)}{spread}",
        str(result.n),
        "" if result.difference is None else f"{'+' if result.difference > 0 else ''}{_number(result.difference)}",
        result.verdict,
    )


def write(table: Table, results: list[Result], folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """Writes a table as Markdown, JSON and a picture; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    text, data, picture = (folder / f"{name}{suffix}" for suffix in (".md", ".json", ".png"))
    write_whole(text, markdown(table, results).encode())
    write_whole(data, to_json(table, results).encode())
    draw = {"bars": report.paper_and_ours, "curves": report.curves}[table.picture]
    draw(results, f"{table.paper}: {table.table}", picture)
    return [text, data, picture]


def to_json(table: Table, results: list[Result]) -> str:
    """Returns the table as JSON; a standard deviation over one seed is null."""
    rows = [asdict(r) | {"std": None if math.isnan(r.std) else r.std} for r in results]
    return (
        json.dumps({"paper": table.paper, "table": table.table, "differs": table.differs, "rows": rows}, indent=2)
        + "\n"
    )


def _number(value: float) -> str:
    if value == 0:
        return "0"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:,.{digits}f}"
