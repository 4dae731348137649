"""A sweep: many experiments at once, those that differ in numbers alone as one program.

Every point gets the run folder that it would have alone, with checkpoints of its own, so that a sweep that was killed
goes on, a point that is there is not run again, and a table and a sweep share what they have in common.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cohorts, config, evaluate, runs, train
from experiments.checkpoints import Checkpoints
from experiments.claims import claim, claimed
from experiments.cohorts import Cohort
from experiments.data import Dataset
from experiments.leftovers import clear_finished
from experiments.logging import read_rows, wandb_log
from experiments.membership import Membership, memberships
from experiments.placement import Placement
from experiments.plan import Plan
from experiments.processes import agreed, first, gathered, meet
from experiments.rehearsal import Rehearsal
from experiments.runs import Best, Run, Settings
from experiments.widths import compiled, width_of


class Begun(NamedTuple):
    """Holds a point as it was found: after `done` epochs, by its last checkpoint."""

    run: Run
    experiment: config.Experiment
    plan: Plan
    done: int
    state: train.State
    best: Best


class Left(NamedTuple):
    """Holds what a cohort leaves to be trained: points `apart`, each by a program of its own, and those `elsewhere`."""

    apart: list[config.Experiment]
    elsewhere: list[config.Experiment]  # which another process has claimed


def sweep(experiments: Sequence[config.Experiment], settings: Settings, placement: Placement) -> list[Run]:
    """Runs experiments, as many as possible in one program; returns their runs in the same order.

    What is there already is settled first. Points that another process is making are waited for at the end. One that
    diverges ends there, and so do those that stand on it; the others go on. Raises ValueError, before anything is
    trained, as `runs.settle` does, for a stage that cannot begin, and for batches that the columns of the mesh cannot
    share.
    """
    runs.settle(experiments, settings)
    meet("what is made anew is removed")
    settings = settings._replace(differing="reuse")
    runs.warn(experiments, settings)
    _rehearse(experiments, settings, placement)
    _sweep(experiments, settings, placement)
    meet("the sweep is finished")
    return [runs.locate(experiment, settings.root) for experiment in experiments]


def _rehearse(experiments: Sequence[config.Experiment], settings: Settings, placement: Placement) -> None:
    """Begins one experiment of each program, untrained."""
    rehearsal = Rehearsal(lambda data: runs.dataset(data, settings.data_dir), settings.data_dir)
    for experiment in {_program(e): e for e in _unfinished(experiments, settings)}.values():
        for stage in experiment.stages:
            if isinstance(stage, config.Stage) and stage.batch % placement.columns:
                raise ValueError(
                    f"stage {stage.name!r}: {placement.columns} devices cannot share a batch of {stage.batch}"
                )
        rehearsal.begin(experiment)


def _unfinished(experiments: Sequence[config.Experiment], settings: Settings) -> list[config.Experiment]:
    named = {config.fingerprint(experiment): experiment for experiment in experiments}
    located = [runs.locate(experiment, settings.root) for experiment in named.values()]
    missing = agreed([not run.finished and run.diverged is None for run in located])
    for run in located if first() else ():
        if run.finished:
            clear_finished(run.folder)
    return [experiment for experiment, is_missing in zip(named.values(), missing, strict=True) if is_missing]


def _program(experiment: config.Experiment) -> str:
    """Names the program of an experiment's last stage, or the experiment if it has to be run alone."""
    return config.fingerprint(experiment) if cohorts.alone(experiment) else cohorts.signature(experiment)


def _sweep(experiments: Sequence[config.Experiment], settings: Settings, placement: Placement) -> None:
    unfinished = _unfinished(experiments, settings)
    if not unfinished:
        return
    _sweep([before for experiment in unfinished for before in _before(experiment)], settings, placement)
    programs: dict[str, list[config.Experiment]] = {}
    for experiment in unfinished:
        programs.setdefault(_program(experiment), []).append(experiment)
    apart: list[config.Experiment] = []
    elsewhere: list[config.Experiment] = []
    for alike in programs.values():
        if (reason := cohorts.alone(alike[0])) is None:
            left = _together(alike, settings, placement)
            apart += left.apart
            elsewhere += left.elsewhere
        else:
            settings.say(f"{runs.locate(alike[0], settings.root).folder.name} is run alone: {reason}")
            apart += alike
    for experiment in apart:
        try:
            runs.run(experiment, settings)
        except train.Diverged as ended:
            _say_of(runs.locate(experiment, settings.root), ended, settings)
    for experiment in elsewhere if first() else ():
        with claimed(runs.locate(experiment, settings.root).folder, settings.say):
            pass
    meet("others are waited for")
    _sweep(elsewhere, settings, placement)  # what they have left unfinished


