"""What the schedules of stages reach by the end of these."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments import config, recipes, teachers
from experiments.data import Dataset
from jaxcompress.quantize.weights import bits_at

_ENOUGH = 1e-6  # of a fraction, beyond what float32 leaves of it


def unreached(experiment: config.Experiment, data: Dataset) -> list[str]:
    """Says of every stage of an experiment which of its schedules do not come to their end, and what they reach.

    Stages whose batches the data are too few for are left out; they cannot begin.
    """
    told = []
    for stage in experiment.stages:
        if isinstance(stage, config.Stage):
            steps = _training_examples(experiment.until(stage.name), data) // stage.batch
            told += [f"stage {stage.name!r}: {line}" for line in _of_stage(stage, steps)] if steps else []
    return told


def _training_examples(experiment: config.Experiment, data: Dataset) -> int:
    spec = teachers.synthesis(experiment)
    if spec is not None:
        return spec.images
    classes = experiment.training.distill.classes if experiment.training.distill is not None else ()
    labels = data.train.labels
    return int(np.isin(labels, classes).sum()) if classes else len(labels)


def _of_stage(stage: config.Stage, epoch_steps: int) -> Iterator[str]:
    setting, last = recipes.Setting(epoch_steps), stage.epochs * epoch_steps
    if stage.lc is not None:
        last = 0  # the recipe of a C step is applied, and never updated
    for technique in stage.recipe:
        yield from _of_technique(technique, setting, last, stage.epochs)
    late = [epoch for epoch in stage.optimiser.at if epoch >= stage.epochs]
    if late:
        dropped = ", ".join(f"{epoch:g}" for epoch in late)
        yield f"the learning rate would drop after epoch {dropped}, and the stage ends after {stage.epochs}"


def _of_technique(technique: Any, setting: recipes.Setting, last: int, epochs: int) -> Iterator[str]:
    match technique:
        case config.Additive():
            for part in (technique.first, technique.second):
                yield from _of_technique(part, setting, last, epochs)
        case config.Magnitude(ramp=config.Ramp() as ramp) | config.Movement(ramp=ramp):
            asked = last // technique.every * technique.every
            found = float(recipes.ramp(ramp, technique.sparsity, setting)(asked))
            if abs(found - technique.sparsity) > _ENOUGH:
                short = f"sparsity {found:.4g} of {technique.sparsity:g} is reached"
                yield f"{_named(technique)}: {short}: {_why(ramp, asked, setting, epochs, technique.every)}"
        case config.Weights(ramp=config.Ramp() as ramp):
            found = int(bits_at(recipes.ramp(ramp, technique.bits, setting), last))
            if found != technique.bits:
                short = f"{found} bits, and not {technique.bits}, are reached"
                yield f"{_named(technique)}: {short}: {_why(ramp, last, setting, epochs, 1)}"
        case config.ACDC() if setting.steps(technique.end) > last:
            found = float(recipes.phases(technique, setting)(last))
            short = f"sparsity {found:.4g} of {technique.sparsity:g} is reached"
            ends = f"its phases end after epoch {technique.end:g}, the stage after {epochs}"
            yield f"{_named(technique)}: {short}: {ends}"
        case config.Dynamic() if setting.steps(technique.end) > last:
            ends = f"up to epoch {technique.end:g}, and the stage ends after {epochs}"
            yield f"{_named(technique)}: weights would move {ends}"


def _named(technique: Any) -> str:
    return f"{type(technique).__name__} of {technique.pattern!r}"


def _why(ramp: config.Ramp, asked: int, setting: recipes.Setting, epochs: int, every: int) -> str:
    if ramp.end > epochs:
        return f"its ramp ends after epoch {ramp.end:g}, the stage after {epochs}"
    at = f"step {asked} of {epochs * setting.epoch_steps}"
    return f"its ramp ends after epoch {ramp.end:g}, and it is asked every {every} steps, last at {at}"
