"""One loss that a student learns by, with all that it trains and carries."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from experiments.build import Heard
from jaxcompress.paths import Params


class Batch(NamedTuple):
    """Holds what the losses of a batch may look at; `indices` are those in the training set.

    Images are the bytes that the student was given. Without a teacher its logits have no columns.
    """

    images: Array
    student: Heard
    teacher: Heard
    labels: Array
    indices: Array
    key: Array


class Lesson(NamedTuple):
    """Describes one loss: ``begin(key, batch, labels) -> (learned, kept)`` from a first batch and all labels.

    ``loss(learned, kept, batch)`` returns the losses, per example, and what is kept for the next batch. What is
    `learned` is trained with the student.
    """

    weight: float
    begin: Callable[[Array, Batch, Array], tuple[Params, Any]]
    loss: Callable[[Params, Any, Batch], tuple[Array, Any]]


def plain(weight: float, loss: Callable[[Batch], Array]) -> Lesson:
    """Returns a lesson that learns and keeps nothing."""
    return Lesson(weight, lambda key, batch, labels: ({}, {}), lambda learned, kept, batch: (loss(batch), kept))


def added(losses: Sequence[Array]) -> Array:
    """Returns the sum of losses, per example."""
    return jnp.sum(jnp.stack(losses), axis=0)
