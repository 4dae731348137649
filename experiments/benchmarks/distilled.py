"""A training step with a teacher: its logits stored beforehand, or the teacher heard in the step, with features too."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcompress as jc
from experiments import build, config, train
from experiments.benchmarks.steps import MOMENTUM, RATE
from experiments.benchmarks.timing import Effort, Report, Row, race, row
from experiments.build import Heard
from experiments.teaching import Batch, Lessons, tapped
from jaxcompress.distill import memory

PLAIN, STORED, HEARD = "labels alone", "stored logits of a teacher", "a teacher in the step"
FEATURES = 128  # of the embeddings of CRD, as in its paper


class Pair(NamedTuple):
    """Names a student and its teacher, the image that they see, and their last features."""

    student: config.Model
    teacher: config.Model
    shape: tuple[int, int, int]
    features: str


PAIRS = {
    "LeNet-300-100 of 1200-1200": Pair(config.MLP(), config.MLP((1200, 1200)), (28, 28, 1), "fc3:input"),
    "ResNet-8 of half width": Pair(config.ResNet8(8), config.ResNet8(), (32, 32, 3), "fc:input"),
}


def distill(effort: Effort) -> Report:
    """Compares steps of a student, and says what the memory of CRD takes."""
    rows = [row for name, pair in PAIRS.items() for row in _steps(name, pair, effort)]
    state = jax.eval_shape(lambda key: memory(key, effort.examples, FEATURES), jax.random.key(0))
    size = sum(bank.size * bank.dtype.itemsize for bank in state)
    note = f"CRD's memory of {effort.examples:,} examples, {FEATURES} features: {size:,} bytes"
    return Report(rows, [note])


def _steps(name: str, pair: Pair, effort: Effort) -> list[Row]:
    last: dict[str, Any] = {"student": pair.features, "teacher": pair.features}
    lessons = {
        "RKD, distances": config.Relations("rkd-distance", **last),
        f"CRD, {effort.negatives:,} negatives": config.Contrast("crd", **last, negatives=effort.negatives),
    }
    steps = {
        PLAIN: _epoch(pair, effort, train.Objective()),
        STORED: _epoch(pair, effort, train.Objective(0.9, 4.0), stored=True),
        HEARD: _epoch(pair, effort, train.Objective(0.9, 4.0)),
    } | {kind: _epoch(pair, effort, train.Objective(), (spec,)) for kind, spec in lessons.items()}
    times = race(steps, effort.rounds)
    apart = abs(float(steps[STORED]()[1] - steps[HEARD]()[1]))
    return [row(name, times, kind, PLAIN, apart if kind in (STORED, HEARD) else 0.0) for kind in steps if kind != PLAIN]


def _epoch(
    pair: Pair,
    effort: Effort,
    objective: train.Objective,
    knowledge: tuple[config.Knowledge, ...] = (),
    *,
    stored: bool = False,
) -> Callable[[], Any]:
    """Returns a call that runs the compiled epoch of the harness, `scanned` batches of it, from the same state."""
    random, total = np.random.default_rng(0), effort.batch * effort.scanned
    images = jnp.asarray(random.integers(0, 256, (total, *pair.shape), np.uint8))
    labels = jnp.asarray(random.integers(0, 10, total, np.int32))
    params, theirs = (
        jax.jit(build.model(spec, 10).init)(jax.random.key(seed), build.scaled(images[:1]))["params"]
        for seed, spec in enumerate((pair.student, pair.teacher))
    )
    ours, of_teacher = tapped(knowledge)
    outputs = build.trainer(pair.student, 10, taps=ours)
    speaker = build.speaker(pair.teacher, 10, None, of_teacher)
    taught = objective.distill > 0 or bool(knowledge)
    logits = build.predictor(pair.teacher, 10)(theirs, images) if stored else jnp.zeros((total, 0))
    examples, optimiser = train.Examples(images, labels, logits), optax.sgd(RATE, MOMENTUM)
    state, lessons = train.begin(params, optimiser), Lessons.of(knowledge) if knowledge else None
    if lessons is not None:
        made = outputs(params, images, jax.random.key(0))
        student, teacher = Heard(made.logits, made.taps), speaker(theirs, images)
        batch = Batch(images, student, teacher, labels, jnp.arange(total), jax.random.key(1))
        everyone = jnp.asarray(random.integers(0, 10, effort.examples, np.int32))
        learned, kept = lessons.begin(jax.random.key(2), batch, everyone)
        state = state._replace(teaching=train.Teaching(learned, optimiser.init(learned), kept))
    program = train.epoch_program(
        outputs,
        optimiser,
        jc.chain(),
        objective._replace(lessons=lessons),
        effort.batch,
        teacher=(lambda images: speaker(theirs, images)) if taught and not stored else None,
        of_lessons=optimiser,
    )
    return lambda: program(state, examples, jax.random.key(3))
