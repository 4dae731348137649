"""Checks scalar k-means: tables worked by hand, falling inertia, and that masked values do not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.numerics import codebooks

ALL = jnp.ones(6, bool)
INITIALS = ("linear", "density", "random")
start = jax.jit(codebooks.initial_centroids, static_argnums=(2, 3))
lloyd = jax.jit(codebooks.kmeans)


def inertia(values: np.ndarray, kept: np.ndarray, centroids: np.ndarray) -> float:
    """Sums the squared distances of the kept values to their nearest centroid, in float64."""
    distances = np.asarray(values, np.float64)[:, None] - np.asarray(centroids, np.float64)
    return float(np.square(distances).min(1)[kept].sum())


@st.composite
def problems(draw) -> tuple[np.ndarray, np.ndarray, str, jax.Array]:
    """Draws 40 values, of which at least 8 are kept, a way to place the centroids, and a key."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.standard_normal(40).astype(np.float32)
    if draw(st.booleans()):
        values = values.round(1)  # ties
    kept = np.zeros(40, bool)
    kept[rng.permutation(40)[: draw(st.integers(8, 40))]] = True
    return values, kept, draw(st.sampled_from(INITIALS)), jax.random.key(draw(st.integers(0, 99)))


def test_linear_centroids_by_hand():
    values = jnp.array([4.0, 0.0, 1.0, 9.0, 2.0, 10.0])
    assert codebooks.initial_centroids(values, ALL, 3, "linear").tolist() == [0, 5, 10]


def test_density_centroids_by_hand():
    # Of the six sorted values 0 1 2 4 9 10 the places 1/6, 3/6, 5/6 of the way: indices 1, 3, 5.
    values = jnp.array([4.0, 0.0, 1.0, 9.0, 2.0, 10.0])
    assert codebooks.initial_centroids(values, ALL, 3, "density").tolist() == [1, 4, 10]


def test_centroids_by_hand_of_kept_values_only():
    values = jnp.array([-99.0, 0.0, 1.0, 99.0, 2.0, 4.0])
    kept = jnp.array([False, True, True, False, True, True])
    assert codebooks.initial_centroids(values, kept, 3, "linear").tolist() == [0, 2, 4]
    assert codebooks.initial_centroids(values, kept, 2, "density").tolist() == [1, 4]
    assert codebooks.initial_centroids(values, kept, 4, "random", jax.random.key(0)).tolist() == [0, 1, 2, 4]


def test_random_centroids_follow_the_key():
    values = jnp.arange(100.0)
    first, again, other = (
        codebooks.initial_centroids(values, values >= 0, 5, "random", jax.random.key(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()


def test_random_centroids_need_a_key():
    with pytest.raises(ValueError, match="need a key"):
        codebooks.initial_centroids(jnp.arange(6.0), ALL, 2, "random")


def test_an_unknown_initial_is_named():
    with pytest.raises(ValueError, match="'forgy' is not one of 'linear', 'density', 'random'"):
        codebooks.initial_centroids(jnp.arange(6.0), ALL, 2, "forgy")


def test_assign_by_hand():
    codes = codebooks.assign(jnp.array([-3.0, 0.0, 2.5, 2.75, 7.5, 8.0, 99.0]), jnp.array([0.0, 5.0, 10.0]))
    assert codes.tolist() == [0, 0, 0, 1, 1, 2, 2]  # 2.5 and 7.5 lie half way and go to the lower centroid
    assert codes.dtype == jnp.int32


def test_assign_to_one_centroid():
    assert codebooks.assign(jnp.array([-1.0, 7.0]), jnp.array([3.0])).tolist() == [0, 0]


def test_lloyd_by_hand():
    values = jnp.array([0.0, 1.0, 2.0, 10.0, 11.0, 12.0])
    assert codebooks.kmeans(values, ALL, jnp.array([0.0, 3.0])).tolist() == [1, 11]


def test_one_iteration_of_lloyd_by_hand():
    values = jnp.array([0.0, 1.0, 2.0, 10.0, 11.0, 12.0])
    # From 0 and 3 the values 0 and 1 go to the lower centroid, 2 10 11 12 to the upper one.
    assert codebooks.kmeans(values, ALL, jnp.array([0.0, 3.0]), iterations=1).tolist() == [0.5, 8.75]
    assert codebooks.kmeans(values, ALL, jnp.array([0.0, 3.0]), iterations=0).tolist() == [0, 3]


def test_a_cluster_without_members_keeps_its_centroid():
    values = jnp.array([0.0, 1.0, 2.0, 0.0, 1.0, 2.0])
    assert codebooks.kmeans(values, ALL, jnp.array([1.5, 50.0, 100.0])).tolist() == [1, 50, 100]


def test_no_kept_value_leaves_the_centroids():
    assert codebooks.kmeans(jnp.arange(6.0), jnp.zeros(6, bool), jnp.array([1.0, 2.0])).tolist() == [1, 2]


@settings(deadline=None, max_examples=60)
@given(problems())
def test_initial_centroids_ascend_between_the_extremes_of_the_kept(problem):
    values, kept, initial, key = problem
    centroids = np.asarray(start(values, kept, 8, initial, key))
    assert np.all(np.diff(centroids) >= 0)
    assert values[kept].min() <= centroids[0] and centroids[-1] <= values[kept].max()
    if initial != "linear":
        assert np.isin(centroids, values[kept]).all()


@settings(deadline=None, max_examples=60)
@given(problems())
def test_the_inertia_never_rises(problem):
    values, kept, initial, key = problem
    first = start(values, kept, 8, initial, key)
    history = [inertia(values, kept, lloyd(values, kept, first, n)) for n in range(8)]
    assert all(after <= before + 1e-6 for before, after in zip(history, history[1:], strict=False))


@settings(deadline=None, max_examples=60)
@given(problems())
def test_in_the_end_every_centroid_is_the_mean_of_its_members(problem):
    values, kept, initial, key = problem
    centroids = np.asarray(lloyd(values, kept, start(values, kept, 8, initial, key)))
    codes = np.asarray(codebooks.assign(values, centroids))
    for cluster in set(codes[kept].tolist()):
        members = values[kept & (codes == cluster)].astype(np.float64)
        np.testing.assert_allclose(centroids[cluster], members.mean(), atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(problems())
def test_masked_values_do_not_count(problem):
    values, kept, initial, key = problem
    other = np.where(kept, values, np.float32(1e6))
    first = start(values, kept, 8, initial, key)
    np.testing.assert_array_equal(first, start(other, kept, 8, initial, key))
    np.testing.assert_array_equal(lloyd(values, kept, first), lloyd(other, kept, first))


def test_more_iterations_than_needed_change_nothing():
    values = jnp.asarray(np.random.default_rng(0).standard_normal(40), jnp.float32)
    first = jnp.linspace(-2, 2, 4)
    np.testing.assert_array_equal(
        lloyd(values, jnp.ones(40, bool), first, 100), lloyd(values, jnp.ones(40, bool), first, 1000)
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_means_of_half_precision_weights_are_summed_in_float32(dtype):
    # In bfloat16 256 + 1 is 256: a sum or a count kept in it stops there. The mean of these is 1.25, exact in both.
    values = jnp.asarray(np.repeat([1.0, 2.0], [3000, 1000]), dtype)
    centroids = codebooks.kmeans(values, jnp.ones(4000, bool), jnp.zeros(1, dtype))
    assert centroids.dtype == dtype and centroids.tolist() == [1.25]
