"""Runs: an experiment's stages, each in a folder named by the hash of its configuration, each done once.

A run is the last stage of an experiment on top of the run of the stages before it, so that what branches from one
trunk trains the trunk once. Everything in a folder is written whole or appended line by line, so that a run may be
killed at any time and goes on from its last checkpoint to the same bits.
"""

import json
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml

import jaxcompress as jc
from experiments import build, config, evaluate, provenance, quantized, records, report, train
from experiments.checkpoints import Checkpoints, load_params, save_params
from experiments.claims import claimed
from experiments.data import Dataset, fingerprint, load
from experiments.disk import writing
from experiments.environment import environment
from experiments.leftovers import clear, clear_finished
from experiments.lineage import lineage, parents
from experiments.logging import Log, WandbMode, append_row, read_rows, wandb_log
from experiments.measures import measured
from experiments.plan import Made, Plan, given, rewound
from experiments.processes import first, wait_until
from experiments.ramps import unreached
from experiments.teachers import taught, transferred
from experiments.variables import digest
from jaxcompress.export.files import write_whole

Best = tuple[Any, np.float32]  # parameters and their validation error, in float32 as a checkpoint keeps it


_WARNINGS = 10  # lines of them; the points of a sweep may have a thousand

Differing = Literal["stop", "reuse", "anew"]


class Settings(NamedTuple):
    """Says where runs live and how they report; none of it changes a result.

    `progress(done, total, text)` is called after every epoch, and ``say(text)`` is told what else a user may want to
    know. A checkpoint is written when `checkpoint_seconds` have passed since the last one. In Weights & Biases runs
    stand in a `group` if there is one; packed files go there if they are to be uploaded (`upload`). What is there and
    is `differing`, made from other data or by other code, stops what would use it, or is used again all the same
    (``reuse``), or is made ``anew``.
    """

    root: pathlib.Path
    data_dir: pathlib.Path | None = None
    wandb: WandbMode = "auto"
    checkpoint_seconds: float = 20.0
    progress: Callable[[int, int, str], None] = lambda done, total, text: None
    say: Callable[[str], None] = lambda text: None
    group: str | None = None
    differing: Differing = "stop"
    upload: bool = True


class Run(NamedTuple):
    """Names the folder of a run and gives what it left there."""

    folder: pathlib.Path

    @property
    def experiment(self) -> config.Experiment:
        """The experiment whose last stage this run is."""
        path = self.folder / "config.yaml"
        if not path.exists():
            raise ValueError(f"{self.folder} is not a run: it has no config.yaml")
        try:
            document = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise records.damaged(path, " ".join(str(error).split())) from error
        return config.structure(document, config.Experiment, str(path))

    @property
    def metrics(self) -> dict[str, Any]:
        """The final numbers; raises ValueError if the run is not finished."""
        if not self.finished:
            raise ValueError(f"{self.folder} is not finished; run the same command again to go on with it")
        return records.read(self.folder / "metrics.json")

    @property
    def recorded(self) -> dict[str, Any]:
        """What is recorded of how the run was made: machine, versions, data; empty if nothing is."""
        path = self.folder / "environment.json"
        return records.read(path) if path.exists() else {}

    @property
    def finished(self) -> bool:
        """Whether the run is done; its metrics are the last thing written."""
        return (self.folder / "metrics.json").exists()

    @property
    def begun(self) -> bool:
        """Whether there is something to use again: what is finished or diverged, or a checkpoint to go on from."""
        kept = Checkpoints(self.folder / "checkpoint")
        return self.finished or (self.folder / "diverged.json").exists() or bool(kept.epochs())

    @property
    def diverged(self) -> train.Diverged | None:
        """What ended the training of a run that diverged; None of any other."""
        path = self.folder / "diverged.json"
        return train.Diverged(**_diverged(path)) if path.exists() else None

    @property
    def packed_file(self) -> pathlib.Path:
        """The packed file of the model."""
        return self.folder / "model.jcpk"

    def params(self) -> Any:
        """Restores the parameters in training form."""
        return load_params(self.folder / "params")


def locate(experiment: config.Experiment, root: pathlib.Path) -> Run:
    """Returns the run of an experiment under `root`, whether it was made or not."""
    return Run(root / f"{experiment.stages[-1].name}-{config.fingerprint(experiment)}")


