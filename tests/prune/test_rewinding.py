"""Checks lottery tickets: whose weights, whose masks, and the controls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import chain, densify, factorize, quantize
from jaxcompress.arrays import Masked
from jaxcompress.prune import magnitude, rewind, shuffle_masks


def params(seed):
    a, b = jax.random.split(jax.random.key(seed))
    return {"fc": {"kernel": jax.random.normal(a, (4, 5)), "bias": jax.random.normal(b, (5,))}, "n": jnp.int32(seed)}


def test_a_ticket_has_the_first_weights_under_the_last_masks():
    trained = magnitude("fc/kernel", 0.6).init(params(1))
    ticket = rewind(trained, params(0))
    leaf = ticket["fc"]["kernel"]
    assert isinstance(leaf, Masked) and leaf.owner == trained["fc"]["kernel"].owner
    np.testing.assert_array_equal(leaf.mask, trained["fc"]["kernel"].mask)
    np.testing.assert_array_equal(leaf.weight, params(0)["fc"]["kernel"])
    np.testing.assert_array_equal(ticket["fc"]["bias"], params(0)["fc"]["bias"])
    assert ticket["n"] == 0 and jax.tree.structure(ticket) == jax.tree.structure(trained)


def test_masks_of_the_earlier_tree_are_put_aside_and_nested_ones_stay():
    trained = chain(magnitude("fc/kernel", 0.2, name="a"), magnitude("fc/kernel", 0.6, name="b")).init(params(1))
    earlier = magnitude("fc/kernel", 0.9).init(params(0))
    leaf = rewind(trained, earlier)["fc"]["kernel"]
    np.testing.assert_array_equal(leaf.weight.weight, params(0)["fc"]["kernel"])
    np.testing.assert_array_equal(leaf.weight.mask, trained["fc"]["kernel"].weight.mask)


def test_rewinding_works_under_jit():
    trained = magnitude("fc/kernel", 0.6).init(params(1))
    ticket = jax.jit(rewind)(trained, params(0))
    np.testing.assert_array_equal(densify(ticket)["fc"]["kernel"], densify(rewind(trained, params(0)))["fc"]["kernel"])


def test_shuffled_masks_keep_their_counts_layer_by_layer():
    both = chain(magnitude("fc/kernel", 0.6), magnitude("fc/bias", 0.4)).init(params(1))
    mixed = shuffle_masks(both, jax.random.key(3))
    for name, count in (("kernel", 8), ("bias", 3)):
        assert int(mixed["fc"][name].mask.sum()) == count
        np.testing.assert_array_equal(mixed["fc"][name].weight, both["fc"][name].weight)
    assert np.any(mixed["fc"]["kernel"].mask != both["fc"]["kernel"].mask)
    assert np.any(mixed["fc"]["kernel"].mask != shuffle_masks(both, jax.random.key(4))["fc"]["kernel"].mask)


@pytest.mark.parametrize(
    ("tree", "initial", "message"),
    [
        (params(1), {"n": jnp.int32(0)}, "fc/.* is not among what is rewound to: n"),
        ({"w": jnp.ones(3)}, {"w": jnp.ones(4)}, r"w is float32 \(3,\) and cannot be rewound to float32 \(4,\)"),
        ({"w": jnp.ones(3)}, {"w": jnp.ones(3, jnp.bfloat16)}, "bfloat16"),
        (factorize.svd("w", 1).init({"w": jnp.ones((3, 3))}), {"w": jnp.ones((3, 3))}, "w is LowRank"),
        ({"w": jnp.ones((3, 3))}, quantize.weights("w", 4).init({"w": jnp.ones((3, 3))}), "w is FakeQuantized"),
    ],
)
def test_bad_input_is_named(tree, initial, message):
    with pytest.raises(ValueError, match=message):
        rewind(tree, initial)
