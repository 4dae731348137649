"""What the rows of a table may ask of a run, and whether it will be there, found before anything is trained."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp

import jaxcompress as jc
from experiments import build, config, data, devices, evaluate, post_training, records, report, runs
from experiments.config import Row, Table
from experiments.reached import reached
from jaxcompress.paths import did_you_mean


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
    "sparsity": lambda m: m["sparsity"],
    "bits": lambda m: m["bits"],
    "errors": lambda m: sum(_errors(m["confusion"])),
}
METRICS |= {f"errors on {k}": lambda m, k=k: _errors(m["confusion"])[k] for k in range(max(data.CLASSES.values()))}


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
    "sparsity": lambda leaf: leaf["sparsity"],
    "bits": lambda leaf: leaf["bits"],
    "rate P+Q %": _rate("fixed", "relative"),
    "rate P+Q+H %": _rate("huffman", "relative-huffman"),
}


def _stream(leaf: dict[str, Any], name: str) -> int:
    found = leaf["streams"].get(name, leaf["alternatives"].get(name))
    if found is None:
        raise ValueError(f"leaf {leaf['path']} of kind {leaf['kind']} has no {name}")
    return found


def value(row: Row, run: runs.Run, settings: runs.Settings) -> float:
    """Returns what a row asks of a finished run; raises ValueError, which names the file, if that is not there."""
    if row.format is not None:
        return float(FILE_METRICS[row.metric](devices.reported(run, row.format, settings.data_dir)))
    file = run.folder / ("metrics.json" if row.leaf is None else "ledger.json")
    try:
        if row.leaf is None:
            found = METRICS[row.metric](run.metrics)
        else:
            found = LEAF_METRICS[row.metric](_entry(row, _entries(run)))
        if not isinstance(found, int | float):
            raise TypeError(f"{found!r} is no number")
        return float(found)
    except (KeyError, IndexError, TypeError, AttributeError, ZeroDivisionError) as error:
        why = f"row {row.row!r}, {row.metric!r}: {type(error).__name__} {error}"
        raise records.damaged(file, why) from error


def _entries(run: runs.Run) -> dict[str, dict[str, Any]]:
    """Returns by path what is known of the leaves of a run."""
    metrics = run.metrics
    entries = records.read(run.folder / "ledger.json", keys=("entries",))["entries"]
    more = [metrics.get(name, {}) for name in ("activity", "reached")]
    return {entry["path"]: entry | more[0].get(entry["path"], {}) | more[1].get(entry["path"], {}) for entry in entries}


def _entry(row: Row, entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if row.leaf not in entries:
        known = list(entries)
        raise ValueError(f"row {row.row!r}: no leaf {row.leaf!r}{did_you_mean(str(row.leaf), known)}; {known}")
    return entries[row.leaf]


def check(table: Table) -> None:
    """Raises ValueError for a row that asks what its stage will not have, as far as the configuration tells.

    Rows that are drawn as curves must begin with a number.
    """
    for row in table.rows:
        if table.picture == "curves":
            report.number(row.row)
        experiment = table.experiments[row.experiment].until(row.stage)
        _check_metric(row, experiment, data.CLASSES[experiment.data.name])


def _check_metric(row: Row, experiment: config.Experiment, classes: int) -> None:
    stage = experiment.stages[-1]
    known = {True: FILE_METRICS, False: METRICS if row.leaf is None else LEAF_METRICS}[row.format is not None]
    names = [name for name in known if not name.startswith("errors on ")]
    if row.metric not in known:
        raise ValueError(f"row {row.row!r}: unknown metric {row.metric!r}{did_you_mean(row.metric, names)}; {names}")
    if row.metric.startswith("errors on ") and int(row.metric.removeprefix("errors on ")) >= classes:
        there = f"{experiment.data.name} has the classes 0 to {classes - 1}"
        raise ValueError(f"row {row.row!r}: metric {row.metric!r}: {there}")
    quantizes = isinstance(stage, config.PostTraining)
    if row.format is not None and quantizes:
        raise ValueError(f"row {row.row!r}: stage {row.stage!r} has a file already; a row of it has no format")
    if row.metric == "differ" and row.format is None and not quantizes:
        raise ValueError(
            f"row {row.row!r}: metric 'differ' is of PostTraining stages and of rows with a format; stage {row.stage!r}"
            f" trains"
        )
    if row.metric == "differ" and row.format is not None and row.format not in devices.INTEGERS:
        known_formats = ", ".join(devices.INTEGERS)
        raise ValueError(
            f"row {row.row!r}: files of format {row.format!r} are not evaluated in integers, so that metric 'differ' is"
            f" of {known_formats}"
        )


class Outlines:
    """Knows what rows may ask of stages that are still to be trained, by the parameters that they begin with."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, dict[str, Any]]] = {}

    def check(self, row: Row, experiment: config.Experiment, dataset: data.Dataset, params: Any) -> None:
        """Raises ValueError for a row that asks what the last stage, which begins with `params`, will not leave."""
        _check_metric(row, experiment, dataset.classes)
        if row.format is not None:
            return
        if row.leaf is None:
            if row.metric in ("sparsity", "bits") and self._of_model(row.metric, experiment, params) is None:
                kind = {"sparsity": "masked", "bits": "rounded"}[row.metric]
                raise ValueError(f"row {row.row!r}: metric {row.metric!r}: no weight of stage {row.stage!r} is {kind}")
            return
        name = config.fingerprint(experiment)
        if name not in self._entries:
            self._entries[name] = _outlined(experiment, dataset, params)
        entry = _entry(row, self._entries[name])
        try:
            LEAF_METRICS[row.metric](entry)
        except KeyError as missing:
            raise ValueError(f"row {row.row!r}: leaf {row.leaf!r} has no {missing.args[0]!r}") from None
        except ValueError as error:
            raise ValueError(f"row {row.row!r}: {error}") from None

    def _of_model(self, metric: str, experiment: config.Experiment, params: Any) -> float | None:
        if metric == "bits" and isinstance(experiment.stages[-1], config.PostTraining):
            return experiment.stages[-1].bits
        return getattr(reached(params), metric)


def _outlined(experiment: config.Experiment, dataset: data.Dataset, params: Any) -> dict[str, dict[str, Any]]:
    """Returns by path what will be known of leaves, in numbers that training changes."""
    found = reached(params).leaves
    if isinstance(experiment.stages[-1], config.PostTraining):
        apply, weights = post_training.read(experiment, dataset, params)
        params = jc.densify(weights)
        found = {f"{name}/kernel": found.get(f"{name}/kernel", {}) | {"bits": 8.0} for name in weights}
    else:
        apply = build.predictor(experiment.model, dataset.classes, experiment.activations)
    entries = {entry.path: asdict(entry) for entry in jc.ledger(None, params).entries}
    images = jax.ShapeDtypeStruct(dataset.test.images.shape, jnp.float32)
    for path, macs in evaluate.multiply_adds(apply, params, images).items():
        if path in entries:
            entries[path] |= {"macs": macs, "input %": 100.0}
    return {path: entry | found.get(path, {}) for path, entry in entries.items()}
