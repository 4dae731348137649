"""How a model does on a split: accuracy, precision, recall, F1, the confusion matrix, the activations at work."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import metrics

import jaxcompress as jc
from experiments.data import Split

_CHUNK = 1000  # images a call: one program for any split whose size it divides, and a second for a rest


class Quality(NamedTuple):
    """Holds the quality on a split: `error` and `accuracy` in %, macro averages over the classes in [0, 1]."""

    error: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    confusion: list[list[int]]  # true class by row, predicted class by column


def predict(logits: Callable[[Any, jax.Array], jax.Array], params: Any, images: np.ndarray) -> np.ndarray:
    """Returns the logits of all `images`, float32 (images, classes)."""
    return np.concatenate([np.asarray(_compiled(logits, params, *chunk)) for chunk in chunks(images)])


def chunks(*columns: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields arrays in pieces of their first axis, for which a program is compiled at most twice."""
    for i in range(0, len(columns[0]), _CHUNK):
        yield tuple(column[i : i + _CHUNK] for column in columns)


def quality(outputs: np.ndarray, labels: np.ndarray) -> Quality:
    """Measures logits (images, classes) against `labels`; a class without examples or predictions scores 0."""
    classes = list(range(outputs.shape[1]))
    guesses = outputs.argmax(axis=1)
    accuracy = 100 * metrics.accuracy_score(labels, guesses)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels,
        guesses,
        labels=classes,
        average="macro",
        zero_division=0,  # pyright: ignore (its stub says str)
    )
    confusion = metrics.confusion_matrix(labels, guesses, labels=classes).tolist()
    error = 100 * float(np.mean(guesses != labels))
    return Quality(error, float(accuracy), float(precision), float(recall), float(f1), confusion)


def error_rate(logits: Callable[[Any, jax.Array], jax.Array], params: Any, split: Split) -> float:
    """Returns the error on a split in %."""
    return 100 * float(np.mean(predict(logits, params, split.images).argmax(axis=1) != split.labels))


def activity(
    logits: Callable[[Any, jax.Array], jax.Array], params: Any, images: np.ndarray
) -> dict[str, dict[str, float]]:
    """Returns by path of a weight its `macs` an image and the share of its inputs that are not zero, in %.

    A weight that is used more than once adds up its multiply-adds and averages its inputs over the uses.
    """
    shares = [_shares(logits, params, images[i : i + _CHUNK]) for i in range(0, len(images), _CHUNK)]
    weights = [min(_CHUNK, len(images) - i) for i in range(0, len(images), _CHUNK)]
    return {
        path: {"macs": count, "input %": 100 * float(np.average([s[path] for s in shares], weights=weights))}
        for path, count in multiply_adds(logits, params, images).items()
    }


def multiply_adds(logits: Callable[[Any, jax.Array], jax.Array], params: Any, images: Any) -> dict[str, int]:
    """Returns the multiply-adds of each weight that is multiplied with anything, for one of such `images`, by path."""
    one = jax.eval_shape(lambda p: p, params), jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    macs: dict[str, list[int]] = {}
    jax.eval_shape(lambda p, x: macs.update(jc.uses(logits, lambda use: use.macs)(p, x)), *one)
    return {path: sum(counts) for path, counts in macs.items()}


@partial(jax.jit, static_argnums=0)
def _shares(logits: Callable[[Any, jax.Array], jax.Array], params: Any, images: jax.Array) -> dict[str, jax.Array]:
    found = jc.uses(logits, lambda use: jnp.mean(use.input != 0))(params, images)
    return {path: jnp.mean(jnp.stack(values)) for path, values in found.items()}


@partial(jax.jit, static_argnums=0)
def _compiled(logits: Callable[[Any, jax.Array], jax.Array], params: Any, images: jax.Array) -> jax.Array:
    return logits(params, images)
