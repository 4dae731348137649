"""An experiment's model within a budget: of multiply-adds, of the bytes of its file."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from experiments import budgets, build, config
from experiments.data import Dataset, Split
from jaxcompress.arrays import Factored, FakeQuantized, Masked, dense
from jaxcompress.export import packed

EXPERIMENT = config.Experiment(config.Data(), config.LeNet5(), (config.Stage("s", 1),))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    part = Split(rng.integers(0, 256, (30, 28, 28, 1)).astype(np.uint8), rng.integers(0, 10, 30).astype(np.int32))
    return Dataset("mnist", part, part, part, 10)


def macs(params, model=EXPERIMENT.model):
    example = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    return jc.macs(build.predictor(model, 10), params, example)


@pytest.mark.parametrize(("form", "damage"), [("svd", "loss"), ("spatial", "error"), ("tucker2", "error")])
def test_multiply_adds_are_within_the_budget(data, form, damage):
    params = build.random_params(EXPERIMENT, data, "init")
    spec = config.Budget("conv2/kernel", form, 0.6, damage, examples=20)
    found = budgets.within(spec, EXPERIMENT, data, params, {})
    whole = macs(params)
    # The error falls with the rank, so that the budget is used; the loss of weights drawn at random need not.
    assert (0.4 * whole if damage == "error" else 0) < macs(found) <= 0.6 * whole
    assert isinstance(found["conv2"]["kernel"], Factored)
    np.testing.assert_array_equal(found["conv1"]["kernel"], params["conv1"]["kernel"])


def test_ranks_of_cp_without_a_sound_fit_are_left_out(data, monkeypatch):
    params = build.random_params(EXPERIMENT, data, "init")
    made = jc.factorize.cp

    def cp(path, rank, *, key, **options):
        small = made(path, rank, key=key, tries=1, sweeps=2, **options)

        def init(params):
            if rank > 40:
                raise jc.factorize.Unsound(f"{path} of rank {rank}")
            return small.init(params)

        return small._replace(init=init)

    monkeypatch.setattr(jc.factorize, "cp", cp)
    found = budgets.within(config.Budget("conv2/kernel", "cp", 0.5), EXPERIMENT, data, params, {})
    assert 1 <= found["conv2"]["kernel"].u.shape[-1] <= 40


def test_a_budget_below_what_factors_allow_is_refused_with_the_least(data):
    params = build.random_params(EXPERIMENT, data, "init")
    with pytest.raises(ValueError, match="does not suffice; the cheapest levels cost"):
        budgets.within(config.Budget("conv2/kernel", "svd", 0.01), EXPERIMENT, data, params, {})


NARROW = replace(EXPERIMENT, model=config.LeNet5(filters=(4, 6), hidden=40))
JOINT = config.Joint(".*/kernel", 3000, (0.3, 0.6), (0.5, 0.9), (2, 4), examples=20)


@pytest.mark.parametrize("damage", ["error", "loss"])
def test_a_joint_budget_is_that_of_the_whole_file(data, damage):
    params = build.random_params(NARROW, data, "init")
    spec = replace(JOINT, damage=damage)
    statistics = {"statistics": jnp.arange(100.0)}  # which are in the file, and cost what they cost
    found = budgets.within(spec, NARROW, data, params, {})
    beside = budgets.within(replace(spec, macs=0.6), NARROW, data, params, {})
    used = 0.9 if damage == "error" else 0.0  # of weights drawn at random the smaller may have the lower loss
    assert used * spec.bytes < len(packed.to_bytes(found)) <= spec.bytes
    assert len(packed.to_bytes(beside)) <= spec.bytes
    assert macs(beside, NARROW.model) <= 0.6 * macs(params, NARROW.model)
    small = budgets._packed_within(spec.bytes, params, statistics, *forms_of(params), ())
    assert len(packed.to_bytes(small | statistics)) <= spec.bytes


def forms_of(params):
    leaves = jc.budget.forms(params, ".*/kernel", jc.budget.grid((0.3,), (0.5, 0.9), (2, 4)))
    return leaves, jc.budget.leaf_errors(params, leaves)


def test_masks_are_where_the_order_says(data):
    params = build.random_params(NARROW, data, "init")
    both = jc.budget.recipe({"fc1/kernel": jc.budget.Level(None, 0.9, 2)}).init(params)
    least = len(packed.to_bytes(both)) + 50  # which neither of them alone is within
    alone = config.Joint("fc1/kernel", least, (), (0.9,), (2,), damage="error")
    first = budgets.within(alone, NARROW, data, params, {})["fc1"]["kernel"]
    last = budgets.within(replace(alone, order="bits-sparsity"), NARROW, data, params, {})["fc1"]["kernel"]
    assert isinstance(first, FakeQuantized) and isinstance(first.weight, Masked)
    assert isinstance(last, Masked) and isinstance(last.weight, FakeQuantized)
    assert np.count_nonzero(dense(first)) <= 384 and np.count_nonzero(dense(last)) <= 384


def test_a_file_that_nothing_makes_small_enough_is_refused(data):
    params = build.random_params(NARROW, data, "init")
    with pytest.raises(ValueError, match="a budget of .* does not suffice; the cheapest levels cost"):
        budgets.within(replace(JOINT, bytes=800, damage="error"), NARROW, data, params, {})
