"""What experiments stand on: the experiments whose runs their last stages begin with or learn from."""

from collections.abc import Iterable
from dataclasses import replace

from experiments import config


def parents(experiment: config.Experiment) -> list[config.Experiment]:
    """Lists what the last stage stands on: the stages before it, what it rewinds to, its teachers, its source."""
    *earlier, last = experiment.stages
    found = [replace(experiment, stages=tuple(earlier))] if earlier else []
    if isinstance(last, config.Stage):
        if last.rewind not in (None, "initial", "random"):
            found.append(experiment.until(last.rewind))
        if last.distill is not None:
            found += last.distill.teachers
    return found if experiment.transfer is None else [*found, experiment.transfer.source]


def lineage(experiments: Iterable[config.Experiment]) -> list[config.Experiment]:
    """Lists experiments and all that they stand on, each once and after what it stands on itself."""
    ordered: dict[config.Experiment, None] = {}

    def visit(experiment: config.Experiment) -> None:
        if experiment in ordered:
            return
        for parent in parents(experiment):
            visit(parent)
        ordered[experiment] = None

    for experiment in experiments:
        visit(experiment)
    return list(ordered)
