"""Biases of classes are shifted by a number given or by the one that serves best on examples held out."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments import build, config, offsets, runs
from experiments.evaluate import predict
from tests.experiments.test_runs import DENSE

DATA = runs.dataset(DENSE.data, None)
PARAMS = build.initial_params(DENSE, DATA)


def shifted(data=DATA, params=PARAMS, **fields):
    fields = {"bias": "fc2/bias", "classes": (3,)} | fields
    return offsets.shifted(config.Offset(**fields), DENSE, data, params)


def test_a_number_given_is_added_to_the_classes_alone():
    found = shifted(classes=(3, 7), shift=-1.5)
    expected = np.asarray(PARAMS["fc2"]["bias"]) + np.where(np.isin(np.arange(10), (3, 7)), np.float32(-1.5), 0)
    np.testing.assert_array_equal(found["fc2"]["bias"], expected)
    np.testing.assert_array_equal(found["fc1"]["kernel"], PARAMS["fc1"]["kernel"])


def test_the_shift_without_a_number_leaves_the_fewest_errors_on_validation_examples():
    bias = PARAMS["fc2"]["bias"].at[3].add(-2.35)  # threes are held back
    spoilt = PARAMS | {"fc2": PARAMS["fc2"] | {"bias": bias}}
    found = float(shifted(params=spoilt)["fc2"]["bias"][3] - bias[3])
    logits = predict(build.predictor(DENSE.model, 10), spoilt, DATA.validation.images)

    def errors(shift):
        moved = logits + shift * (np.arange(10) == 3)
        return np.sum(moved.argmax(1) != DATA.validation.labels)

    best = min(errors(tenth / 10) for tenth in range(-200, 201))
    assert errors(found) == best < errors(0.0)
    smaller = [tenth / 10 for tenth in range(-200, 201) if abs(tenth) < round(10 * abs(found))]
    assert smaller and all(errors(shift) > best for shift in smaller)


def test_a_stage_begins_with_shifted_biases(tmp_path):
    stage = config.Stage("shifted", 0, offset=config.Offset("fc2/bias", (1,), 2.0))
    with jax.numpy_dtype_promotion("standard"):
        settings = runs.Settings(tmp_path, None, "disabled")
        made = runs.run(replace(DENSE, stages=(stage,)), settings).params()
    np.testing.assert_array_equal(made["fc2"]["bias"][1], PARAMS["fc2"]["bias"][1] + 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": (3, 10)}, r"classes \[3, 10\] are not some of 0 to 9"),
        ({"classes": ()}, r"classes \[\] are not some of 0 to 9"),
        ({"bias": "fc1/bias", "shift": 1.0}, r"fc1/bias has shape \(16,\), not one number for each of 10 classes"),
        ({"bias": "fc9/bias", "shift": 1.0}, "matches no parameter"),
    ],
)
def test_what_cannot_be_shifted_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        shifted(**fields)


def test_a_shift_is_not_chosen_without_examples_held_out():
    bare = runs.dataset(replace(DENSE.data, validation=0), None)
    with pytest.raises(ValueError, match="none are held out"):
        shifted(data=bare)
