"""Verifying a finished run: a declared slice of it is trained again, and all that was measured is measured again."""

import hashlib
import json
import math
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

import numpy as np

import jaxcompress as jc
from experiments import config, devices, measures, provenance, quantized, records, runs, train
from experiments.config import Format
from experiments.data import Dataset, fingerprint
from experiments.environment import environment
from experiments.logging import read_rows
from experiments.variables import digest
from jaxcompress.export import packed

LOSS_TOLERANCE = 1e-3  # relative, where other hardware or versions make other bits
ERROR_TOLERANCE = 0.2  # percentage points
SHARE_TOLERANCE = 0.02  # of what lies in [0, 1]: a class has a tenth of the examples, or fewer

_TOLERANCES = {  # of metrics that hang on logits; all others follow from the weights and are equal on every machine
    **dict.fromkeys(("error", "accuracy", "litert_accuracy", "jax_accuracy", "reference_accuracy"), ERROR_TOLERANCE),
    **dict.fromkeys(("precision", "recall", "f1"), SHARE_TOLERANCE),
    "confusion": ERROR_TOLERANCE,
    "input %": 100 * SHARE_TOLERANCE,
}

# Of the report of a TFLite file all but its place, its latency, which is another every time, and what follows from it.
_FILE_METRICS = (
    *("bytes", "jax_accuracy", "litert_accuracy", "reference_accuracy", "differences", "arena", "micro_arena"),
    *("operators", "tensor_types", "converter", "computes"),
)


class Check(NamedTuple):
    """Compares one thing: what the run recorded, what was found now, whether that passes."""

    name: str
    recorded: str
    found: str
    passed: bool


def verify(run: runs.Run, settings: runs.Settings) -> tuple[bool, list[Check]]:
    """Repeats the first epochs of a run's last stage and measures again all that tables and reports print of it.

    Returns whether bits are comparable here (same machine kind, cores, backend, versions; no point of a sweep, whose
    program is another) and the checks. Where they are, weights after each epoch, all test logits and all metrics must
    be equal in every bit; elsewhere losses and errors must agree within `LOSS_TOLERANCE` and `ERROR_TOLERANCE`, shares
    within `SHARE_TOLERANCE`. TFLite files are written and run again, but for their latency. A run of other code is
    verified all the same, which is said; what that code did not record is not compared. Raises ValueError for a run
    that is not finished.
    """
    settings = settings._replace(differing="reuse")
    experiment, recorded = run.experiment, run.metrics
    before = records.read(run.folder / "environment.json", keys=("bits_depend_on", "data_sha256"))
    exact = before["bits_depend_on"] == environment()["bits_depend_on"] and "cohort" not in before
    told = provenance.differences(before, None)
    for line in told:
        settings.say(f"warning: {run.folder.name} was made {line}")
    dataset = runs.dataset(experiment.data, settings.data_dir)
    checks = [_same("data sha256", before["data_sha256"], fingerprint(dataset))]
    if isinstance(experiment.stages[-1], config.PostTraining):
        params = runs.before(experiment, dataset, settings)
        return exact, [*checks, *_quantized(run, experiment, dataset, params, exact, bool(told))]
    params, restored = run.params(), jc.export.load(run.packed_file)
    found = measures.measured(experiment, dataset, params, restored, runs.handed(run, experiment))
    checks.append(_same("packed file", _sha256(run.packed_file), hashlib.sha256(packed.to_bytes(params)).hexdigest()))
    checks += _compared(recorded, found.metrics, exact, bool(told))
    checks += _ledgers(run, str(found.account), found.account.to_json())
    return exact, [*checks, *_files(run, settings, exact), *_slice(run, experiment, dataset, settings, exact)]


def _slice(
    run: runs.Run, experiment: config.Experiment, dataset: Dataset, settings: runs.Settings, exact: bool
) -> Iterator[Check]:
    """Trains the declared slice again."""
    plan, state = runs.start(experiment, dataset, settings)
    last = min(experiment.training.verify, experiment.training.epochs)
    rows = {row["epoch"]: row for row in read_rows(run.folder / "metrics.jsonl")}
    if missing := set(range(1, last + 1)) - set(rows):
        raise ValueError(f"{run.folder / 'metrics.jsonl'} has no row for epoch {min(missing)}")
    for epoch, after, loss in train.epochs(plan.program, state, plan.examples, plan.key, 1, last):
        row = rows[epoch]
        yield _near(f"loss of epoch {epoch}", row["loss"], loss, 0.0 if exact else LOSS_TOLERANCE * row["loss"])
        if exact:
            yield _same(f"weights after epoch {epoch}", row["sha256"], digest(train.params_of(after)))


