"""Factors of an experiment's model within a budget of multiply-adds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from experiments import build, config, factorization
from experiments.data import Dataset, Split
from jaxcompress.arrays import Factored

EXPERIMENT = config.Experiment(config.Data(), config.LeNet5(), (config.Stage("s", 1),))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    part = Split(rng.integers(0, 256, (30, 28, 28, 1)).astype(np.uint8), rng.integers(0, 10, 30).astype(np.int32))
    return Dataset("mnist", part, part, part, 10)


def macs(params):
    example = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    return jc.macs(build.predictor(EXPERIMENT.model, 10), params, example)


@pytest.mark.parametrize(("form", "damage"), [("svd", "loss"), ("spatial", "error"), ("tucker2", "error")])
def test_multiply_adds_are_within_the_budget(data, form, damage):
    params = build.random_params(EXPERIMENT, data, "init")
    spec = config.Budget("conv2/kernel", form, 0.6, damage, examples=20)
    found = factorization.within(spec, EXPERIMENT, data, params, {})
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
    found = factorization.within(config.Budget("conv2/kernel", "cp", 0.5), EXPERIMENT, data, params, {})
    assert 1 <= found["conv2"]["kernel"].u.shape[-1] <= 40


def test_a_budget_below_what_factors_allow_is_refused_with_the_least(data):
    params = build.random_params(EXPERIMENT, data, "init")
    with pytest.raises(ValueError, match="does not suffice; the cheapest levels cost"):
        factorization.within(config.Budget("conv2/kernel", "svd", 0.01), EXPERIMENT, data, params, {})
