"""A stage of the LC algorithm: C steps where L steps end, the same bits from the middle, compressed at its end."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from experiments import config, learning, runs, train
from jaxcompress.arrays import Clustered, LowRank, Masked, dense
from jaxcompress.paths import flatten
from tests.experiments.test_runs import DENSE

LC = config.LC(1e-2, 2.0, 2, 3)
RECIPE = (config.Magnitude("fc1/kernel", 0.5), config.Codebook("fc2/kernel", 1))


pytestmark = pytest.mark.usefixtures("promotion")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return runs.Settings(tmp_path_factory.getbasetemp() / "shared" / "runs", None, "disabled")


def stage(epochs=7, recipe=RECIPE, **fields):
    optimiser = config.Optimiser("sgd", 0.05, "constant")
    return config.Stage("lc", epochs, 100, optimiser, recipe, lc=LC, **fields)


def experiment(epochs=7, **fields):
    return replace(DENSE, stages=(*DENSE.stages, stage(epochs, **fields)))


def test_the_strength_grows_where_a_c_step_ended():
    at = learning.strength(LC, 10)
    found = [float(at(jnp.int32(step))) for step in (0, 29, 30, 49, 50, 69, 70)]
    np.testing.assert_allclose(found, [0.01, 0.01, 0.02, 0.02, 0.04, 0.04, 0.08], rtol=1e-6)


def test_c_steps_are_taken_after_the_first_and_then_after_every_so_many_epochs(settings):
    dataset = runs.dataset(DENSE.data, None)
    plan, begun = runs.start(experiment(), dataset, settings)
    assert isinstance(flatten(train.params_of(begun))["fc1/kernel"], jax.Array)
    states = [begun, *(s for _, s, _ in train.epochs(plan.program, begun, plan.examples, plan.key, 1, 7))]
    strengths = [float(state.constraint.strength) for state in states]
    np.testing.assert_allclose(strengths, [0, 0, 0, 0.01, 0.01, 0.02, 0.02, 0.04], rtol=1e-6)


def test_momentum_starts_anew_with_every_l_step_and_the_count_of_steps_goes_on(settings):
    plan, state = runs.start(experiment(), runs.dataset(DENSE.data, None), settings)
    states = [state for _, state, _ in train.epochs(plan.program, state, plan.examples, plan.key, 1, 3)]
    momentum = [[leaf for leaf in jax.tree.leaves(s.opt_state) if leaf.dtype == jnp.float32] for s in states]
    moved = [max(float(jnp.max(jnp.abs(leaf))) for leaf in of) for of in momentum]
    assert moved[1] > 0 and moved[2] == 0
    assert [int(s.step) for s in states] == [int(states[0].step) * n for n in (1, 2, 3)]


def test_weights_are_drawn_to_what_is_handed_on(settings):
    run = runs.run(experiment(11), settings)
    params = run.params()
    assert isinstance(params["fc1"]["kernel"], Masked) and isinstance(params["fc2"]["kernel"], Clustered)
    plan, begun = runs.start(experiment(11), runs.dataset(DENSE.data, None), settings)

    def distance(state):
        weights, kept = flatten(train.params_of(state)), state.constraint.compressed
        return sum(float(jnp.sum((weights[path] - kept[path]) ** 2)) for path in kept)

    *_, (_, last, _) = train.epochs(plan.program, begun, plan.examples, plan.key, 1, 11)
    assert distance(last) < 0.3 * distance(begun)
    handed = flatten(plan.handed_on(last))
    for path, leaf in flatten(params).items():
        np.testing.assert_array_equal(dense(leaf), dense(handed[path]))


def test_training_is_the_same_bits_from_the_middle(settings):
    plan, begun = runs.start(experiment(), runs.dataset(DENSE.data, None), settings)
    whole = [state for _, state, _ in train.epochs(plan.program, begun, plan.examples, plan.key, 1, 6)]
    rest = [state for _, state, _ in train.epochs(plan.program, whole[3], plan.examples, plan.key, 5, 6)]
    for a, b in zip(jax.tree.leaves(whole[5]), jax.tree.leaves(rest[1]), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.slow
def test_learned_ranks_and_sums_are_c_steps_too(settings):
    parts = (config.Magnitude("fc2/kernel", 0.9), config.Codebook("fc2/kernel", 1, scope="global"))
    recipe = (config.SVD("fc1/kernel", alpha=3e-4), config.Additive("fc2/kernel", *parts))
    params = runs.run(experiment(recipe=recipe), settings).params()
    assert isinstance(params["fc1"]["kernel"], LowRank)
    assert jc.macs(jc.lift(lambda p, x: x @ p["fc1"]["kernel"]), params, jnp.ones((1, 64))) < 64 * 32
    assert type(params["fc2"]["kernel"]).__name__ == "Summed"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: config.LC(0.0, 1.1, 1, 1), "strength=0.0, growth=1.1, epochs=1, first=1; strength is above 0"),
        (lambda: config.LC(1.0, 0.9, 1, 1), "growth at least 1"),
        (lambda: stage(8), "epochs=8 must be lc's first=3 and then any number of times epochs=2"),
        (lambda: stage(1), "epochs=1 must be lc's first=3"),
        (lambda: stage(recipe=()), "with lc needs a recipe"),
        (lambda: stage(select="best-validation"), "no rewind, remove, offset or selection"),
        (lambda: stage(offset=config.Offset("fc3/bias", (1,))), "no rewind, remove, offset or selection"),
    ],
)
def test_bad_stages_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
