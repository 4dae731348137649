"""Lessons from how the examples of a batch lie to each other."""

from typing import Any

import jax
from jax import Array

from experiments import config
from experiments.teaching.lesson import Batch, Lesson, plain
from jaxcompress import distill
from jaxcompress.paths import Params

_RELATIONS = {
    "rkd-distance": distill.rkd_distance,
    "rkd-angle": distill.rkd_angle,
    "similarity": distill.similarity,
    "correlation-congruence": distill.correlation_congruence,
    "pkt": distill.pkt,
}


def of_relations(spec: config.Relations) -> Lesson:
    """Returns the lesson of a loss of relations."""
    return plain(spec.weight, lambda batch: _RELATIONS[spec.loss](*_pair(spec, batch)))


def _pair(spec: config.Relations | config.Contrast, batch: Batch) -> tuple[Array, Array]:
    """Returns the embeddings of both networks, one vector an example."""
    found = batch.student.taps[spec.student], batch.teacher.taps[spec.teacher]
    student, teacher = (x.reshape(len(x), -1) for x in found)
    return student, jax.lax.stop_gradient(teacher)


def of_contrast(spec: config.Contrast) -> Lesson:
    """Returns the lesson of a contrastive loss."""

    def begin(key: Array, batch: Batch, labels: Array) -> tuple[Params, Any]:
        student, teacher = _pair(spec, batch)
        keys = jax.random.split(key, 3)
        learned = {
            "student": distill.regressor(keys[0], student.shape[1], spec.features),
            "teacher": distill.regressor(keys[1], teacher.shape[1], spec.features),
        }
        if spec.loss == "in-batch":
            return learned, {}
        return learned, {"memory": distill.memory(keys[2], len(labels), spec.features), "labels": labels}

    def loss(learned: Params, kept: Any, batch: Batch) -> tuple[Array, Any]:
        student, teacher = _pair(spec, batch)
        student = distill.regress(learned["student"], student)
        teacher = distill.regress(learned["teacher"], teacher)
        if spec.loss == "in-batch":
            return distill.in_batch(student, teacher, temperature=spec.temperature), kept
        others = distill.negatives(batch.key, kept["labels"], batch.indices, spec.negatives)
        losses, memory = distill.crd(
            kept["memory"], student, teacher, batch.indices, others, temperature=spec.temperature
        )
        return losses, kept | {"memory": memory}

    return Lesson(spec.weight, begin, loss)
