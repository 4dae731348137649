"""An experiment's model within a budget: of multiply-adds, of the bytes of its file, of memory."""

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
@pytest.mark.sampled(3)
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


@pytest.mark.parametrize("damage", ["loss", "error"])
@pytest.mark.sampled(2)
def test_a_joint_budget_is_that_of_the_whole_file(data, damage):
    params = build.random_params(NARROW, data, "init")
    spec = replace(JOINT, damage=damage)
    found = budgets.within(spec, NARROW, data, params, {})
    beside = budgets.within(replace(spec, macs=0.6), NARROW, data, params, {})
    used = 0.9 if damage == "error" else 0.0  # of weights drawn at random the smaller may have the lower loss
    assert used * spec.bytes < len(packed.to_bytes(found)) <= spec.bytes
    assert len(packed.to_bytes(beside)) <= spec.bytes
    assert macs(beside, NARROW.model) <= 0.6 * macs(params, NARROW.model)


def test_statistics_are_in_the_file_and_cost_what_they_cost(data):
    params, statistics = build.random_params(NARROW, data, "init"), {"batch_stats": {"mean": jnp.arange(100.0)}}
    spec = replace(JOINT, damage="error")
    sizes = [len(packed.to_bytes(budgets.within(spec, NARROW, data, params, of) | of)) for of in ({}, statistics)]
    assert all(0.9 * spec.bytes < size <= spec.bytes for size in sizes)


@pytest.mark.slow
def test_the_peak_of_memory_is_within_its_share(data):
    residual = replace(EXPERIMENT, model=config.ResNet8(width=4))
    params = build.random_params(residual, data, "init")
    logits, example = build.predictor(residual.model, 10), jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    whole = jc.peak_memory(logits, params, example)
    spec = config.Joint(".*/conv./kernel", 10**6, ranks=(0.1,), split="spatial", memory=0.8, damage="error")
    found = budgets.within(spec, residual, data, params, {})
    assert jc.peak_memory(logits, found, example) <= 0.8 * whole
    unlimited = budgets.within(replace(spec, memory=None), residual, data, params, {})
    assert jc.peak_memory(logits, unlimited, example) == whole  # where the bytes suffice, no kernel is harmed
    with pytest.raises(ValueError, match=r"memory=0.01 \(whose .*\): a budget of 0 does not suffice"):
        budgets.within(replace(spec, memory=0.01), residual, data, params, {})


def test_levels_are_measured_once_for_budgets_of_the_same_weights(data, monkeypatch):
    measured, damages = [], budgets.Subject.damages
    monkeypatch.setattr(budgets.joint, "_KNOWN", {})
    monkeypatch.setattr(budgets.Subject, "damages", lambda *args: measured.append(1) or damages(*args))
    params, spec = build.random_params(NARROW, data, "init"), replace(JOINT, ranks=(), damage="error")
    copy = jax.tree.map(jnp.copy, params)
    found = [budgets.within(replace(spec, bytes=n), NARROW, data, p, {}) for n, p in ((3000, params), (2500, copy))]
    assert len(measured) == 1
    assert len(packed.to_bytes(found[1])) <= 2500 < len(packed.to_bytes(found[0])) <= 3000
    other = jax.tree.map(lambda x: x + 1, params)
    for changed, of in ((spec, other), (replace(spec, order="bits-sparsity"), other)):
        budgets.within(changed, NARROW, data, of, {})
    assert len(measured) == 3
    rectified = replace(NARROW, model=replace(NARROW.model, relu=True))  # another model of the same weights
    budgets.within(spec, rectified, data, other, {})
    assert len(measured) == 4


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
