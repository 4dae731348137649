"""Compressing the model of an experiment within a budget: of multiply-adds, of the bytes of its file, of memory."""

from experiments import config
from experiments.budgets import factors, joint
from experiments.budgets.subject import Subject
from experiments.data import Dataset
from jaxcompress.paths import Params


def within(
    spec: config.Budget | config.Joint,
    experiment: config.Experiment,
    data: Dataset,
    weights: Params,
    statistics: Params,
) -> Params:
    """Compresses the weights of a run, each to the level, or not at all, that a budget allows with the least damage.

    Raises ValueError for a budget that not even the smallest levels are within.
    """
    subject = Subject.of(experiment, data, weights, statistics, spec.examples)
    if isinstance(spec, config.Budget):
        return factors.within(spec, subject, experiment.seed)
    return joint.within(spec, subject)