def _before(experiment: config.Experiment) -> list[config.Experiment]:
    """Lists the experiments that end with what the last stage begins with, or rewinds to."""
    *earlier, last = experiment.stages
    found = [replace(experiment, stages=tuple(earlier))] if earlier else []
    rewind = last.rewind if isinstance(last, config.Stage) else None
    return found if rewind in (None, "initial", "random") else [*found, experiment.until(rewind)]


def _together(experiments: Sequence[config.Experiment], settings: Settings, placement: Placement) -> Left:
    """Trains experiments of one program but for those that are trained alone; returns these and what others claim.

    Of processes that run a sweep together the first claims for all.
    """
    data = runs.dataset(experiments[0].data, settings.data_dir)
    located = [runs.locate(experiment, settings.root) for experiment in experiments]
    claims = [claim(run.folder) if first() else None for run in located]
    try:
        is_ours = agreed([lock is not None for lock in claims])
        missing = agreed([not run.finished for run in located])
        pairs = list(zip(located, experiments, strict=True))
        left = [pair for pair, *mine in zip(pairs, is_ours, missing, strict=True) if all(mine)]
        together, apart = _divided(left, settings, placement)
        groups: dict[Any, list[Begun]] = {}
        for run, experiment, membership in together:
            try:
                begun = _begun(run, experiment, data, settings)
            except train.Diverged as ended:  # a stage before it, or a teacher
                _say_of(run, ended, settings)
                continue
            groups.setdefault((membership, cohorts.structure(begun.state), begun.done), []).append(begun)
        meet("points are begun")  # before any of them is written to
        for (membership, *_), group in groups.items():
            _train(group, membership, data, settings, placement)
    finally:
        for lock in claims:
            if lock is not None:
                lock.release()
    meet("points are finished")
    return Left(apart, [experiment for experiment, ours in zip(experiments, is_ours, strict=True) if not ours])


def _divided(
    points: Sequence[tuple[Run, config.Experiment]], settings: Settings, placement: Placement
) -> tuple[list[tuple[Run, config.Experiment, Membership | None]], list[config.Experiment]]:
    """Returns the points that a cohort trains, each with that which it was begun in, and those to be trained alone.

    A point that was begun is trained on by the program that it was begun by. Of others one alone is no cohort, where
    there is one device.
    """
    held = _held({run.folder.name for run, _ in points}, settings, placement)
    kept = [held.get(run.folder.name) for run, _ in points]
    by = [runs.trained_by(run) for run, _ in points]
    fresh = sum(membership is None and program != "alone" for membership, program in zip(kept, by, strict=True))
    together, apart = [], []
    for (run, experiment), membership, program in zip(points, kept, by, strict=True):
        alone = membership is None and program is None and fresh == 1 and placement.mesh.size == 1
        if alone or program == "alone":
            apart.append(experiment)
            continue
        if program == "cohort" and membership is None:
            settings.say(
                f"{run.folder.name} goes on in another program than it was begun by, which may round otherwise"
            )
        together.append((run, experiment, membership))
    return together, apart


def _held(asked: set[str], settings: Settings, placement: Placement) -> dict[str, Membership]:
    """Returns the cohorts that runs go on in, by their names: those begun, and those of which all are asked for again.

    One that was not begun gives way to another width that is asked for.
    """
    held: dict[str, Membership] = {}
    for membership in memberships(settings.root):
        if not membership.fits(placement):
            continue
        points = [Run(settings.root / name) for name in membership.runs]
        begun = any(point.finished or runs.trained_by(point) == "cohort" for point in points)
        same = placement.width_of(len(points)) in (None, membership.width)
        if begun or (same and asked.issuperset(membership.runs)):
            held = dict.fromkeys(membership.runs, membership) | held  # of two the last
    return held


def _begun(run: Run, experiment: config.Experiment, data: Dataset, settings: Settings) -> Begun:
    plan, state = runs.start(experiment, data, settings)
    best: Best = (plan.handed_on(state) if _chooses(experiment) else (), np.float32(np.inf))
    done, (state, best) = Checkpoints(run.folder / "checkpoint").latest((state, best))
    return Begun(run, experiment, plan, done, state, best)


def _chooses(experiment: config.Experiment) -> bool:
    return experiment.training.select == "best-validation"


