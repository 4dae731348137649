"""Checks pruned training forms: what a scan over layers and a quantizer around them see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress import chain, quantize
from jaxcompress.arrays import Masked, Movement, StraightThrough, dense, stacked
from jaxcompress.prune import straight_through

W = jax.random.normal(jax.random.key(0), (3, 4, 2))
MASK = jax.random.bernoulli(jax.random.key(1), 0.5, W.shape)


@pytest.mark.parametrize(
    "leaf", [StraightThrough(W, MASK, jnp.float32(0.1)), Movement(W, jnp.zeros(W.shape), MASK)], ids=["ste", "movement"]
)
def test_a_scan_over_layers_sees_each(leaf):
    _, layers = lax.scan(lambda carry, layer: (carry, dense(layer)), 0, stacked(leaf))
    np.testing.assert_array_equal(layers, leaf.dense())
    np.testing.assert_array_equal(leaf.dense(), Masked(W, MASK).dense())
    again = stacked(stacked(leaf))
    assert jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, stacked(leaf))


def test_a_quantizer_leaves_out_what_is_removed():
    tree = chain(straight_through("w", 0.5), quantize.lsq("w", 4)).init({"w": W})
    alone = quantize.lsq("w", 4).init({"w": Masked(W, tree["w"].weight.mask)})
    np.testing.assert_array_equal(tree["w"].step, alone["w"].step)
    assert float(alone["w"].step.reshape(())) > float(quantize.lsq("w", 4).init({"w": W})["w"].step.reshape(()))
