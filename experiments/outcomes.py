"""What the points of a sweep came to: their numbers, which of them no other one beats, and their spread over seeds."""

import math
import pathlib
import shlex
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from experiments import devices, runs
from experiments.config import Format
from experiments.grid import Point
from experiments.results import Spread

# Of a run, and of its TFLite file as LiteRT runs it.
METRICS = ("error", "accuracy", "precision", "recall", "f1", "bytes", "rate", "parameters", "macs")
REACHED = {"sparsity": "reached sparsity", "bits": "reached bits"}  # apart from what an axis of that name asks for
FILE_METRICS = ("file error", "file bytes", "microseconds")
COSTS = ("bytes", "macs", "parameters", "file bytes", "microseconds")  # what an error is weighed against


class Outcome(NamedTuple):
    """Holds a point by its values: its run, the command that makes it alone, and its metrics, errors in %.

    There are no metrics where it diverged or is not there yet; `state` says which. `unreached` says which schedules did
    not come to their end.
    """

    values: dict[str, Any]
    run: str
    command: str
    state: str
    metrics: dict[str, float]
    unreached: tuple[str, ...] = ()


def outcome(point: Point, run: runs.Run, command: str, format: Format | None, data_dir: pathlib.Path | None) -> Outcome:
    """Reads what a point came to; with a `format` its TFLite file is written, if need be, and measured."""
    if not run.finished:
        state = "not there" if (ended := run.diverged) is None else f"diverged in epoch {ended.epoch}"
        return Outcome(point.values, run.folder.name, command, state, {})
    recorded = run.metrics
    metrics = {name: float(recorded[name]) for name in METRICS if name in recorded}
    metrics |= {shown: float(recorded[name]) for name, shown in REACHED.items() if recorded.get(name) is not None}
    if format is not None:
        report = devices.reported(run, format, data_dir)
        of_file = (100 - report["litert_accuracy"], report["bytes"], report["latency"]["median_us"])
        metrics |= dict(zip(FILE_METRICS, map(float, of_file), strict=True))
    return Outcome(point.values, run.folder.name, command, "finished", metrics, tuple(recorded.get("unreached", ())))


def command(point: Point, given: Sequence[str]) -> str:
    """Returns the command line that makes one point alone: what the sweep was given besides, and its values."""
    values = (f"--over={key}={value}" for key, value in point.values.items())
    return shlex.join(["python", "scripts/sweep.py", *given, *values])


def front(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Tells of each point whether it is on the Pareto front: none is as good in every cost and better in one."""
    table = np.asarray(costs, float)
    if not table.size:
        return []
    no_worse = (table[:, None] <= table[None]).all(-1)
    better = (table[:, None] < table[None]).any(-1)
    return [not beaten for beaten in np.any(no_worse & better, axis=0).tolist()]


def over_seeds(outcomes: Sequence[Outcome], metric: str) -> list[Spread]:
    """Gathers the finished points that differ in their seed alone, in the order of the first of each."""
    settings: dict[str, tuple[dict[str, Any], list[float]]] = {}
    for found in outcomes:
        if metric in found.metrics:
            values = {key: value for key, value in found.values.items() if key != "seed"}
            settings.setdefault(repr(values), (values, []))[1].append(found.metrics[metric])
    return [
        Spread(values, statistics.fmean(numbers), _half(numbers), len(numbers)) for values, numbers in settings.values()
    ]


def _half(numbers: Sequence[float]) -> float:
    if len(numbers) < 2:
        return math.nan
    deviation = statistics.stdev(numbers) / math.sqrt(len(numbers))
    return float(stats.t.ppf(0.975, len(numbers) - 1)) * deviation