def _train(
    group: Sequence[Begun], membership: Membership | None, data: Dataset, settings: Settings, placement: Placement
) -> None:
    """Trains points to the end in the cohort that they were begun in, or one of their own.

    Measures each and writes its run, which the first process does.
    """
    begun = {point.run.folder.name: point for point in group}
    names = list(begun) if membership is None else membership.runs
    points = [begun.get(name, group[0]) for name in names]  # another one takes the place of what is done
    one, stage = points[0], points[0].experiment.training
    recorded = (None, None) if membership is None else (membership.differing, membership.largest)
    cohort = Cohort.of([p.experiment for p in points], [p.plan for p in points], [p.state for p in points], *recorded)
    if membership is None:
        width = width_of(cohort, placement, settings.say)
        if first():
            Membership.of(cohort, names, width, placement).write(settings.root)
    else:
        width = membership.width
        other = "" if placement.width_of(len(points)) in (None, width) else f"; not {placement.width}, as is asked for"
        settings.say(f"{len(group)} of {len(points)} points go on {width} at a time, as they were begun{other}")
    count = placement.padded(len(points), width)
    going = {i for i, name in enumerate(names) if first() and name in begun}
    for i in going:
        made = {"points": len(points), "at a time": width, "devices": placement.mesh.size}
        runs.begin(points[i].run, points[i].experiment, data, cohort=made)
        runs.cut_back(points[i].run, one.done)
    epoch_of, wrong_of = compiled(cohort, placement, width), jax.jit(cohort.wrong(width, placement))
    given, examples = placement.placed(cohort.points, count), placement.everywhere(one.plan.examples)
    now, given = given.state, given._replace(state=())
    step, size = int(one.state.step), len(one.plan.examples.labels) // stage.batch
    best, states = {i: points[i].best for i in going}, {i: points[i].state for i in going}
    saved, cost = time.monotonic(), 0.0
    for epoch in range(one.done + 1, stage.epochs + 1):
        numbers = placement.everywhere((jnp.int32(step), jnp.int32(epoch)))
        now, losses = epoch_of(now, given, numbers[0], examples, numbers[1])
        step += size
        errors = _errors(wrong_of, now, data, placement)
        here, losses = gathered((now, losses))
        for i in sorted(going):
            states[i] = cohort.state(here, i, step)
            loss = float(losses[i])
            if not math.isfinite(loss):
                going.remove(i)
                ended = train.Diverged(epoch, loss)
                runs.diverge(points[i].run, ended)
                _say_of(points[i].run, ended, settings)
                continue
            error = None if errors is None else float(errors[i])
            if error is not None and _chooses(points[i].experiment):
                best[i] = runs.better(best[i], points[i].plan.handed_on(states[i]), error)
            runs.record(points[i].run, epoch, states[i], loss, error)
        settings.progress(epoch, stage.epochs, f"{len(group)} points of {stage.name}")
        # Checkpoints take a tenth of the time at most: there is one of every point.
        if epoch < stage.epochs and time.monotonic() - saved >= max(settings.checkpoint_seconds, 10 * cost):
            began = time.monotonic()
            for i in sorted(going):
                Checkpoints(points[i].run.folder / "checkpoint").save(epoch, (states[i], best[i]))
            saved = time.monotonic()
            cost = saved - began
    for i in sorted(going):
        chosen = best[i][0] if _chooses(points[i].experiment) else points[i].plan.handed_on(states[i])
        _finish(points[i], data, chosen, settings)


def _errors(
    wrong_of: Callable[..., Any], states: train.State, data: Dataset, placement: Placement
) -> np.ndarray | None:
    """Returns the validation error of every point in %, None without examples that are held out."""
    images, labels = data.validation.images, data.validation.labels
    if not len(labels):
        return None
    chunks = evaluate.chunks(images, labels)
    parts = [gathered(wrong_of(states, *placement.everywhere(chunk))) for chunk in chunks]
    return 100 * np.sum(parts, axis=0) / len(labels)


def _say_of(run: Run, ended: train.Diverged, settings: Settings) -> None:
    settings.say(f"{run.folder.name} is not made: {ended}")


def _finish(point: Begun, data: Dataset, params: Any, settings: Settings) -> None:
    plain = config.to_plain(point.experiment)
    with wandb_log(settings.wandb, point.run.folder, point.run.folder.name, plain, settings.group) as log:
        for row in read_rows(point.run.folder / "metrics.jsonl"):
            log.row(row)
        measured = runs.measure(point.run, point.experiment, data, jax.tree.map(np.asarray, params))
        runs.finish(point.run, *measured, log, settings)
