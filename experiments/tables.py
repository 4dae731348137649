"""Paper beside ours: every row of a table, measured over seeds, with a verdict."""

import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

from experiments import config, report, rows, runs
from experiments.config import Row, Table
from experiments.rehearsal import Rehearsal
from experiments.results import Result
from jaxcompress.export.files import write_whole

COLUMNS = ("row", "metric", "paper", "ours", "n", "difference", "verdict")


def reproduce(table: Table, settings: runs.Settings, seeds: int) -> list[Result]:
    """Runs every experiment of a table from `seeds` seeds, as far as its rows need, and measures the rows.

    What is there already is settled, and every stage that is still to be trained is rehearsed, before the first is.
    Raises ValueError as `rows.check` and `runs.settle` do, and as stages do that cannot begin.
    """
    drawn = range(table.first_seed, table.first_seed + seeds)
    rows.check(table)
    asked = [_seeded(table, row.experiment, row.stage, seed) for row in table.rows for seed in drawn]
    runs.settle(asked, settings)
    settings = settings._replace(differing="reuse")
    _rehearse(table, settings)
    runs.warn(asked, settings)
    return [_result(row, [_run(table, row, seed, settings) for seed in drawn], settings) for row in table.rows]


def _rehearse(table: Table, settings: runs.Settings) -> None:
    """Begins every stage of a row that is still to be trained, and finds rows that ask for what it will not have."""
    load = lambda data: runs.dataset(data, settings.data_dir)
    rehearsal, outlines = Rehearsal(load, settings.data_dir), rows.Outlines()
    for row in table.rows:
        experiment = _seeded(table, row.experiment, row.stage, table.first_seed)
        run = runs.locate(experiment, settings.root)
        if run.finished:
            if row.format is None:
                rows.value(row, run, settings)
            continue
        try:
            outlines.check(row, experiment, load(experiment.data), rehearsal.begin(experiment))
        except ValueError as error:
            raise ValueError(f"experiment {row.experiment!r}, as far as stage {row.stage!r}: {error}") from error


def _seeded(table: Table, name: str, stage: str, seed: int) -> config.Experiment:
    return replace(table.experiments[name].until(stage), seed=seed)


def _run(table: Table, row: Row, seed: int, settings: runs.Settings) -> runs.Run:
    return runs.run(_seeded(table, row.experiment, row.stage, seed), settings)


def _result(row: Row, made: list[runs.Run], settings: runs.Settings) -> Result:
    values = tuple(rows.value(row, run, settings) for run in made)
    mean = statistics.fmean(values)
    std = statistics.stdev(values) if len(values) > 1 else math.nan
    difference = None if row.paper is None else mean - row.paper
    names = tuple(run.folder.name for run in made)
    verdict = _verdict(row, difference)
    metrics = [run.metrics for run in made]
    unreached = dict.fromkeys(line for of_run in metrics for line in of_run.get("unreached", ()))
    return Result(
        row=row.row,
        metric=row.shown or row.metric,
        paper=row.paper,
        mean=mean,
        std=std,
        n=len(values),
        difference=difference,
        verdict=verdict,
        values=values,
        runs=names,
        sparsity=_mean(of_run.get("sparsity") for of_run in metrics),
        bits=_mean(of_run.get("bits") for of_run in metrics),
        unreached=tuple(unreached),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _verdict(row: Row, difference: float | None) -> str:
    if difference is None:
        return ""
    if abs(difference) <= row.tolerance + 1e-9:
        return "reproduced"
    return "better" if (difference < 0) == (row.better == "lower") else "worse"


def columns(results: Sequence[Result]) -> tuple[str, ...]:
    """Returns the columns of a table: what was reached of sparsity and bits is one where there is any."""
    return (*COLUMNS, *(["reached"] if any(_reached(result) for result in results) else []))


def cells(result: Result, columns: Sequence[str] = COLUMNS) -> tuple[str, ...]:
    """Returns a result as text, by the columns of a table."""
    spread = "" if math.isnan(result.std) else f" ± {_number(result.std)}"
    text = {
        "row": result.row,
        "metric": result.metric,
        "paper": "" if result.paper is None else _number(result.paper),
        "ours": f"{_number(result.mean)}{spread}",
        "n": str(result.n),
        "difference": "" if result.difference is None else _signed(result.difference),
        "verdict": result.verdict,
        "reached": _reached(result),
    }
    return tuple(text[name] for name in columns)


def _reached(result: Result) -> str:
    sparsity = [] if result.sparsity is None else [f"sparsity {result.sparsity:.4g}"]
    return ", ".join([*sparsity, *([] if result.bits is None else [f"{result.bits:.3g} bits"])])


def notes(table: Table, results: Sequence[Result], overrides: Sequence[str]) -> list[str]:
    """Returns what a reader has to know of a table, a paragraph each."""
    told = [f"This is not the table of its file; it has the overrides {', '.join(overrides)}"] if overrides else []
    unreached = dict.fromkeys(line for result in results for line in result.unreached)
    told += [f"Not reached: {line}" for line in unreached]
    return [*told, *([f"What differs from the paper: {table.differs}"] if table.differs else [])]


def markdown(table: Table, results: Sequence[Result], overrides: Sequence[str] = ()) -> str:
    """Returns the table as Markdown."""
    names = columns(results)
    lines = [f"# {table.paper}", "", f"{table.table}", ""]
    rule = ["---:" if name in ("paper", "ours", "n", "difference") else "---" for name in names]
    for line in (names, rule, *(cells(result, names) for result in results)):
        lines.append("| " + " | ".join(line) + " |" if line is not rule else "|" + "|".join(line) + "|")
    for note in notes(table, results, overrides):
        lines += ["", note]
    return "\n".join(lines) + "\n"


def write(
    table: Table, results: Sequence[Result], folder: pathlib.Path, name: str, overrides: Sequence[str] = ()
) -> list[pathlib.Path]:
    """Writes a table as Markdown, JSON and a picture; returns their paths. All three say its `overrides`."""
    folder.mkdir(parents=True, exist_ok=True)
    text, data, picture = (folder / f"{name}{suffix}" for suffix in (".md", ".json", ".png"))
    write_whole(text, markdown(table, results, overrides).encode())
    write_whole(data, to_json(table, results, overrides).encode())
    draw = {"bars": report.paper_and_ours, "curves": report.curves}[table.picture]
    told = notes(replace(table, differs=""), results, overrides)  # what differs from the paper is too long for a title
    draw(list(results), "\n".join([f"{table.paper}: {table.table}", *told]), picture)
    return [text, data, picture]


def to_json(table: Table, results: Sequence[Result], overrides: Sequence[str] = ()) -> str:
    """Returns the table as JSON; a standard deviation over one seed is null."""
    of_rows = [asdict(r) | {"std": None if math.isnan(r.std) else r.std} for r in results]
    told = {"paper": table.paper, "table": table.table, "differs": table.differs, "overrides": list(overrides)}
    return json.dumps(told | {"rows": of_rows}, indent=2) + "\n"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{_number(value)}"


def _number(value: float) -> str:
    if value == 0:
        return "0"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:,.{digits}f}"
