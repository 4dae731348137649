"""Whether every stage of an experiment can begin, tried before any is trained."""

import pathlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from experiments import config
from experiments.data import Dataset
from experiments.plan import Plan, Taught, given, heard, in_step, rewound, synthesis, teachers, training
from experiments.synthesis import synthetic


class Rehearsal:
    """Begins the stages of experiments on one another, untrained, each once: what they raise, they raise here.

    So a pattern without a match, or a batch larger than the data, is found in a moment and not when the stages before
    it are trained. Weights are those of the seed, which training moves, so that what depends on their values (a
    threshold, the shapes that a choice of channels leaves) is tried on other ones.
    """

    def __init__(self, load: Callable[[config.Data], Dataset], data_dir: pathlib.Path | None = None) -> None:
        self._load, self._data_dir = load, data_dir
        self._begun: dict[str, Any] = {}

    def begin(self, experiment: config.Experiment) -> Any:
        """Begins the stages of an experiment and its teachers; returns the parameters at the start of the last."""
        name = config.fingerprint(experiment)
        if name not in self._begun:
            self._begun[name] = self._last(experiment)
        return self._begun[name]

    def _last(self, experiment: config.Experiment) -> Any:
        data = self._load(experiment.data)
        params = given(experiment, data, self._data_dir, self.begin)
        if isinstance(experiment.stages[-1], config.PostTraining):
            return params
        taught: Taught = np.zeros((len(data.train.labels), 0), np.float32)
        params_of_teachers = [self.begin(of) for of in teachers(experiment)]
        if params_of_teachers and in_step(training(experiment)):
            taught = heard(experiment, data, params_of_teachers)
        elif params_of_teachers:
            taught = np.zeros((len(data.train.labels), data.classes), np.float32)
        spec = synthesis(experiment)
        if spec is not None:
            short = replace(spec, images=training(experiment).batch, steps=1)
            made = synthetic(short, teachers(experiment)[0], params_of_teachers[0], data, jax.random.key(0))
            data = data._replace(train=made)
        plan = Plan.of(experiment, data, taught)
        to = rewound(experiment, data, self._data_dir, self.begin)
        return plan.handed_on(plan.begin(params, to))
