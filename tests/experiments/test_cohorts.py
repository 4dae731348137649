"""One program trains a cohort to what each of its points comes to alone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cohorts, runs
from experiments.cohorts import Cohort
from experiments.config import (
    ACDC,
    DKD,
    KD,
    LC,
    LSQ,
    MLP,
    NM,
    SVD,
    Activations,
    Codebook,
    Data,
    Distill,
    Experiment,
    Features,
    Magnitude,
    Movement,
    Optimiser,
    PostTraining,
    Ramp,
    Rate,
    Stage,
    Synthesis,
    TeacherFree,
    Weights,
)
from experiments.placement import Placement
from experiments.widths import compiled

pytestmark = pytest.mark.usefixtures("promotion")


SGD = Optimiser("sgd", 0.1)
TEACHER = Experiment(Data("digits", 200, limit=200), MLP((8,)), (Stage("teacher", 1, 50, SGD),))
SOFT = Distill(TEACHER)
PRUNE = Magnitude("fc1/kernel", 0.5, Ramp(1.0), every=2)


def stage(**changes):
    return replace(Stage("stage", 2, 50, SGD), **changes)


def pruned(**changes):
    return stage(recipe=(replace(PRUNE, **changes),))


def learns(*knowledge):
    return stage(distill=Distill(TEACHER, weight=0.0, knowledge=knowledge))


# Stages that differ in numbers which their program takes as arguments.
ALIKE = {
    "seed": [stage(), stage()],
    "adam": [stage(optimiser=Optimiser(learning_rate=r, weight_decay=d)) for r, d in ((1e-2, 0.0), (1e-3, 0.1))],
    "momentum": [stage(optimiser=Optimiser("sgd", 0.1, "steps", m, d, at=(1.0,))) for m, d in ((0.9, 0.0), (0.5, 0.1))],
    "exponential": [stage(optimiser=Optimiser("sgd", 0.1, "exponential", final=f)) for f in (1e-2, 1e-4)],
    "linear": [stage(optimiser=Optimiser("sgd", r, "linear")) for r in (0.1, 0.3)],
    "rates": [stage(optimiser=Optimiser(rates=(Rate("fc1/.*", f),))) for f in (0.0, 0.5)],
    "slimming": [stage(slimming=s) for s in (0.0, 1e-2)],
    "sparsity": [pruned(sparsity=s) for s in (0.5, 0.9)],
    "ramp": [pruned(ramp=Ramp(e, b, i)) for e, b, i in ((1.0, 0.0, 0.0), (1.5, 0.5, 0.2))],
    "movement": [stage(recipe=(Movement("fc1/kernel", s, Ramp(1.0), every=2),)) for s in (0.5, 0.8)],
    "ac/dc": [stage(recipe=(ACDC("fc1/kernel", s, 0.25, 2, 0.5, 0.5),)) for s in (0.5, 0.8)],
    "n:m": [stage(recipe=(NM("fc1/kernel", method="sr-ste", decay=d),)) for d in (1e-2, 1e-1)],
    "bits": [stage(recipe=(Weights("fc./kernel", b),)) for b in (2, 8)],
    "bits that fall": [stage(recipe=(Weights("fc1/kernel", b, ramp=Ramp(1.0, initial=8.0)),)) for b in (2, 4)],
    "learned step": [stage(recipe=(LSQ("fc1/kernel", b),)) for b in (2, 4)],
    "rank": [stage(recipe=(SVD("fc1/kernel", r),)) for r in (2, 5)],
    "temperature": [stage(distill=replace(SOFT, temperature=t, weight=w)) for t, w in ((1.0, 0.0), (4.0, 0.9))],
    "knowledge": [learns(KD(w, t), DKD(w, alpha=w), TeacherFree(w)) for w, t in ((0.5, 2.0), (1.0, 4.0))],
    "features": [learns(Features("hint", ("fc1",), ("fc1",), w)) for w in (0.5, 2.0)],
}  # fmt: skip


def experiments(stages):
    model = MLP((8,), norm=True)
    return [Experiment(TEACHER.data, model, (one,), seed) for seed, one in enumerate(stages)]


def begun(experiment, folder):
    settings = runs.Settings(folder, None, "disabled")
    return runs.start(experiment, runs.dataset(experiment.data, None), settings)


def close(one, other, tolerance=2e-5):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize(("name", "width"), [*((name, 2) for name in ALIKE), ("sparsity", 1)])
@pytest.mark.sampled(3)
def test_points_come_to_what_they_come_to_alone(name, width, folder):
    """After two epochs, one in each program: states, losses and errors."""
    of = experiments(ALIKE[name])
    assert len(set(map(cohorts.signature, of))) == 1 and not any(map(cohorts.alone, of))
    plans, states = zip(*(begun(experiment, folder) for experiment in of), strict=True)
    assert len(set(map(cohorts.structure, states))) == 1
    cohort, placement = Cohort.of(of, plans, states), Placement.of(jax.devices()[:1], width=width)
    program = compiled(cohort, placement, width)
    now, step = cohort.points.state, 0
    for epoch in (1, 2):
        now, losses = program(
            now, cohort.points._replace(state=()), jnp.int32(step), plans[0].examples, jnp.int32(epoch)
        )
        step += len(plans[0].examples.labels) // 50
        for i, plan in enumerate(plans):
            alone, loss = plan.program(states[i], plan.examples, jax.random.fold_in(plan.key, epoch))
            states = (*states[:i], alone, *states[i + 1 :])
            close(cohort.state(now, i, step), alone)
            np.testing.assert_allclose(losses[i], loss, rtol=1e-4)
    images = plans[0].examples.images[:60]
    labels = plans[0].examples.labels[:60]
    wrong = cohort.wrong(width, placement)(now, images, labels)
    for i, plan in enumerate(plans):
        guesses = plan.logits(plan.handed_on(states[i]), images).argmax(-1)
        assert int(wrong[i]) == int((guesses != labels).sum())


def test_what_differs_otherwise_is_another_program():
    plain = experiments([stage(), stage(batch=20), stage(epochs=3), pruned(), pruned(every=3)])
    assert len(set(map(cohorts.signature, plain))) == 5
    wider = replace(plain[0], model=MLP((9,), norm=True))
    other = replace(plain[0], stages=(stage(distill=replace(SOFT, teacher=replace(TEACHER, seed=1))),))
    same = replace(plain[0], stages=(stage(distill=SOFT),))
    assert len(set(map(cohorts.signature, (plain[0], wider, other, same)))) == 4


def test_earlier_stages_are_no_part_of_the_program():
    before = [(stage(name="before", epochs=e, batch=b),) for e, b in ((1, 50), (2, 20))]
    last = [replace(experiments([stage()])[0], stages=(*early, stage())) for early in before]
    assert len(set(map(cohorts.signature, last))) == 1
    rounded = replace(before[0][0], activations=Activations("fc1", 4))
    assert cohorts.signature(replace(last[0], stages=(rounded, stage()))) != cohorts.signature(last[0])


def test_states_of_other_shapes_are_not_stacked(folder):
    """Ranks of plain factors may differ; ranks of factors that are wrapped, and codebooks, may not."""

    def state_of(*recipe):
        return begun(experiments([stage(recipe=recipe)])[0], folder)[1]

    shared = [cohorts.structure(state_of(Codebook("fc1/kernel", bits))) for bits in (2, 3)]
    assert shared[0] != shared[1]
    plain = [cohorts.structure(state_of(SVD("fc1/kernel", rank))) for rank in (2, 3)]
    assert plain[0] == plain[1]
    wrapped = [state_of(SVD("fc1/kernel", rank), Magnitude("fc1/kernel/u", 0.5)) for rank in (2, 3)]
    assert cohorts.structure(wrapped[0]) != cohorts.structure(wrapped[1])


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (PostTraining("int8"), "does not train"),
        (stage(epochs=0), "no epochs"),
        (stage(recipe=(SVD("fc1/kernel", 2),), lc=LC(1e-3, 1.1, 1, 1)), "C steps"),
        (stage(distill=replace(SOFT, synthesis=Synthesis("inversion", images=50, batch=50))), "drawn by its seed"),
        (stage(distill=replace(SOFT, views=2), augment=("jitter",)), "drawn by its seed"),
    ],
)
def test_stages_that_are_run_alone_say_why(last, reason):
    assert reason in cohorts.alone(Experiment(TEACHER.data, MLP((8,)), (stage(name="first"), last)))


@pytest.mark.parametrize(("width", "rows"), [(1, 1), (2, 1), (4, 1), (5, 1), (9, 1), (1, 2), (2, 2), (3, 2)])
def test_every_point_is_mapped_whatever_the_width(width, rows):
    points = {"a": jnp.arange(6), "b": jnp.arange(12.0).reshape(6, 2)}
    made = cohorts.over_points(lambda p: (p["a"] * 2, p["b"].sum()), points, width, rows)
    np.testing.assert_array_equal(made[0], np.arange(6) * 2)
    np.testing.assert_array_equal(made[1], np.arange(12.0).reshape(6, 2).sum(1))
