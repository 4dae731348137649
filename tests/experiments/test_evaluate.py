"""Quality against a table worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import Split
from experiments.evaluate import activity, error_rate, predict, quality

LABELS = np.array([0, 0, 0, 1, 1, 2], np.int32)
GUESSES = np.array([0, 0, 1, 1, 2, 2])
OUTPUTS = np.eye(3, dtype=np.float32)[GUESSES]


def test_quality_by_hand():
    found = quality(OUTPUTS, LABELS)
    assert found.confusion == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert found.accuracy == pytest.approx(100 * 4 / 6)
    assert found.error == pytest.approx(100 * 2 / 6)
    assert found.precision == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert found.recall == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert found.f1 == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)


def test_class_without_examples_or_predictions_scores_zero():
    found = quality(np.float32([[1, 0, 0], [1, 0, 0]]), np.int32([0, 0]))
    assert (found.accuracy, found.error) == (100, 0)
    assert found.precision == found.recall == found.f1 == pytest.approx(1 / 3)
    assert found.confusion == [[2, 0, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_error_and_accuracy_sum_to_a_hundred(seed):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 10, 37)
    found = quality(draw.normal(size=(37, 10)), labels)
    assert found.error + found.accuracy == pytest.approx(100)
    assert np.sum(found.confusion) == 37
    assert np.trace(found.confusion) == pytest.approx(37 * found.accuracy / 100)


def identity(params, images):
    return images[:, 0, 0, :3].astype(jnp.float32) * params


def test_predictions_keep_their_order_over_chunks():
    images = np.random.default_rng(0).integers(0, 9, (2300, 1, 1, 3)).astype(np.uint8)
    np.testing.assert_array_equal(predict(identity, jnp.float32(2), images), 2.0 * images[:, 0, 0])


def test_error_rate_counts_wrong_classes():
    images = (255 * OUTPUTS).astype(np.uint8)[:, None, None, :]
    assert error_rate(identity, jnp.float32(1), Split(images, LABELS)) == pytest.approx(100 * 2 / 6)
    assert error_rate(identity, jnp.float32(1), Split(images, GUESSES.astype(np.int32))) == 0


def test_activity_by_hand():
    params = {"a": jnp.float32([[1, -1], [1, -1]]), "b": jnp.ones((2, 3))}
    images = np.float32([[1, 0]] * 1001 + [[-1, 0]])  # two chunks of unequal size
    found = activity(lambda p, x: jnp.maximum(x @ p["a"], 0) @ p["b"], params, images)
    assert {path: entry["macs"] for path, entry in found.items()} == {"a": 4, "b": 6}
    assert found["a"]["input %"] == found["b"]["input %"] == pytest.approx(50)

    twice = activity(lambda p, x: jnp.maximum(x @ p["a"], 0) @ p["a"], params, np.float32([[1, 1]]))
    assert twice["a"] == {"macs": 8, "input %": pytest.approx(75)}