def run(experiment: config.Experiment, settings: Settings) -> Run:
    """Runs an experiment stage by stage; returns at once what is there, goes on with what is not finished.

    Waits for what another process is making; of several that run a sweep together the first makes it. Raises Diverged,
    also for what diverged before, which the same training would again, and ValueError as `settle` does.
    """
    this = locate(experiment, settings.root)
    if settings.differing != "reuse":
        settle([experiment], settings._replace(say=lambda _: None))
        warn([experiment], settings)
        settings = settings._replace(differing="reuse")
    if this.finished:
        clear_finished(this.folder)
        return this
    if (ended := this.diverged) is not None:
        settings.say(f"{this.folder.name} diverged before; remove its diverged.json to try again")
        raise ended
    data = dataset(experiment.data, settings.data_dir)
    measured = _prepared(this, experiment, data, settings)
    if not first():
        wait_until(lambda: this.finished or this.diverged is not None)
        return run(experiment, settings)
    with claimed(this.folder, settings.say):
        if not this.finished:
            if trained_by(this) == "cohort":
                settings.say(
                    f"{this.folder.name} was begun by the program of a sweep; alone it is trained from its start"
                )
                shutil.rmtree(this.folder / "checkpoint")
            begin(this, experiment, data)
            plain = config.to_plain(experiment)
            with wandb_log(settings.wandb, this.folder, this.folder.name, plain, settings.group) as log:
                try:
                    finish(this, *measured(log), log, settings)
                except train.Diverged as ended:
                    diverge(this, ended)
                    raise
    return this


def settle(experiments: Iterable[config.Experiment], settings: Settings) -> None:
    """Compares what is there already, of experiments and of all that they stand on, with what would be made now.

    Says in a line how much of it is used again. Raises ValueError for what was made from other data or by other code,
    unless the settings say that it is used all the same or made anew: then it is removed here.
    """
    there = {e: run for e in lineage(experiments) if (run := locate(e, settings.root)).begun}
    differing: dict[config.Experiment, str] = {}
    for experiment, run in there.items():  # after what it stands on
        told = provenance.differences(run.recorded, _sha256(experiment.data, settings))
        below = [parent for parent in parents(experiment) if parent in differing]
        told += [f"on top of {locate(parent, settings.root).folder.name}" for parent in below]
        if told:
            differing[experiment] = f"{run.folder.name} was made {', '.join(told)}"
    first_of_them = next(iter(differing.values()), "")
    also = f", and so were {len(differing) - 1} more" if len(differing) > 1 else ""
    if differing and settings.differing == "stop":
        raise ValueError(
            f"{first_of_them}{also}: --reuse uses what is there all the same, --force makes it anew ({settings.root})"
        )
    if settings.differing == "anew":
        for experiment in differing:
            run = there.pop(experiment)
            settings.say(f"{run.folder.name} is made anew")
            if first():
                _remove(run, settings)
    if there:
        begun = sum(not run.finished for run in there.values())
        also_begun = f", {begun} of them begun and not finished" if begun else ""
        settings.say(f"runs that are there and used again: {len(there)}{also_begun}")
    if differing and settings.differing == "reuse":
        settings.say(f"warning: {first_of_them}{also}")


def warn(experiments: Iterable[config.Experiment], settings: Settings) -> None:
    """Says which schedules of stages that are still to be trained will not come to their end."""
    told: dict[str, None] = {}
    for experiment in lineage(experiments):
        if not locate(experiment, settings.root).finished:
            told |= dict.fromkeys(unreached(experiment, dataset(experiment.data, settings.data_dir)))
    for line in list(told)[:_WARNINGS]:
        settings.say(f"warning: {line}")
    if len(told) > _WARNINGS:
        settings.say(f"warning: and so in {len(told) - _WARNINGS} more schedules")


def _sha256(data: config.Data, settings: Settings) -> str | None:
    """Returns the hash of data; None where they are not at hand and what is there is used all the same."""
    try:
        return _loaded(data, settings.data_dir)[1]
    except OSError:
        if settings.differing != "reuse":
            raise
        return None


