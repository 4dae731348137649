"""What was reached is counted in masks and codes, here by hand."""

import jax
import jax.numpy as jnp
import pytest

import jaxcompress as jc
from experiments.reached import reached

KEY = jax.random.key(0)
PARAMS = {
    "a": {"kernel": jax.random.normal(KEY, (8, 10)), "bias": jnp.ones(10)},
    "b": {"kernel": jax.random.normal(KEY, (10, 4))},
}


def made(*transforms):
    return jc.chain(*transforms).init(PARAMS)


def test_plain_weights_have_reached_nothing():
    assert reached(PARAMS) == (None, None, {})


def test_sparsity_is_of_the_weights_under_masks():
    found = reached(made(jc.prune.magnitude("a/kernel", 0.75), jc.prune.magnitude("b/kernel", 0.5)))
    assert found.leaves == {"a/kernel": {"sparsity": 0.75}, "b/kernel": {"sparsity": 0.5}}
    assert found.sparsity == pytest.approx((60 + 20) / 120) and found.bits is None


def test_a_schedule_counts_by_what_it_has_reached():
    ramp = jc.schedules.linear(0.0, 0.8, end=10)
    transform = jc.prune.magnitude("a/kernel", ramp)
    begun = transform.init(PARAMS)
    assert reached(begun).sparsity == 0 and reached(transform.update(begun, 5)).sparsity == pytest.approx(0.4)
    rounding = jc.quantize.weights("b/kernel", jc.schedules.linear(8.0, 2.0, end=6))
    begun = rounding.init(PARAMS)
    assert [reached(rounding.update(begun, step)).bits for step in (0, 3, 6)] == [8, 5, 2]


@pytest.mark.parametrize("form", ["training", "packed"])
def test_bits_are_of_the_weights_that_are_rounded(form):
    params = made(jc.quantize.weights("a/kernel", 4), jc.quantize.codebook("b/kernel", 2))
    found = reached(params if form == "training" else jc.pack(params))
    assert found.leaves == {"a/kernel": {"bits": 4.0}, "b/kernel": {"bits": 2.0}}
    assert found.bits == pytest.approx((80 * 4 + 40 * 2) / 120) and found.sparsity is None


def test_masks_under_a_rounding_and_masks_on_masks_count():
    under = made(jc.prune.magnitude("a/kernel", 0.5), jc.quantize.weights("a/kernel", 8))
    assert reached(under).leaves == {"a/kernel": {"sparsity": 0.5, "bits": 8.0}}
    twice = made(jc.prune.magnitude("a/kernel", 0.5), jc.prune.magnitude("a/kernel", 0.75, name="more"))
    assert reached(twice).sparsity == 0.75
    halves = made(jc.prune.n_m("a/kernel", 2, 4), jc.prune.n_m("a/kernel", 1, 4, name="again"))
    assert reached(halves).sparsity == 0.75


def test_factors_and_parts_are_named():
    factors = made(jc.factorize.svd("a/kernel", 2, always=True), jc.prune.magnitude("a/kernel/u", 0.5))
    found = reached(factors).leaves
    assert found == {"a/kernel/u": {"sparsity": 0.5}}
