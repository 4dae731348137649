"""Checks weight sharing: groups, the gradient of a centroid, pruned weights, keys and errors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import densify
from jaxcompress.arrays import Clustered, Masked, dense, pack
from jaxcompress.factorize import svd
from jaxcompress.prune import magnitude
from jaxcompress.quantize import codebook, weights

INITIALS = ("linear", "density", "random")
KEY = jax.random.key(3)


def gaussian(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def same_bits(a: jax.Array, b: jax.Array) -> bool:
    return a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_sharing_by_hand():
    leaf = codebook("w", 1).init({"w": jnp.array([[0.0, 11.0, 1.0], [12.0, 2.0, 10.0]])})["w"]
    assert leaf.centroids.tolist() == [1, 11]
    assert leaf.codes.tolist() == [[0, 1, 0], [1, 0, 1]]
    assert dense(leaf).tolist() == [[1, 11, 1], [11, 1, 11]]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("initial", INITIALS)
def test_every_weight_has_the_nearest_of_two_to_the_bits_centroids(bits, initial):
    weight = gaussian(32, 16)
    leaf = codebook("w", bits, initial=initial, key=KEY).init({"w": weight})["w"]
    assert leaf.centroids.shape == (2**bits,)
    distances = np.abs(np.asarray(weight)[..., None] - np.asarray(leaf.centroids))
    chosen = np.take_along_axis(distances, np.asarray(leaf.codes)[..., None], -1)[..., 0]
    np.testing.assert_allclose(chosen, distances.min(-1), atol=1e-6)


def test_the_gradient_of_a_centroid_is_the_sum_over_its_group():
    # Han et al. 2016, eq. 3.
    params = codebook("w", 2).init({"w": gaussian(9, 7)})
    upstream = gaussian(9, 7, seed=1)
    slope = jax.grad(lambda p: jnp.sum(densify(p)["w"] * upstream), allow_int=True)(params)
    codes, upstream = np.asarray(params["w"].codes), np.asarray(upstream, np.float64)
    expected = [upstream[codes == cluster].sum() for cluster in range(4)]
    np.testing.assert_allclose(slope["w"].centroids, expected, rtol=1e-5)


def test_pruned_weights_neither_count_nor_pull_on_a_centroid():
    params = codebook("w", 2).init(magnitude("w", 0.7).init({"w": gaussian(9, 7)}))
    upstream = gaussian(9, 7, seed=1)
    slope = jax.grad(lambda p: jnp.sum(densify(p)["w"] * upstream), allow_int=True)(params)
    leaf = params["w"]
    codes = np.where(leaf.mask, np.asarray(leaf.weight.codes), -1)
    expected = [np.asarray(upstream, np.float64)[codes == cluster].sum() for cluster in range(4)]
    np.testing.assert_allclose(slope["w"].weight.centroids, expected, rtol=1e-5)


def test_pruned_zeros_are_no_centroid():
    # Without the mask, one of two clusters would form at the two removed weights 0.1 and 0.2.
    params = magnitude("w", 0.5).init({"w": jnp.array([5.0, 0.1, 7.0, 0.2])})
    leaf = codebook("w", 1).init(params)["w"]
    assert isinstance(leaf, Masked) and isinstance(leaf.weight, Clustered)
    assert leaf.weight.centroids.tolist() == [5, 7]
    assert dense(leaf).tolist() == [5, 0, 7, 0]


def test_the_mask_stays_with_its_owner():
    pruned = magnitude("w", 0.5).init({"w": gaussian(4, 4)})
    shared = codebook("w", 2).init(pruned)["w"]
    assert shared.owner == pruned["w"].owner and shared.weight.owner == "codebook[w]"
    np.testing.assert_array_equal(shared.mask, pruned["w"].mask)


@pytest.mark.parametrize("initial", INITIALS)
def test_fewer_kept_weights_than_centroids_get_one_centroid_each(initial):
    params = magnitude("w", 0.5).init({"w": jnp.array([1.0, 0.0, -2.0, 0.0, 3.0, 0.0])})
    leaf = codebook("w", 4, initial=initial, key=KEY).init(params)["w"]
    assert leaf.weight.centroids.shape == (3,)
    if initial != "linear":  # evenly spaced centroids may leave a cluster empty
        assert dense(leaf).tolist() == [1, 0, -2, 0, 3, 0]


@pytest.mark.parametrize("initial", INITIALS)
def test_a_weight_that_is_pruned_away_has_a_finite_codebook(initial):
    leaf = codebook("w", 2, initial=initial, key=KEY).init(magnitude("w", 1.0).init({"w": gaussian(3, 3)}))["w"]
    assert np.all(np.asarray(dense(leaf)) == 0)
    assert np.all(np.isfinite(leaf.weight.centroids))


def test_random_centroids_follow_the_key_and_the_path():
    params = {"a": gaussian(20, 20), "b": gaussian(20, 20)}

    def shared(key):
        return codebook("a|b", 2, initial="random", key=key).init(params)

    first, again, other = shared(jax.random.key(1)), shared(jax.random.key(1)), shared(jax.random.key(2))
    assert same_bits(first["a"].centroids, again["a"].centroids)
    assert not same_bits(first["a"].centroids, other["a"].centroids)
    assert not same_bits(first["a"].centroids, first["b"].centroids)


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("sparsity", [None, 0.0, 0.7])
def test_packing_changes_no_bit(bits, sparsity):
    params = {"w": gaussian(24, 20)}
    params = params if sparsity is None else magnitude("w", sparsity).init(params)
    leaf = codebook("w", bits).init(params)["w"]
    assert same_bits(dense(pack(leaf)), dense(leaf))
    assert same_bits(jax.jit(dense)(pack(leaf)), jax.jit(dense)(leaf))


@pytest.mark.parametrize("initial", INITIALS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_share_the_means_of_their_groups(initial, dtype):
    # Groups of 1000, in which a sum kept in the weights' own dtype would stop (bfloat16 at 256 of a kind).
    weight = jnp.asarray(np.repeat([-1.0, -0.5, 2.0, 3.0], 1000).reshape(40, 100), dtype)
    leaf = codebook("w", 1, initial=initial, key=KEY).init({"w": weight})["w"]
    assert leaf.dtype == dtype
    assert leaf.centroids.tolist() == [-0.75, 2.5]


def test_the_assignment_stands():
    transform = codebook("w", 2)
    params = transform.init({"w": gaussian(4, 4)})
    assert transform.update(params, 3) is params
    assert transform.init(params)["w"] is params["w"]


@pytest.mark.parametrize("bits", [0, 9, -1, 2.0, None])
def test_bits_outside_of_one_to_eight_are_named_with_the_pattern(bits):
    with pytest.raises(ValueError, match=f"bits {bits!r} for pattern 'fc' is not an integer from 1 to 8"):
        codebook("fc", bits)


def test_an_unknown_initial_is_named_with_the_pattern():
    with pytest.raises(ValueError, match="initial 'forgy' for pattern 'fc' is not 'linear', 'density' or 'random'"):
        codebook("fc", 2, initial="forgy")


def test_random_without_a_key_is_refused_with_the_pattern():
    with pytest.raises(ValueError, match="random initial centroids for pattern 'fc' need a key"):
        codebook("fc", 2, initial="random")


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (weights("w", 8), "FakeQuantized"),
        (svd("w", rank=2), "LowRank"),
        (codebook("w", 2, name="other"), "Clustered"),
    ],
    ids=["quantized", "factorized", "shared"],
)
def test_compressed_weights_are_refused_by_kind(wrap, kind):
    with pytest.raises(ValueError, match=f"w is {kind}; only plain or masked weights can share a codebook"):
        codebook("w", 2).init(wrap.init({"w": gaussian(4, 4)}))


def test_a_pattern_without_a_match_lists_the_paths():
    with pytest.raises(ValueError, match=re.compile("'v' matches no parameter.*there are:\n  w", re.DOTALL)):
        codebook("v", 2).init({"w": gaussian(2, 2)})