def _remove(this: Run, settings: Settings) -> None:
    """Removes what a run left but for its logs, unless another process makes it anew meanwhile."""
    before = this.recorded
    with claimed(this.folder, settings.say):
        if this.recorded != before:
            return
        for path in this.folder.iterdir():
            if path.name in (".claim", "wandb"):
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def diverge(this: Run, ended: train.Diverged) -> None:
    """Marks a run as one that diverged."""
    _write_json(this.folder / "diverged.json", {"epoch": ended.epoch, "loss": str(ended.loss)})


def _diverged(path: pathlib.Path) -> dict[str, Any]:
    remedy = "remove it to try again"
    recorded = records.read(path, remedy, keys=("epoch", "loss"))
    try:
        return {"epoch": int(recorded["epoch"]), "loss": float(recorded["loss"])}
    except (TypeError, ValueError) as error:
        raise records.damaged(path, str(error), remedy) from error


def trained_by(this: Run) -> Literal["alone", "cohort"] | None:
    """Tells which program made the checkpoints of a run, that of a point alone or a cohort's; None without any."""
    if not Checkpoints(this.folder / "checkpoint").epochs():
        return None
    return "cohort" if "cohort" in records.read(this.folder / "environment.json") else "alone"


def begin(this: Run, experiment: config.Experiment, data: Dataset, **made: Any) -> None:
    """Makes the folder of a run, with its configuration and where and how, by `made` besides, it is trained.

    What goes on from a checkpoint keeps what was said of the training before it, and where that was of other data or by
    other code, what these were.
    """
    this.folder.mkdir(parents=True, exist_ok=True)
    clear(this.folder)
    earlier = this.recorded if (this.folder / "checkpoint").exists() else {}
    now = environment() | {"data_sha256": fingerprint(data)}
    if earlier and "begun" not in earlier and provenance.differences(earlier, now["data_sha256"]):
        made = {"begun": {key: earlier.get(key) for key in ("code", "data_sha256")}} | made
    _write_text(this.folder / "config.yaml", yaml.safe_dump(config.to_plain(experiment), sort_keys=False))
    _write_json(this.folder / "environment.json", earlier | now | made)


def finish(this: Run, metrics: dict[str, Any], files: list[pathlib.Path], log: Log, settings: Settings) -> None:
    """Writes the metrics of a run, by which it is finished, and logs them with its files.

    What an earlier stage promised and this one broke is said.
    """
    for line in metrics.get("broken", ()):
        settings.say(f"{this.folder.name}: {line}")
    _write_json(this.folder / "metrics.json", metrics)
    shutil.rmtree(this.folder / "checkpoint", ignore_errors=True)
    log.finish(this.metrics, files if settings.upload else [file for file in files if file.suffix == ".png"])


def _prepared(
    this: Run, experiment: config.Experiment, data: Dataset, settings: Settings
) -> Callable[[Log], tuple[dict[str, Any], list[pathlib.Path]]]:
    """Runs what the last stage stands on, its teacher too, each in a log of its own; returns the stage itself."""
    if isinstance(experiment.stages[-1], config.PostTraining):
        params = before(experiment, data, settings)
        return lambda _: quantized.quantize(this.folder, experiment, data, params, settings.progress)
    plan, state = start(experiment, data, settings)
    return lambda log: measure(this, experiment, data, _train(this, experiment, data, plan, state, settings, log))


def start(experiment: config.Experiment, data: Dataset, settings: Settings) -> tuple[Plan, train.State]:
    """Prepares the last stage of an experiment, running first what it stands on: earlier stages, teachers."""
    each = lambda experiment: run(experiment, settings)
    data = transferred(experiment, data, each)
    plan = Plan.of(experiment, data, taught(experiment, data, each))
    made = _made(settings)
    begun = plan.begin(before(experiment, data, settings), rewound(experiment, data, settings.data_dir, made))
    return plan, begun


def before(experiment: config.Experiment, data: Dataset, settings: Settings) -> Any:
    """Returns the parameters that the last stage of an experiment starts from, running the stages before it."""
    return given(experiment, data, settings.data_dir, _made(settings))


def _made(settings: Settings) -> Made:
    return lambda experiment: run(experiment, settings).params()


