"""Lessons from what both networks say."""

from jax import Array

from experiments import config
from experiments.teaching.lesson import Batch
from jaxcompress import distill


def of_logits(spec: config.Knowledge, batch: Batch) -> Array:
    """Returns the losses of a batch, per example, that have no weights of their own."""
    student, teacher = batch.student.logits, batch.teacher.logits
    match spec:
        case config.KD():
            return distill.kd(student, teacher, spec.temperature)
        case config.DKD():
            return distill.dkd(
                student, teacher, batch.labels, temperature=spec.temperature, alpha=spec.alpha, beta=spec.beta
            )
        case config.DIST():
            return distill.dist(student, teacher, temperature=spec.temperature, inter=spec.inter, intra=spec.intra)
        case config.NKD():
            return distill.nkd(student, teacher, batch.labels, temperature=spec.temperature, gamma=spec.gamma)
        case config.StandardizedKD():
            return distill.kd(distill.standardized(student), distill.standardized(teacher), spec.temperature)
        case config.TeacherFree():
            return distill.teacher_free(student, batch.labels, correct=spec.correct, temperature=spec.temperature)
        case _:
            raise AssertionError(spec)
