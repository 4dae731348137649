"""The report of a sweep: one page that opens anywhere, and the JSON that it is made of."""

import base64
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2

from experiments import report
from experiments.grid import Axis
from experiments.outcomes import COSTS, FILE_METRICS, METRICS, REACHED, Outcome, front, over_seeds
from jaxcompress.export.files import write_whole

_TEMPLATES = pathlib.Path(__file__).parent / "templates"


def write(
    folder: pathlib.Path,
    runs: pathlib.Path,
    title: str,
    command: str,
    axes: Sequence[Axis],
    outcomes: Sequence[Outcome],
) -> list[pathlib.Path]:
    """Writes ``sweep.json``, ``report.html`` and the plots; returns their paths, the page last.

    The page has the numbers of the JSON and needs nothing beside it. Ledgers are those of `runs`, the folder of runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarized(title, command, axes, outcomes)
    data, page = folder / "sweep.json", folder / "report.html"
    write_whole(data, (json.dumps(summary, indent=2) + "\n").encode())
    plots = _plots(folder, axes, outcomes, summary["goal"], summary["costs"])
    write_whole(page, _page(summary, plots, runs).encode())
    return [data, *plots, page]


def summarized(title: str, command: str, axes: Sequence[Axis], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Returns all that a report says, in types of JSON.

    A point is on the front if it is on that of the error against at least one of the costs in which points differ; the
    error is that of LiteRT where files were measured.
    """
    there = {name for outcome in outcomes for name in outcome.metrics}
    goal = "file error" if "file error" in there else "error"
    finished = [outcome for outcome in outcomes if goal in outcome.metrics]
    costs = [name for name in COSTS if len({outcome.metrics.get(name) for outcome in finished}) > 1]
    best: set[str] = set()
    for cost in costs:
        on_front = front([(outcome.metrics[goal], outcome.metrics[cost]) for outcome in finished])
        best |= {outcome.run for outcome, on in zip(finished, on_front, strict=True) if on}
    spreads = over_seeds(outcomes, goal) if any(axis.key == "seed" for axis in axes) else []
    return {
        "title": title,
        "command": command,
        "axes": [axis._asdict() | {"values": list(axis.values)} for axis in axes],
        "goal": goal,
        "costs": costs,
        "metrics": [name for name in (*METRICS, *REACHED.values(), *FILE_METRICS) if name in there],
        "points": [outcome._asdict() | {"front": outcome.run in best} for outcome in outcomes],
        "spreads": [s._asdict() | {"half": None if math.isnan(s.half) else s.half} for s in spreads],
    }


def _plots(
    folder: pathlib.Path, axes: Sequence[Axis], outcomes: Sequence[Outcome], goal: str, costs: Sequence[str]
) -> dict[pathlib.Path, str]:
    """Draws the error over each axis of numbers, and against each cost; returns captions by path."""
    found: dict[pathlib.Path, str] = {}
    finished = [outcome for outcome in outcomes if goal in outcome.metrics]
    for axis in axes:
        numbers = len(axis.values) > 1 and all(isinstance(value, int | float) for value in axis.values)
        if axis.key != "seed" and numbers and finished:
            path = folder / f"{goal.replace(' ', '-')}-over-{axis.key.replace('*', 'all')}.png"
            report.bands(over_seeds(finished, goal), axis.key, f"{goal}, %", path)
            found[path] = f"{goal}, in %, over {axis.key}: means over seeds and their 95 % confidence interval"
    for cost in costs:
        path = folder / f"{goal}-and-{cost}.png".replace(" ", "-")
        places = [(outcome.metrics[cost], outcome.metrics[goal]) for outcome in finished]
        report.front(places, front(places), cost, f"{goal}, %", path)
        found[path] = f"{goal}, in %, against {cost}, with the Pareto front"
    return found


def _page(summary: dict[str, Any], plots: dict[pathlib.Path, str], runs: pathlib.Path) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["number"] = _number
    drawn = [{"data": base64.b64encode(path.read_bytes()).decode(), "caption": text} for path, text in plots.items()]
    points = [point | {"ledger": _ledger(runs / point["run"])} for point in summary["points"]]
    count = sum(point["state"] == "finished" for point in points)
    given = summary | {"plots": drawn, "points": points, "finished": count}
    return environment.get_template("sweep.html").render(given)


def _ledger(run: pathlib.Path) -> str:
    path = run / "ledger.txt"
    return path.read_text() if path.exists() else ""


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