def _train(
    this: Run,
    experiment: config.Experiment,
    data: Dataset,
    plan: Plan,
    state: train.State,
    settings: Settings,
    log: Log,
) -> Any:
    """Trains the last stage from its last checkpoint on; returns the parameters that its rule selects."""
    stage = experiment.training
    chooses = stage.select == "best-validation"
    best: Best = (plan.handed_on(state) if chooses else (), np.float32(np.inf))
    kept = Checkpoints(this.folder / "checkpoint")
    done, (state, best) = kept.latest((state, best))
    for row in cut_back(this, done):
        log.row(row)
    saved = time.monotonic()
    for epoch, after, loss in train.epochs(plan.program, state, plan.examples, plan.key, done + 1, stage.epochs):
        state = after
        error = None
        if len(data.validation.labels):
            params = plan.handed_on(state)
            error = evaluate.error_rate(plan.logits, params, data.validation)
            best = better(best, params, error) if chooses else best
        log.row(record(this, epoch, state, loss, error))
        settings.progress(epoch, stage.epochs, f"{this.folder.name} seed {experiment.seed}")
        if epoch < stage.epochs and time.monotonic() - saved >= settings.checkpoint_seconds:
            kept.save(epoch, (state, best))
            saved = time.monotonic()
    return best[0] if chooses else plan.handed_on(state)


def better(best: Best, params: Any, error: float) -> Best:
    """Returns the best parameters so far with their validation error, the first of equals."""
    return (params, np.float32(error)) if np.float32(error) < best[1] else best


def record(this: Run, epoch: int, state: train.State, loss: float, error: float | None) -> dict[str, Any]:
    """Appends what an epoch came to, `error` on the validation examples, to the rows of a run; returns it."""
    row = {"epoch": epoch, "step": int(state.step), "loss": loss, "validation_error": error}
    append_row(this.folder / "metrics.jsonl", row | {"sha256": digest(train.params_of(state))})
    return row


def cut_back(this: Run, done: int) -> list[dict[str, Any]]:
    """Cuts the rows of a run back to its last checkpoint: what came after it will be trained again."""
    lines = this.folder / "metrics.jsonl"
    rows = [row for row in read_rows(lines) if row["epoch"] <= done]
    _write_text(lines, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def measure(
    this: Run, experiment: config.Experiment, data: Dataset, params: Any
) -> tuple[dict[str, Any], list[pathlib.Path]]:
    """Measures the model that the packed file holds and writes what a run leaves; returns its metrics and its files."""
    with writing(this.packed_file):
        jc.export.save(this.packed_file, params)
    restored = jc.export.load(this.packed_file)
    metrics, account, outputs = measured(experiment, data, params, restored, handed(this, experiment))
    logits = build.predictor(experiment.model, data.classes, experiment.activations)
    if outputs.tobytes() != evaluate.predict(logits, jc.pack(params), data.test.images).tobytes():
        raise RuntimeError(f"{this.packed_file} does not restore the model bit for bit")
    if account.packed_bytes != this.packed_file.stat().st_size:
        raise RuntimeError(f"the ledger says {account.packed_bytes} bytes, {this.packed_file} has another size")
    save_params(this.folder / "params", params)
    _write_text(this.folder / "ledger.json", account.to_json() + "\n")
    _write_text(this.folder / "ledger.txt", f"{account}\n")
    report.training_curves(read_rows(this.folder / "metrics.jsonl"), this.folder / "curves.png")
    report.confusion_matrix(metrics["confusion"], this.folder / "confusion.png")
    files = [this.packed_file, *(this.folder / name for name in ("ledger.json", "curves.png", "confusion.png"))]
    return metrics, files


def handed(this: Run, experiment: config.Experiment) -> Any:
    """Returns the parameters that the stage before the last, whose run is there, handed on; None if there is none."""
    *earlier, _ = experiment.stages
    return locate(replace(experiment, stages=tuple(earlier)), this.folder.parent).params() if earlier else None


def dataset(data: config.Data, data_dir: pathlib.Path | None) -> Dataset:
    """Loads the data of an experiment, once."""
    return _loaded(data, data_dir)[0]


@lru_cache(maxsize=2)
def _loaded(data: config.Data, data_dir: pathlib.Path | None) -> tuple[Dataset, str]:
    """Loads data and hashes them."""
    found = load(data.name, data_dir=data_dir, validation=data.validation, limit=data.limit, labels=data.labels)
    return found, fingerprint(found)


def _write_json(path: pathlib.Path, value: Any) -> None:
    _write_text(path, json.dumps(value, indent=2) + "\n")


def _write_text(path: pathlib.Path, text: str) -> None:
    with writing(path):
        write_whole(path, text.encode())
