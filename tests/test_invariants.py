"""What leaves declare is found out to hold or not, by values, whatever stands around them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

import jaxcompress as jc
from jaxcompress.invariants import broken, declared

KEYS = jax.random.split(jax.random.key(0), 2)
PARAMS = {
    "conv": {"kernel": jax.random.normal(KEYS[0], (3, 3, 4, 6)), "bias": jnp.ones(6)},
    "fc": {"kernel": jax.random.normal(KEYS[1], (16, 12))},
}
PRUNED = jc.prune.magnitude("fc/kernel", 0.5)
ROUNDED = jc.quantize.weights("fc/kernel", 3)
FACTORED = jc.factorize.svd("fc/kernel", 4)


def with_fc(leaf):
    return {**PARAMS, "fc": {"kernel": leaf}}


def fc_of(params):
    return params["fc"]["kernel"]


def test_what_is_not_compressed_declares_nothing():
    assert declared(PARAMS) == [] and broken(PARAMS, with_fc(jnp.zeros((2, 2)))) == []


def test_each_leaf_declares_its_own_and_that_of_what_it_holds():
    params = jc.chain(FACTORED, jc.prune.magnitude("fc/kernel/u", 0.25), jc.quantize.weights("fc/kernel/[uv]", 4)).init(
        PARAMS
    )
    found = [(each.path, each.told) for each in declared(params)]
    assert found == [
        ("fc/kernel", "a rank of 4 at most"),
        ("fc/kernel/u", "16 values a scale at most"),
        ("fc/kernel/u", "16 weights are zero"),
        ("fc/kernel/v", "16 values a scale at most"),
    ]


@pytest.mark.parametrize("first", [PRUNED, ROUNDED, FACTORED, jc.prune.magnitude("conv/kernel", 0.5)])
@pytest.mark.parametrize("second", [PRUNED, ROUNDED, jc.quantize.weights("conv/kernel", 2)])
def test_what_is_composed_and_packed_is_kept(first, second):
    before = first.init(PARAMS)
    after = second.init(before) if first.names != second.names else before
    assert broken(before, before) == []
    # A mask or a grid around a product is no product of that rank.
    kept = not (first is FACTORED and second in (PRUNED, ROUNDED))
    assert (broken(before, after) == []) == (broken(before, jc.pack(after)) == []) == kept


def test_a_mask_that_another_one_took_the_place_of():
    before = PRUNED.init(PARAMS)
    after = with_fc(replace(fc_of(before), mask=~fc_of(before).mask))
    assert broken(before, after) == ["fc/kernel: 96 weights are zero, before; no longer"]
    assert broken(before, with_fc(jnp.where(fc_of(before).mask, 3.0, 0.0))) == []


def test_a_grid_that_is_left():
    before = ROUNDED.init(PARAMS)
    assert broken(before, PARAMS) == ["fc/kernel: 8 values a scale at most, before; no longer"]
    finer = jc.quantize.weights("fc/kernel", 4).init(PARAMS)
    assert broken(before, finer) and broken(finer, before) == []
    doubled = with_fc(2.5 * jc.densify(fc_of(before)))  # another scale is a grid of as many values
    assert broken(before, doubled) == []


def test_values_are_counted_scale_by_scale():
    """Eight values in each column, 96 in all, are no more than eight."""
    columns = jnp.tile(jnp.arange(8.0), 2)[:, None] * jnp.arange(1.0, 13.0)[None]
    assert broken(ROUNDED.init(PARAMS), with_fc(columns)) == []
    assert broken(ROUNDED.init(PARAMS), with_fc(jnp.arange(192.0).reshape(16, 12))) != []


def test_a_rank_that_is_lost():
    before = FACTORED.init(PARAMS)
    pruned = PRUNED.init(before)
    assert broken(before, pruned) == ["fc/kernel: a rank of 4 at most, before; no longer"]
    assert broken(before, with_fc(jc.densify(fc_of(before)))) == []


def test_what_is_gone_or_has_another_shape_is_said():
    before = jc.chain(FACTORED, jc.prune.magnitude("fc/kernel/u", 0.25)).init(PARAMS)
    dense = with_fc(jc.densify(fc_of(before)))
    assert broken(before, dense) == ["fc/kernel/u: 16 weights are zero, before; it is not there any more"]
    smaller = with_fc(fc_of(PARAMS)[:8])
    told = "fc/kernel: 96 weights are zero, before; it has shape (8, 12) now, it had (16, 12)"
    assert broken(PRUNED.init(PARAMS), smaller) == [told]


def test_convolutions_are_of_the_rank_of_their_matrix():
    before = jc.factorize.svd("conv/kernel", 2).init(PARAMS)
    assert [each.told for each in declared(before)] == ["a rank of 2 at most"]
    assert broken(before, before) == [] and len(broken(before, PARAMS)) == 1
