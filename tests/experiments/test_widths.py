"""How many points at a time is measured within the memory there is, unless it is said."""

from dataclasses import replace

import jax
import pytest

from experiments import runs, widths
from experiments.cohorts import Cohort
from experiments.config import Stage
from experiments.placement import Placement
from tests.experiments.test_sweep import SGD, dense, settings_of

pytestmark = pytest.mark.usefixtures("promotion")

BATCHES = Stage("dense", 1, 250, SGD)  # whose activations are what most memory goes to


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    of = [replace(dense(seed), stages=(BATCHES,)) for seed in (0, 1)]
    settings = settings_of(tmp_path_factory.mktemp("runs"))
    with jax.numpy_dtype_promotion("standard"):
        begun = [runs.start(experiment, runs.dataset(experiment.data, None), settings) for experiment in of]
    return Cohort.of(of, [plan for plan, _ in begun], [state for _, state in begun])


def placement(**options):
    return Placement.of(jax.devices()[:1], **options)


@pytest.mark.parametrize(
    ("row", "expected"),
    [(1, [1]), (2, [1, 2]), (4, [1, 4]), (5, [1, 4, 5]), (64, [1, 4, 16, 64]), (70, [1, 4, 16, 64, 70])],
)
def test_widths_to_try_are_powers_of_four_and_all(row, expected):
    assert widths.choices(row) == expected


@pytest.mark.parametrize(("asked", "expected"), [(1, 1), (2, 2), (9, 2)])
def test_a_width_that_is_said_is_taken_as_far_as_there_are_points(cohort, asked, expected):
    assert widths.width_of(cohort, placement(width=asked), pytest.fail) == expected


def test_what_does_not_fit_is_not_tried_further(cohort):
    """Between what one point at a time needs and what two need, one is chosen; below it nothing is."""
    one, two = (widths.bytes_of(widths.compiled(cohort, placement(), width, 250)) for width in (1, 2))
    assert one < two
    said = []
    within = placement(memory=int((one + two) / 2 / 0.9))
    assert widths.width_of(cohort, within, said.append) == 1 and "1 at a time" in said[0] and "2: " not in said[0]
    with pytest.raises(ValueError, match="2 points need .* bytes of a device that has"):
        widths.width_of(cohort, placement(memory=one // 2), said.append)


def test_a_program_is_compiled_for_whole_turns(cohort):
    """Three points, two at a time, are filled up to four."""
    _, losses = widths.compiled(cohort.first(3), placement(), 2).out_info
    assert losses.shape == (4,)