def _quantized(
    run: runs.Run, experiment: config.Experiment, dataset: Dataset, params: Any, exact: bool, older: bool
) -> Iterator[Check]:
    """Quantizes a model again, and runs the file."""
    with tempfile.TemporaryDirectory() as name:
        again = pathlib.Path(name)
        metrics, _ = quantized.quantize(again, experiment, dataset, params, lambda *_: None)
        yield _same("TFLite file", _sha256(run.folder / "model.tflite"), _sha256(again / "model.tflite"))
        yield from _compared(run.metrics, metrics, exact, older)
        if (run.folder / "ledger.json").exists() or not older:
            yield from _ledgers(run, *((again / f"ledger.{kind}").read_text() for kind in ("txt", "json")))


def _files(run: runs.Run, settings: runs.Settings, exact: bool) -> Iterator[Check]:
    """Writes the TFLite files of a run again that rows of tables are of, and runs them."""
    for format in get_args(Format):
        report = run.folder / f"model-{format}.json"
        if not report.exists():
            continue
        keys = ("calibration", "io")
        recorded = records.read(report, f"remove it to export model-{format}.tflite again", keys=keys)
        calibration = config.structure(recorded["calibration"], config.PostTraining, str(report))
        with tempfile.TemporaryDirectory() as name:
            again = pathlib.Path(name) / f"model-{format}.tflite"
            devices.export(run, again, format, settings.data_dir, io=recorded["io"], calibration=calibration)
            report_now = records.read(again.with_suffix(".json"))
        metrics, older = {key: report_now[key] for key in _FILE_METRICS}, recorded.get("code") != provenance.code()
        for check in _compared(recorded, metrics, exact, older):
            yield check._replace(name=f"{format}: {check.name}")


def _ledgers(run: runs.Run, text: str, json: str) -> Iterator[Check]:
    for name, found in (("ledger.txt", text), ("ledger.json", json)):
        path = run.folder / name
        recorded = path.read_text() if path.exists() else ""
        digests = [hashlib.sha256(each.strip().encode()).hexdigest() for each in (recorded, found)]
        yield _same(name, *digests)


def _compared(recorded: dict[str, Any], found: dict[str, Any], exact: bool, older: bool) -> Iterator[Check]:
    """Compares metrics; those that older code did not record are left out, as are logits where bits are other ones."""
    for name, value in json.loads(json.dumps(found)).items():
        if (older and name not in recorded) or (name == "logits_sha256" and not exact):
            continue
        given = recorded.get(name)
        yield Check(_NAMES.get(name, name), _short(given), _short(value), _agrees(name, given, value, exact))


_NAMES = {"params_sha256": "final weights", "logits_sha256": "logits sha256", "error": "test error, %"}


def _agrees(name: str, recorded: Any, found: Any, exact: bool) -> bool:
    """Tells whether a metric is what it was, or as near as other bits leave it."""
    if isinstance(found, dict):
        same = isinstance(recorded, dict) and recorded.keys() == found.keys()
        return same and all(_agrees(key, recorded[key], value, exact) for key, value in found.items())
    if exact or name not in _TOLERANCES or found is None:
        return type(recorded) is type(found) and recorded == found
    if name == "confusion":
        return _moved(recorded, found) <= _TOLERANCES[name]
    return isinstance(recorded, int | float) and bool(abs(recorded - found) <= _TOLERANCES[name])


def _moved(recorded: Any, found: list[list[int]]) -> float:
    """Returns how many of the examples in % are in another cell of a confusion matrix."""
    try:
        apart = np.abs(np.asarray(recorded, float) - np.asarray(found, float)).sum()
    except (TypeError, ValueError):
        return math.inf
    return float(50 * apart / np.sum(found))


def _sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no file"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.8g}"
    if isinstance(value, dict | list) and value:
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
    return str(value)[:16]


def _same(name: str, recorded: str, found: str) -> Check:
    return Check(name, recorded[:16], found[:16], recorded == found)


def _near(name: str, recorded: float, found: float, tolerance: float) -> Check:
    return Check(name, f"{recorded:.8g}", f"{found:.8g}", bool(np.abs(recorded - found) <= tolerance))
