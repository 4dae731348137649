"""Holds scalar k-means to scikit-learn's, from the same first centroids."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.numerics import codebooks
from jaxcompress.prune import magnitude
from jaxcompress.quantize import codebook

cluster = pytest.importorskip("sklearn.cluster", reason="pip install 'jaxcompress[experiments]'")


def lloyd(values: np.ndarray, first: np.ndarray):
    """Runs scikit-learn's Lloyd iterations until no label changes."""
    means = cluster.KMeans(
        len(first), init=np.asarray(first)[:, None], n_init=1, algorithm="lloyd", tol=0, max_iter=300
    )
    return means.fit(np.asarray(values)[:, None])


@pytest.mark.parametrize("clusters", [2, 4, 8])
@pytest.mark.parametrize("initial", ["linear", "density"])
def test_the_centroids_and_the_assignment_are_those_of_scikit_learn(initial, clusters):
    values = np.random.default_rng(clusters).standard_normal(500).astype(np.float32)
    kept = jnp.ones(500, bool)
    first = codebooks.initial_centroids(jnp.asarray(values), kept, clusters, initial)
    ours = codebooks.kmeans(jnp.asarray(values), kept, first, 300)
    theirs = lloyd(values, first)
    np.testing.assert_allclose(ours, theirs.cluster_centers_[:, 0], atol=1e-5)
    np.testing.assert_array_equal(codebooks.assign(jnp.asarray(values), ours), theirs.labels_)


def test_of_a_pruned_weight_only_the_kept_entries_are_clustered():
    params = magnitude("w", 0.6).init(
        {"w": jnp.asarray(np.random.default_rng(0).standard_normal((20, 15)), jnp.float32)}
    )
    leaf = codebook("w", 2).init(params)["w"]
    values = np.asarray(params["w"].weight)[np.asarray(leaf.mask)]
    theirs = lloyd(values, np.linspace(values.min(), values.max(), 4, dtype=np.float32))
    np.testing.assert_allclose(leaf.weight.centroids, theirs.cluster_centers_[:, 0], atol=1e-5)
    np.testing.assert_array_equal(np.asarray(leaf.weight.codes)[np.asarray(leaf.mask)], theirs.labels_)
