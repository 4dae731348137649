"""Images come from the teacher alone, and a student learns from them as from any others."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments import build, config, rehearsal, runs, verify
from experiments.synthesis import synthetic
from jaxcompress.distill import data_free
from tests.experiments.test_runs import DENSE

NORMED = replace(
    DENSE,
    model=config.MLP((20,), norm=True),
    stages=(config.Stage("normed", 20, 50, config.Optimiser(learning_rate=1e-2)),),
)
INVERSION = config.Synthesis("inversion", images=60, batch=40, steps=120)
GENERATOR = config.Synthesis("generator", images=60, batch=40, steps=120, learning_rate=1e-3, features="fc1")
DATA_FREE = config.Distill(NORMED, synthesis=INVERSION)
METHODS = pytest.mark.parametrize("spec", [INVERSION, GENERATOR], ids=lambda spec: spec.method)


pytestmark = pytest.mark.usefixtures("promotion")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return runs.Settings(tmp_path_factory.getbasetemp() / "shared" / "runs", None, "disabled")


@pytest.fixture(scope="module")
def teacher(settings):
    return runs.run(NORMED, settings).params()


@pytest.fixture(scope="module")
def made(teacher):
    """Makes images by a spec, each once."""
    data = runs.dataset(NORMED.data, None)
    return functools.cache(lambda spec: synthetic(spec, NORMED, teacher, data, jax.random.key(0)))


@METHODS
def test_images_are_bytes_with_the_labels_that_the_teacher_gives_them(spec, teacher, made):
    split = made(spec)
    assert split.images.shape == (60, 8, 8, 1) and split.images.dtype == np.uint8
    logits = build.predictor(NORMED.model, 10)(teacher, split.images)
    np.testing.assert_array_equal(split.labels, np.argmax(logits, axis=-1))


@METHODS
def test_the_teacher_tells_apart_what_was_made_of_it(spec, teacher, made):
    """Steps leave it in less doubt, about all classes alike."""
    logits = [build.predictor(NORMED.model, 10)(teacher, made(each).images) for each in (replace(spec, steps=1), spec)]
    first, last = (float(data_free.one_hot(each).mean()) for each in logits)
    assert last < 0.6 * first
    assert data_free.balance(logits[1]) < -2.1  # -2.3 where all are drawn alike


def test_inversion_comes_near_to_the_statistics(teacher, made):
    def apart(spec):
        heard = build.speaker(NORMED.model, 10, None, ["fc1_norm:input"])(teacher, made(spec).images)
        running = teacher["batch_stats"]["fc1_norm"]
        found = data_free.statistics(heard.taps)
        return float(data_free.normalization(found, {"fc1_norm:input": (running["mean"], running["var"])}))

    assert apart(INVERSION) < 0.7 * apart(replace(INVERSION, normalization=0.0))


def student(spec, **fields):
    distill = config.Distill(NORMED, synthesis=spec, **fields)
    return config.Experiment(NORMED.data, config.MLP((10,)), (config.Stage("student", 2, 20, distill=distill),))


@pytest.mark.slow
def test_a_student_never_sees_the_training_set(settings, teacher):
    """Neither one that learns from logits nor one that hears activations; what was made is kept and not made again."""
    data = runs.dataset(NORMED.data, None)
    wanted = synthetic(INVERSION, NORMED, teacher, data, build.seed_key(0, "synthesis"))
    for knowledge in ((), (config.Features("hint", ("fc1",), ("fc1",)),)):
        experiment = student(INVERSION, knowledge=knowledge)
        plan, _ = runs.start(experiment, data, settings)
        np.testing.assert_array_equal(plan.examples.images, wanted.images)
        same, _ = verify.verify(runs.run(experiment, settings), settings)
        assert same
    assert len(list(runs.locate(NORMED, settings.root).folder.glob("synthetic-*.npz"))) == 1


@pytest.mark.parametrize(
    ("spec", "teacher", "message"),
    [
        (INVERSION, DENSE, "needs the statistics of batch normalization; the teacher has none"),
        (replace(GENERATOR, features="fc9"), NORMED, "there is no tap 'fc9'"),
    ],
)
def test_what_cannot_be_made_is_found_before_training(spec, teacher, message):
    experiment = student(spec)
    stage = experiment.stages[0]
    assert stage.distill is not None
    experiment = replace(experiment, stages=(replace(stage, distill=replace(stage.distill, teacher=teacher)),))
    with pytest.raises(ValueError, match=message):
        rehearsal.Rehearsal(lambda data: runs.dataset(data, None)).begin(experiment)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: config.Synthesis("inversion", features="fc1"), "inversion: features='fc1'; a generator needs them"),
        (lambda: config.Synthesis("generator"), "generator: features=None"),
        (lambda: config.Synthesis("inversion", images=0), "images=0, .*all are above 0"),
        (lambda: config.Synthesis("inversion", balance=-1.0), "balance=-1.0; weights are at least 0"),
        (lambda: config.Stage("s", 1, select="best-validation", distill=DATA_FREE), "nor can they select an epoch"),
        (lambda: config.Distill(weight=0, synthesis=INVERSION), "without a teacher: .*no synthesis"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
