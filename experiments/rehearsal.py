"""Whether every stage of an experiment can begin, tried before any is trained."""

import pathlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from experiments import config
from experiments.data import Dataset, Split
from experiments.plan import Plan, given, rewound
from experiments.synthesis import synthetic
from experiments.teachers import Taught, heard, in_step, synthesis, teachers, views
from experiments.train import State


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

    def started(self, experiment: config.Experiment) -> tuple[Plan, State]:
        """Returns the plan of the last stage, one that trains, and its first state."""
        data = self._load(experiment.data)
        params = given(experiment, data, self._data_dir, self.begin)
        params_of_teachers = [self.begin(of) for of in teachers(experiment)]
        if (spec := synthesis(experiment)) is not None:
            short = replace(spec, images=min(spec.images, spec.batch), steps=1)
            made = synthetic(short, teachers(experiment)[0], params_of_teachers[0], data, jax.random.key(0))
            images = np.resize(made.images, (spec.images, *made.images.shape[1:]))
            data = data._replace(train=Split(images, np.arange(spec.images, dtype=np.int32) % data.classes))
        plan = Plan.of(experiment, data, _said(experiment, data, params_of_teachers))
        return plan, plan.begin(params, rewound(experiment, data, self._data_dir, self.begin))

    def _last(self, experiment: config.Experiment) -> Any:
        if isinstance(experiment.stages[-1], config.PostTraining):
            return given(experiment, self._load(experiment.data), self._data_dir, self.begin)
        plan, state = self.started(experiment)
        return plan.handed_on(state)


def _said(experiment: config.Experiment, data: Dataset, params: Sequence[Any]) -> Taught:
    """Returns what untrained teachers with these parameters say; logits that are kept are zeros here."""
    if params and in_step(experiment.training):
        return heard(experiment, data, params)
    seen = views(experiment)
    each = () if seen is None else (seen.count,)
    return np.zeros((len(data.train.labels), *each, data.classes if params else 0), np.float32)
