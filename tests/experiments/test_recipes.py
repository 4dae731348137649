"""The techniques of a stage become transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from experiments import config, recipes
from jaxcompress.arrays import Clustered, FakeQuantized, LowRank, Masked, dense

pytestmark = pytest.mark.usefixtures("promotion")


def recipe(*techniques, seed=0, epoch_steps=10):
    return recipes.recipe(config.Stage("s", 1, recipe=techniques), recipes.Setting(epoch_steps, seed))


def kernel():
    return {"fc1": {"kernel": jax.random.normal(jax.random.key(1), (8, 6))}}


def test_recipe_wraps_in_order():
    techniques = (
        config.SVD("fc1/kernel", rank=2),
        config.Magnitude("fc1/kernel/u", 0.5),
        config.Weights("fc1/kernel/v", 4),
    )
    leaf = recipe(*techniques).init(kernel())["fc1"]["kernel"]
    assert isinstance(leaf, LowRank) and isinstance(leaf.u, Masked) and isinstance(leaf.v, FakeQuantized)
    assert leaf.rank == 2 and int(leaf.v.bits) == 4 and int(leaf.u.mask.sum()) == 8


def test_recipe_knows_threshold_and_codebook():
    assert isinstance(recipe(config.Threshold("fc1/kernel", 1.0)).init(kernel())["fc1"]["kernel"], Masked)
    for initial in ("linear", "density", "random"):
        leaf = recipe(config.Codebook("fc1/kernel", 2, initial)).init(kernel())["fc1"]["kernel"]
        assert isinstance(leaf, Clustered) and leaf.centroids.shape == (4,)


@pytest.mark.parametrize(
    "technique, kind",
    [
        (config.Weights("fc1/kernel", 4, "group", group=4), "FakeQuantized"),
        (config.Weights("fc1/kernel", 4, stochastic=True), "Dithered"),
        (config.Float8("fc1/kernel", "e5m2", "channel"), "Float8"),
        (config.LSQ("fc1/kernel", 3), "LearnedStep"),
        (config.DoReFa("fc1/kernel", 2), "DoReFa"),
        (config.Binary("fc1/kernel", stochastic=True), "Binary"),
        (config.Binary("fc1/kernel", "xnor"), "ScaledBinary"),
        (config.Ternary("fc1/kernel"), "Ternary"),
        (config.Ternary("fc1/kernel", "ttq", 0.1), "TrainedTernary"),
    ],
)
def test_recipe_knows_low_bit_weights(technique, kind):
    assert type(recipe(technique).init(kernel())["fc1"]["kernel"]).__name__ == kind


def conv():
    return {"conv": {"kernel": jax.random.normal(jax.random.key(1), (3, 3, 6, 8))}}


@pytest.mark.parametrize(
    "technique, kind",
    [
        (config.SVD("conv/kernel", rank=3), "LowRank"),
        (config.SVD("conv/kernel", rank=2, split="spatial"), "SpatialLowRank"),
        (config.SVD("conv/kernel", vbmf=True), "LowRank"),
        (config.SVD("conv/kernel", energy=0.1), "LowRank"),
        (config.Tucker2("conv/kernel", rank=3), "Tucker2"),
        (config.Tucker2("conv/kernel", energy=0.2), "Tucker2"),
        (config.Tucker2("conv/kernel", vbmf=True), "Tucker2"),
        (config.CP("conv/kernel", 3), "CP"),
        (config.TensorTrain("conv/kernel", (2, 3), (2, 4), 2), "TensorTrain"),
        (config.Kronecker("conv/kernel", (2, 2)), "Kronecker"),
    ],
)
def test_recipe_knows_factors(technique, kind):
    leaf = recipe(technique).init(conv())["conv"]["kernel"]
    assert type(leaf).__name__ == kind and leaf.shape == (3, 3, 6, 8)


def test_a_budget_needs_a_model():
    with pytest.raises(ValueError, match="the budget for 'conv/kernel' needs a model"):
        recipe(config.Budget("conv/kernel", "svd", 0.5)).init(conv())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: config.SVD("w"), "svd of 'w' takes one of rank, energy, alpha, vbmf, not none"),
        (lambda: config.SVD("w", 3, vbmf=True), "not rank and vbmf"),
        (lambda: config.Tucker2("w", 3, 0.5), "tucker2 of 'w' takes one of rank, energy, vbmf, not rank and energy"),
        (lambda: config.Budget("w", "cp", 0.0), "macs=0.0 of the budget for 'w' is not a fraction"),
        (lambda: config.Budget("w", "cp", 0.5, examples=0), "examples=0 of the budget for 'w'"),
    ],
)
def test_ranks_that_say_nothing_or_two_things_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bytes": 0}, "bytes=0, examples=1000 of the joint budget for 'w' must be at least 1"),
        ({"examples": 0}, "examples=0 of the joint budget"),
        ({"macs": 1.5}, "macs=1.5 of the joint budget for 'w' is not a fraction"),
        ({"bits": ()}, "there are no ranks, sparsities or bits of the joint budget for 'w'"),
        (
            {"ranks": (0.5, 1.0)},
            r"ranks=\[0.5, 1.0\], sparsities=\[\] of the joint budget for 'w' are not all fractions",
        ),
        ({"sparsities": (-0.5,)}, r"sparsities=\[-0.5\] of the joint budget"),
        ({"bits": (1, 4)}, r"bits=\[1, 4\] of the joint budget for 'w' are not all from 2 to 8"),
    ],
)
def test_joint_budgets_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config.Joint(**({"pattern": "w", "bytes": 100, "bits": (4,)} | changes))


@pytest.mark.parametrize(
    "technique, kind",
    [
        (config.Dynamic("fc1/kernel", 0.5, 2, "set", every=3), "Masked"),
        (config.NM("fc1/kernel", 1, 2), "Masked"),
        (config.NM("fc1/kernel", 2, 4, "sr-ste"), "StraightThrough"),
        (config.Movement("fc1/kernel", 0.5, config.Ramp(2)), "Movement"),
        (config.ACDC("fc1/kernel", 0.5, 1, 6, 1, 1), "Masked"),
    ],
)
def test_recipe_knows_how_masks_are_trained(technique, kind):
    leaf = recipe(technique).init(kernel())["fc1"]["kernel"]
    assert type(leaf).__name__ == kind
    updated = recipe(technique).update({"fc1": {"kernel": leaf}}, 100, key=jax.random.key(0))["fc1"]["kernel"]
    assert int(updated.mask.sum()) == 24


def test_rigl_needs_a_loss_to_grow_by():
    with pytest.raises(ValueError, match="rigl of 'fc1/kernel' needs a loss to grow by"):
        recipe(config.Dynamic("fc1/kernel", 0.5, 2))


def test_bits_fall_along_a_ramp():
    falling = recipe(config.Weights("fc1/kernel", 3, ramp=config.Ramp(2, 1, 8, "linear")))
    params = falling.init(kernel())
    found = [int(falling.update(params, step)["fc1"]["kernel"].bits) for step in (0, 10, 14, 20, 30)]
    assert found == [8, 8, 6, 3, 3]


def test_drawn_roundings_are_handed_on_to_nearest():
    stage = config.Stage("s", 1, recipe=(config.Weights("fc1/kernel", 3, stochastic=True),))
    drawn = recipes.recipe(stage, recipes.Setting(10))
    wrapped = drawn.update(drawn.init(kernel()), 1, key=jax.random.key(0))["fc1"]["kernel"]
    handed = recipes.handed_on(stage)({"fc1": {"kernel": wrapped}})["fc1"]["kernel"]
    nearest = dense(jc.pack({"kernel": wrapped})["kernel"])
    assert np.any(dense(wrapped) != nearest)
    np.testing.assert_array_equal(dense(handed), nearest)


@pytest.mark.parametrize("test", ["weights", "signs"])
def test_noise_of_training_is_not_handed_on(test):
    noise = config.Binary("fc1/kernel", stochastic=True, test=test)
    stage = config.Stage("s", 1, recipe=(noise, config.Weights("fc1/bias", 4)))
    params = {"fc1": kernel()["fc1"] | {"bias": jnp.ones(6)}}
    drawn = recipes.recipe(stage, recipes.Setting(10))
    wrapped = drawn.update(drawn.init(params), 1, key=jax.random.key(0))
    weight = wrapped["fc1"]["kernel"].weight
    signs = np.where(weight >= 0, 1, -1)
    assert np.any(dense(wrapped["fc1"]["kernel"]) != signs)
    handed = recipes.handed_on(stage)(wrapped)
    assert isinstance(handed["fc1"]["bias"], FakeQuantized)
    np.testing.assert_array_equal(dense(handed["fc1"]["kernel"]), weight if test == "weights" else signs)


def test_ramp_counts_in_epochs():
    ramp = config.Ramp(end=2.0, begin=1.0, initial=0.0, shape="linear")
    transform = recipe(config.Magnitude("fc1/kernel", 0.5, ramp, every=5), epoch_steps=10)
    params, update = transform.init(kernel()), jax.jit(transform.update)
    removed = []
    for step in range(1, 31):
        params = update(params, step)
        removed.append(int((~params["fc1"]["kernel"].mask).sum()))
    assert removed[8] == removed[9] == 0  # until the end of epoch 1
    assert removed[14] == 12 and removed[19] == removed[29] == 24  # half way, and from the end of epoch 2 on


def test_random_codebook_follows_the_seed():
    spec = config.Codebook("fc1/kernel", 2, "random")
    one, same, other = (recipe(spec, seed=s).init(kernel())["fc1"]["kernel"].centroids for s in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.any(np.asarray(one) != np.asarray(other))


def test_connections_are_ranked_once_by_the_scores_given():
    technique = config.Connections("fc1/kernel", 0.5, "snip")
    asked = []

    def score(technique, params):
        asked.append(technique)
        return {"fc1/kernel": jnp.arange(48.0).reshape(8, 6)}

    pruned = recipes.recipe(config.Stage("s", 1, recipe=(technique,)), recipes.Setting(10, score=score))
    params = pruned.init(kernel())
    assert asked == [technique]
    np.testing.assert_array_equal(params["fc1"]["kernel"].mask, np.arange(48).reshape(8, 6) >= 24)
    assert pruned.update(params, 5) is params
    with pytest.raises(ValueError, match="connections of 'fc1/kernel' need a score"):
        recipe(technique).init(kernel())
