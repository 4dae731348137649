"""A tree described as JSON and rebuilt from its arrays is the same tree."""

import json

import jax
import jax.numpy as jnp
import pytest

from jaxcompress.arrays import Masked, pack
from jaxcompress.arrays.structure import describe, rebuild
from tests.arrays.test_contract import EVERY_LEAF, LEAVES, assert_same_leaf


def through_json(params):
    return rebuild(json.loads(json.dumps(describe(params))), jax.tree.leaves(params))


@EVERY_LEAF
@pytest.mark.parametrize("form", [lambda leaf: leaf, pack], ids=["training", "packed"])
@pytest.mark.sampled(3)
def test_every_leaf_is_rebuilt(name, form):
    params = {"layer": {"kernel": form(LEAVES[name]()), "bias": jnp.zeros(3)}}
    rebuilt = through_json(params)
    assert jax.tree.structure(rebuilt) == jax.tree.structure(params)
    assert_same_leaf(rebuilt["layer"]["kernel"], params["layer"]["kernel"])


def test_tree_of_all_leaves_is_rebuilt_whatever_the_order_of_its_keys():
    params = {name: make() for name, make in reversed(LEAVES.items())}
    rebuilt = through_json({"z": params, "a": {}, "b": jnp.ones(2)})
    assert sorted(rebuilt) == ["a", "b", "z"]
    for name, leaf in params.items():
        assert_same_leaf(rebuilt["z"][name], leaf)


def test_bare_array_and_empty_tree_are_rebuilt():
    assert through_json({}) == {}
    assert float(through_json(jnp.float32(3))) == 3.0


def test_too_few_arrays_are_refused():
    with pytest.raises(ValueError, match="names more arrays than there are"):
        rebuild(describe({"a": jnp.ones(1), "b": jnp.ones(1)}), [jnp.ones(1)])


def test_too_many_arrays_are_refused():
    with pytest.raises(ValueError, match="2 arrays are left over"):
        rebuild(describe({"a": jnp.ones(1)}), [jnp.ones(1)] * 3)


MASKED = describe(Masked(jnp.ones(2), jnp.ones(2, bool), "m"))


@pytest.mark.parametrize(
    "description",
    [
        None,
        [],
        "arrays",
        {"tree": []},
        {"tree": {"a": 3}},
        {"kind": "Masked"},
        MASKED | {"kind": "Pruned"},
        MASKED | {"kind": ["Masked"]},
        MASKED | {"data": {"mask": "array"}},
        MASKED | {"static": {"unknown": 1}},
        MASKED | {"static": []},
    ],
)
def test_what_is_not_a_description_is_refused(description):
    with pytest.raises(ValueError):
        rebuild(description, [jnp.ones(2), jnp.ones(2, bool)])
