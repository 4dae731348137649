"""Schedules that do not come to their end are said with what they reach, worked out here by hand."""

import pathlib
from dataclasses import replace

import pytest

from experiments import config, ramps, runs
from experiments.data import Dataset, Split
from tests.experiments.test_runs import DENSE, PRUNED

# 1237 training examples of digits in batches of 50 are 24 steps an epoch.
DATA = runs.dataset(DENSE.data, None)
LINEAR = config.Ramp(10.0, shape="linear")


def told(*recipe, epochs=3, **fields):
    stage = config.Stage("late", epochs, 50, recipe=recipe, **fields)
    return ramps.unreached(replace(DENSE, stages=(*DENSE.stages, stage)), DATA)


def test_a_ramp_that_outlasts_its_stage_is_said_with_what_it_reaches():
    # Step 70 of 72, the last that is a multiple of 10, of the 240 of the ramp.
    (line,) = told(config.Magnitude("fc1/kernel", 0.9, LINEAR, every=10))
    assert line == (
        f"stage 'late': Magnitude of 'fc1/kernel': sparsity {0.9 * 70 / 240:.4g} of 0.9 is reached: its ramp ends after"
        " epoch 10, the stage after 3"
    )
    (cubic,) = told(config.Magnitude("fc1/kernel", 0.9, config.Ramp(10.0), every=10))
    assert f"sparsity {0.9 * (1 - (1 - 70 / 240) ** 3):.4g} of 0.9" in cubic
    (moved,) = told(config.Movement("fc1/kernel", 0.5, LINEAR, every=24))
    assert f"Movement of 'fc1/kernel': sparsity {0.5 * 72 / 240:.4g} of 0.5 is reached" in moved


def test_a_schedule_that_is_not_asked_at_its_end_is_said():
    (line,) = told(config.Magnitude("fc1/kernel", 0.8, config.Ramp(2.9, shape="linear"), every=50))
    assert f"sparsity {0.8 * 50 / 70:.4g} of 0.8 is reached" in line
    assert "it is asked every 50 steps, last at step 50 of 72" in line
    assert told(config.Magnitude("fc1/kernel", 0.8, config.Ramp(2.0), every=50)) == []
    assert "sparsity 0 of 0.8" in told(config.Magnitude("fc1/kernel", 0.8, config.Ramp(1.0), every=5), epochs=0)[0]


def test_bits_that_are_not_reached_are_said():
    down = config.Ramp(6.0, initial=8.0, shape="linear")
    (line,) = told(config.Weights("fc./kernel", 4, ramp=down))  # halfway from 8 to 4
    assert "Weights of 'fc./kernel': 6 bits, and not 4, are reached: its ramp ends after epoch 6" in line
    assert told(config.Weights("fc./kernel", 4, ramp=replace(down, end=3.0))) == []
    parts = config.Additive("fc1/kernel", config.Weights("first", 4, ramp=down), config.Magnitude("second", 0.5))
    assert "Weights of 'first': 6 bits" in told(parts)[0]


def test_phases_moves_and_drops_that_do_not_come_are_said():
    phases = config.ACDC("fc1/kernel", 0.9, begin=1.0, end=5.0, compressed=1.0, dense=1.0)
    assert "sparsity 0 of 0.9 is reached: its phases end after epoch 5" in told(phases, epochs=2)[0]
    assert told(phases, epochs=5) == []
    assert "weights would move up to epoch 4" in told(config.Dynamic("fc1/kernel", 0.9, 4.0))[0]
    drops = config.Optimiser("sgd", 0.1, "steps", at=(2.0, 3.0, 4.0))
    assert told(optimiser=drops) == [
        "stage 'late': the learning rate would drop after epoch 3, 4, and the stage ends after 3"
    ]


def test_every_stage_and_its_own_examples_count():
    ramped = (config.Magnitude("fc1/kernel", 0.9, LINEAR, every=1),)
    before = replace(DENSE.stages[0], recipe=ramped)
    found = ramps.unreached(replace(PRUNED, stages=(before, *PRUNED.stages[1:])), DATA)
    assert len(found) == 1 and found[0].startswith("stage 'dense': ")
    of_class = config.Stage("late", 3, 50, recipe=ramped, distill=config.Distill(DENSE, classes=(0, 1)))
    examples = sum(int((DATA.train.labels == label).sum()) for label in (0, 1)) // 50
    (line,) = ramps.unreached(replace(DENSE, stages=(of_class,)), DATA)
    assert f"sparsity {0.9 * 3 * examples / (10 * examples):.4g} of 0.9" in line
    assert ramps.unreached(replace(DENSE, stages=(replace(before, batch=5000),)), DATA) == []


@pytest.mark.parametrize("path", sorted(pathlib.Path("paper_configs").rglob("*.yaml")), ids=str)
def test_the_schedules_of_our_tables_come_to_their_end(path):
    try:
        table = config.load_table(path)
    except ValueError:
        return  # an experiment that tables include
    for experiment in table.experiments.values():
        sizes = {"digits": 1437, "mnist": 60000, "fashion-mnist": 60000, "cifar-10": 50000, "cifar-100": 50000}
        size = sizes[experiment.data.name] - experiment.data.validation
        size = min(size, experiment.data.limit or size, experiment.data.labels or size)
        labels = DATA.train.labels[[i % 10 for i in range(size)]]
        split = Split(DATA.train.images[:1], labels)
        assert ramps.unreached(experiment, Dataset(experiment.data.name, split, split, split, 10)) == []
