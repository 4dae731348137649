"""Verifying a finished run: a declared slice of it is done again and compared."""

import hashlib
import json
from typing import NamedTuple

import numpy as np

import jaxcompress as jc
from experiments import build, config, evaluate, post_training, runs, train
from experiments.data import fingerprint
from experiments.environment import environment
from experiments.logging import read_rows
from experiments.variables import digest
from jaxcompress.export import writer

LOSS_TOLERANCE = 1e-3  # relative, where other hardware or versions make other bits
ERROR_TOLERANCE = 0.2  # percentage points


class Check(NamedTuple):
    """Compares one thing: what the run recorded, what was found now, whether that passes."""

    name: str
    recorded: str
    found: str
    passed: bool


def verify(run: runs.Run, settings: runs.Settings) -> tuple[bool, list[Check]]:
    """Repeats the first epochs of a run's last stage and the evaluation of its packed file; quantizes it again.

    Returns whether bits are comparable here (same machine kind, cores, backend, versions; no point of a sweep, whose
    program is another) and the checks. Where they are, weights after each epoch and all test logits must be equal in
    every bit; elsewhere losses and errors must agree within `LOSS_TOLERANCE` and `ERROR_TOLERANCE`. Raises ValueError
    for a run that is not finished.
    """
    experiment, recorded = run.experiment, run.metrics
    before = json.loads((run.folder / "environment.json").read_text())
    here = environment()["bits_depend_on"]
    exact = before["bits_depend_on"] == here and "cohort" not in before
    dataset = runs.dataset(experiment.data, settings.data_dir)
    checks = [_same("data sha256", before["data_sha256"], fingerprint(dataset))]
    if isinstance(experiment.stages[-1], config.PostTraining):
        params = runs.before(experiment, dataset, settings)
        model = post_training.rounded(experiment, dataset, params).integers()
        written = hashlib.sha256(writer.to_bytes(model)).hexdigest()
        return exact, [*checks, _same("TFLite file", recorded["tflite_sha256"], written)]
    checks += [
        _same("final weights", recorded["params_sha256"], digest(run.params())),
    ]
    logits = build.predictor(experiment.model, dataset.classes, experiment.activations)
    outputs = evaluate.predict(logits, jc.export.load(run.packed_file), dataset.test.images)
    if exact:
        checks.append(_same("logits sha256", recorded["logits_sha256"], hashlib.sha256(outputs.tobytes()).hexdigest()))
    error = evaluate.quality(outputs, dataset.test.labels).error
    checks.append(_near("test error, %", recorded["error"], error, 0.0 if exact else ERROR_TOLERANCE))
    plan, state = runs.start(experiment, dataset, settings)
    last = min(experiment.training.verify, experiment.training.epochs)
    rows = {row["epoch"]: row for row in read_rows(run.folder / "metrics.jsonl")}
    if missing := set(range(1, last + 1)) - set(rows):
        raise ValueError(f"{run.folder / 'metrics.jsonl'} has no row for epoch {min(missing)}")
    for epoch, after, loss in train.epochs(plan.program, state, plan.examples, plan.key, 1, last):
        row = rows[epoch]
        checks.append(
            _near(f"loss of epoch {epoch}", row["loss"], loss, 0.0 if exact else LOSS_TOLERANCE * row["loss"])
        )
        if exact:
            checks.append(_same(f"weights after epoch {epoch}", row["sha256"], digest(train.params_of(after))))
    return exact, checks


def _same(name: str, recorded: str, found: str) -> Check:
    return Check(name, recorded[:16], found[:16], recorded == found)


def _near(name: str, recorded: float, found: float, tolerance: float) -> Check:
    return Check(name, f"{recorded:.8g}", f"{found:.8g}", bool(np.abs(recorded - found) <= tolerance))
