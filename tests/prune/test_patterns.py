"""Checks sparsity patterns on tables worked by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.prune import Blocks, Runs, Single

TABLE = jnp.array([[1.0, 2.0, 0.0, 9.0], [3.0, 2.0, 0.0, 1.0]])


def test_single_weights_are_their_own_units():
    Single().check("w", (3,))
    assert Single().units(TABLE) is TABLE


@pytest.mark.parametrize(
    ("blocks", "units"),
    [
        (Blocks(2, 2), [[2.0, 2.5]]),
        (Blocks(2, 2, "max"), [[3.0, 9.0]]),
        (Blocks(1, 4), [[3.0], [1.5]]),
        (Blocks(2, 1), [[2.0, 2.0, 0.0, 5.0]]),
    ],
)
def test_blocks_by_hand(blocks, units):
    np.testing.assert_array_equal(blocks.units(TABLE), units)
    kept = jnp.asarray(units) > 2
    mask = blocks.mask(kept, TABLE.shape)
    assert mask.shape == TABLE.shape
    for i, row in enumerate(np.asarray(kept)):
        for j, lives in enumerate(row):
            tile = mask[i * blocks.rows : (i + 1) * blocks.rows, j * blocks.columns : (j + 1) * blocks.columns]
            assert np.all(tile == lives)


def test_blocks_of_a_convolution_lie_on_inputs_and_outputs():
    scores = jnp.arange(32.0).reshape(2, 1, 4, 4)
    assert Blocks(2, 4).units(scores).shape == (2, 1, 2, 1)
    np.testing.assert_array_equal(Blocks(2, 4).units(scores).reshape(-1), [3.5, 11.5, 19.5, 27.5])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blocks(0, 2), "blocks of 0 x 2"),
        (lambda: Blocks(2, 2, "median"), "pool 'median'"),
        (lambda: Runs(1), "runs of size 1"),
        (lambda: Blocks(3, 2).check("fc1/kernel", (4, 4)), r"blocks of 3 x 2 .* fc1/kernel of shape \(4, 4\)"),
        (lambda: Blocks(2, 3).check("fc1/kernel", (4, 4)), "blocks of 2 x 3"),
        (lambda: Blocks(2, 2).check("bias", (4,)), "blocks of 2 x 2 .* bias"),
        (
            lambda: Runs(4).check("fc1/kernel", (6, 8)),
            r"runs of 4 do not divide axis -2 of fc1/kernel of shape \(6, 8\)",
        ),
        (lambda: Runs(4, 2).check("fc1/kernel", (8, 8)), "axis 2 of runs is none of fc1/kernel"),
    ],
)
def test_what_does_not_fit_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
