"""Holds the allocations to their formulas, worked in numpy's float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.prune.allocation import erk, lamp

LENET = [(784, 300), (300, 100), (100, 10)]
CONVS = [(3, 3, 3, 16), (3, 3, 16, 32), (1, 1, 16, 32), (32, 10)]


def erk_reference(shapes, sparsity):
    """Reads Evci et al. 2020 and its appendix: raise one layer to dense at a time until none asks for more."""
    sizes = np.array([np.prod(shape) for shape in shapes], np.float64)
    raw = np.array([np.sum(shape) for shape in shapes]) / sizes
    dense = set()
    while len(dense) < len(shapes):
        rest = [i for i in range(len(shapes)) if i not in dense]
        epsilon = ((1 - sparsity) * sizes.sum() - sizes[sorted(dense)].sum()) / (raw[rest] * sizes[rest]).sum()
        if epsilon * raw[rest].max() <= 1:
            break
        dense |= {i for i in rest if raw[i] == raw[rest].max()}
    return [0.0 if i in dense else 1 - epsilon * raw[i] for i in range(len(shapes))]


def test_erk_by_hand():
    # Two layers of 10 x 10 and 2 x 50: 20 and 52 in proportion of 100 entries each; of 200 a tenth stays, 20.
    np.testing.assert_allclose(erk([(10, 10), (2, 50)], 0.9), [1 - 20 * 20 / 7200, 1 - 20 * 52 / 7200], rtol=1e-6)


def test_erk_caps_a_layer_at_dense_by_hand():
    # A half of 108 stays: 54. In proportion, 2 x 4 would keep 54 * 6 / 26 = 12.5 of 8; so the other keeps 46 of 100.
    np.testing.assert_allclose(erk([(10, 10), (2, 4)], 0.5), [0.54, 0.0], rtol=1e-6)


@pytest.mark.parametrize("shapes", [LENET, CONVS], ids=["lenet", "convolutions"])
@settings(deadline=None, max_examples=15)
@given(sparsity=st.floats(0.0, 1.0))
def test_erk_is_the_papers_and_keeps_the_density_of_all(shapes, sparsity):
    found = np.array(jax.jit(lambda s: erk(shapes, s))(sparsity))
    np.testing.assert_allclose(found, erk_reference(shapes, sparsity), atol=2e-5)
    sizes = np.array([np.prod(shape) for shape in shapes])
    np.testing.assert_allclose((found * sizes).sum() / sizes.sum(), sparsity, atol=1e-5)


def test_erk_of_nothing_removed_and_of_all_removed():
    np.testing.assert_array_equal(erk(LENET, 0.0), [0, 0, 0])
    np.testing.assert_allclose(erk(LENET, 1.0), [1, 1, 1])


def test_lamp_by_hand():
    # Squares 1, 4, 16, 4: of 25, of 24 and of 20 (the earlier of the equals stands above the later), and of 16.
    np.testing.assert_allclose(lamp(jnp.array([[1.0, 2.0], [4.0, 2.0]])), [[1 / 25, 4 / 20], [1, 4 / 24]], rtol=1e-6)


def test_lamp_of_zeros_and_of_the_smallest_and_largest_floats():
    np.testing.assert_array_equal(lamp(jnp.zeros(3)), [0, 0, 0])
    np.testing.assert_allclose(lamp(jnp.array([1e-30, 1e-30])), [1, 0.5], rtol=1e-6)
    np.testing.assert_allclose(lamp(jnp.array([3e38, 3e38, 0.0])), [1, 0.5, 0], rtol=1e-6)


def test_lamp_keeps_the_order_within_a_layer():
    scores = np.abs(np.random.default_rng(0).standard_normal(20_000)).astype(np.float32)
    found = np.asarray(lamp(jnp.asarray(scores)))
    assert np.all(np.diff(found[np.argsort(-scores, kind="stable")]) <= 0)
    square = np.sort(scores.astype(np.float64) ** 2)
    np.testing.assert_allclose(np.sort(found), square / np.cumsum(square[::-1])[::-1], rtol=1e-4)
