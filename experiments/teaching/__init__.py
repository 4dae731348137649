"""What a student learns besides the labels and softened logits, as losses with all that they train and carry."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from experiments import config
from experiments.convolutions import in_training
from experiments.teaching.features import of_features
from experiments.teaching.lesson import Batch as Batch
from experiments.teaching.lesson import Lesson, plain
from experiments.teaching.logits import of_logits
from experiments.teaching.online import of_branches, of_exits, of_mutual
from experiments.teaching.relations import of_contrast, of_relations
from jaxcompress.paths import Params, named_key


class Lessons(NamedTuple):
    """Holds all lessons of a stage, by name."""

    by_name: Mapping[str, Lesson]

    @classmethod
    def of(cls, knowledge: Sequence[config.Knowledge]) -> "Lessons":
        """Makes the lessons that a configuration asks for."""
        return cls({f"{i}-{type(spec).__name__.lower()}": _lesson(spec) for i, spec in enumerate(knowledge, 1)})

    def begin(self, key: Array, batch: Batch, labels: Array) -> tuple[Params, Any]:
        """Returns what all lessons learn and keep, before the first step."""
        begun = {name: lesson.begin(named_key(key, name), batch, labels) for name, lesson in self.by_name.items()}
        return {name: one for name, (one, _) in begun.items()}, {name: other for name, (_, other) in begun.items()}

    def loss(self, learned: Params, kept: Any, batch: Batch) -> tuple[Array, Any]:
        """Returns the sum of the weighed losses, per example, and what is kept for the next batch."""
        total, after = jnp.zeros(len(batch.labels)), {}
        for name, lesson in self.by_name.items():
            own = batch._replace(key=named_key(batch.key, name))
            losses, after[name] = in_training(lesson.loss)(learned[name], kept[name], own)
            total = total + lesson.weight * losses
        return total, after


def tapped(knowledge: Sequence[config.Knowledge]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Lists the activations of the student and those of the teacher that lessons read."""
    student: dict[str, None] = {}
    teacher: dict[str, None] = {}
    for spec in knowledge:
        match spec:
            case config.Features():
                student |= dict.fromkeys(spec.student)
                teacher |= dict.fromkeys(spec.teacher)
            case config.Relations() | config.Contrast():
                student[spec.student] = teacher[spec.teacher] = None
            case config.Branches():
                student[spec.at] = None
            case config.Exits():
                student |= dict.fromkeys((*spec.at, spec.last))
    return tuple(student), tuple(teacher)


def _lesson(spec: config.Knowledge) -> Lesson:
    match spec:
        case config.Features():
            return of_features(spec)
        case config.Relations():
            return of_relations(spec)
        case config.Contrast():
            return of_contrast(spec)
        case config.Mutual():
            return of_mutual(spec)
        case config.Branches():
            return of_branches(spec)
        case config.Exits():
            return of_exits(spec)
        case _:
            return plain(spec.weight, partial(of_logits, spec))
