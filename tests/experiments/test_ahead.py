"""What fits is compiled, with as many points at a time as fit; what does not is refused with what would."""

from dataclasses import replace

import jax
import pytest

from experiments import ahead, widths
from experiments.config import MLP, SVD, PostTraining, Stage
from experiments.convolutions import compiling_for, in_training
from experiments.placement import Placement
from tests.experiments.test_sweep import POINTS, SGD, dense, settings_of
from tests.experiments.test_widths import BATCHES

pytestmark = pytest.mark.usefixtures("promotion")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    with jax.numpy_dtype_promotion("standard"):
        of = [replace(dense(seed), stages=(BATCHES,)) for seed in range(6)]
        (found,) = ahead.outlined(of, settings_of(tmp_path_factory.mktemp("runs")))
    return found


def here(memory, width=None):
    """This machine's device, said to have so much memory."""
    return Placement.of(jax.devices()[:1], width=width, memory=memory)


def needs(cohort, width):
    return widths.bytes_of(widths.compiled(cohort, here(1), width))


def test_what_fits_is_said_with_all_points_at_a_time(cohort):
    made = ahead.compile_for(cohort, here(2**34), pytest.fail)
    assert (made.points, made.width) == (6, 6) and made.memory == needs(cohort, 6)
    assert made.arguments > 0 and made.flops > 0


def test_fewer_points_at_a_time_are_tried_before_it_is_refused(cohort):
    said = []
    made = ahead.compile_for(cohort, here((needs(cohort, 3) + needs(cohort, 6)) // 2), said.append)
    assert made.width == 3 and len(said) == 1 and said[0].startswith("6 points, 6 at a time on each row")


def test_what_does_not_fit_is_refused_with_the_largest_that_does(cohort):
    """With the memory that four points need, one at a time, five do not fit."""
    four, five = (needs(cohort.first(count), 1) for count in (4, 5))
    assert four < five
    with pytest.raises(ahead.TooLarge, match="6 points do not fit; 4 do, 1 at a time on each row"):
        ahead.compile_for(cohort, here(four), lambda text: None)
    with pytest.raises(ahead.TooLarge, match="6 points do not fit; 0 do"):
        ahead.compile_for(cohort, here(1, width=2), lambda text: None)


def test_programs_are_those_of_the_sweep_and_earlier_stages_are_not_trained(tmp_path):
    factored = Stage("factored", 2, 50, SGD, (SVD("fc1/kernel", 2),))
    more = [replace(dense(0), stages=(*dense(0).stages, factored)), replace(dense(0), model=MLP((12,)))]
    found = ahead.outlined([*POINTS, *more], settings_of(tmp_path))
    assert [len(cohort.experiments) for cohort in found] == [4, 1, 1]
    assert not list(tmp_path.iterdir())


def test_stages_that_are_run_alone_are_refused(tmp_path):
    last = replace(dense(0), stages=(*dense(0).stages, PostTraining("int8")))
    with pytest.raises(ValueError, match="int8: a stage that is run alone is not compiled ahead: it does not train"):
        ahead.outlined([last], settings_of(tmp_path))


@pytest.mark.parametrize("topology", ["v5e", "v5e:2", "v9:2x2", "v5e:2x2x", ":2x2", "v5e:axb"])
def test_topologies_of_another_form_are_refused(topology):
    with pytest.raises(ValueError, match="is not of the form v5e:2x4|generations are v5e, v5p, v6e"):
        ahead.placement(topology, 1, None)


def test_convolutions_are_those_of_the_platform_that_is_compiled_for():
    def function(x):
        return x

    assert in_training(function) is not function
    with compiling_for("tpu"):
        assert in_training(function) is function
    assert in_training(function) is not function
