"""What losses of distillation refuse before they are traced."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer


def check_same_shape(student: Array, teacher: Array, what: str, remedy: str = "") -> None:
    """Raises ValueError if the two arrays of `what` differ in shape, with a `remedy` if there is one."""
    if student.shape != teacher.shape:
        raise ValueError(f"student {what} {student.shape} and teacher {what} {teacher.shape} differ in shape{remedy}")


def check_same_batch(student: Array, teacher: Array, what: str) -> None:
    """Raises ValueError if the first axes of the two arrays of `what` differ in length or there is none."""
    if student.shape[:1] != teacher.shape[:1] or not student.shape:
        raise ValueError(f"student {what} {student.shape} and teacher {what} {teacher.shape} are not of the same batch")


def check_embeddings(student: Array, teacher: Array) -> None:
    """Raises ValueError unless both are embeddings (batch, features) of one shape."""
    check_same_shape(student, teacher, "embeddings")
    if student.ndim != 2:
        raise ValueError(f"embeddings {student.shape} are not (batch, features)")


def check_places(*arrays: Array) -> None:
    """Raises ValueError unless all arrays have a batch in front of their features."""
    for array in arrays:
        if array.ndim < 2:
            raise ValueError(f"features {array.shape} are not (batch, ..., channels)")


def check_maps(*arrays: Array) -> None:
    """Raises ValueError unless all arrays are feature maps (batch, height, width, channels)."""
    for array in arrays:
        if array.ndim != 4:
            raise ValueError(f"features {array.shape} are no maps; (batch, height, width, channels) are needed")


def check_logits(student: Array, teacher: Array, *, classes: int = 1) -> None:
    """Raises ValueError unless both are logits (..., classes) of one shape, with so many `classes` or more."""
    check_same_shape(student, teacher, "logits")
    check_classes(student, classes)


def check_classes(logits: Array, classes: int = 1) -> None:
    """Raises ValueError unless the last axis of the logits has so many `classes` or more."""
    if not logits.shape or logits.shape[-1] < classes:
        raise ValueError(f"logits {logits.shape} are not (..., classes) with {classes} classes or more")


def check_labels(logits: Array, labels: Array) -> None:
    """Raises ValueError unless there is one integer label for each row of the logits."""
    if labels.shape != logits.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels are {labels.dtype} {labels.shape}; logits {logits.shape} need integers, one a row")


def check_known(labels: Array, classes: int) -> None:
    """Raises ValueError for a label, known before tracing, that is none of the classes."""
    if isinstance(labels, Tracer) or not labels.size:
        return
    low, high = int(np.min(labels)), int(np.max(labels))
    if low < 0 or high >= classes:
        label = low if low < 0 else high
        raise ValueError(f"label {label} is none of the {classes} classes, 0 to {classes - 1}; `where` leaves rows out")


def check_positive(**values: Any) -> None:
    """Raises ValueError for a number that is known not to be positive; traced ones pass."""
    for name, value in values.items():
        if not isinstance(value, Tracer) and not np.all(np.asarray(value) > 0):
            raise ValueError(f"{name} {value!r} is not positive")
