"""What losses of distillation refuse before they are traced."""

from typing import Any

import jax
from jax import Array


def check_same_shape(student: Array, teacher: Array, what: str, remedy: str = "") -> None:
    """Raises ValueError if the two arrays of `what` differ in shape, with a `remedy` if there is one."""
    if student.shape != teacher.shape:
        raise ValueError(f"student {what} {student.shape} and teacher {what} {teacher.shape} differ in shape{remedy}")


def check_same_batch(student: Array, teacher: Array, what: str) -> None:
    """Raises ValueError if the first axes of the two arrays of `what` differ in length or there is none."""
    if student.shape[:1] != teacher.shape[:1] or not student.shape:
        raise ValueError(f"student {what} {student.shape} and teacher {what} {teacher.shape} are not of the same batch")


def check_maps(*arrays: Array) -> None:
    """Raises ValueError unless all arrays are feature maps (batch, height, width, channels)."""
    for array in arrays:
        if array.ndim != 4:
            raise ValueError(f"features {array.shape} are no maps; (batch, height, width, channels) are needed")


def check_labels(logits: Array, labels: Array) -> None:
    """Raises ValueError unless there is one integer label for each row of the logits."""
    if labels.shape != logits.shape[:-1] or not jax.numpy.issubdtype(labels.dtype, jax.numpy.integer):
        raise ValueError(f"labels are {labels.dtype} {labels.shape}; logits {logits.shape} need integers, one a row")


def check_positive(**values: Any) -> None:
    """Raises ValueError for a number that is known not to be positive; traced ones pass."""
    for name, value in values.items():
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{name} {value!r} is not positive")
