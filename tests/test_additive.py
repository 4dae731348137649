"""Checks sums of two compressions: by hand, that turns lower the error, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import additive, factorize, pack, prune, quantize
from jaxcompress.arrays import Clustered, LowRank, Masked, Summed, densify

DRAW = np.random.default_rng(0).standard_normal


def kernel(*shape: int):
    return jnp.asarray(DRAW(shape), jnp.float32)


def corrected(pattern, rounds=10):
    return additive(pattern, prune.magnitude(pattern, 0.75), quantize.codebook(pattern, 1), rounds=rounds)


def test_a_codebook_and_its_corrections_by_hand():
    params = {"w": jnp.float32([[1.0, 1.0], [-1.0, 9.0]])}
    leaf = corrected("w", 20).init(params)["w"]
    assert isinstance(leaf, Summed) and isinstance(leaf.first, Masked) and isinstance(leaf.second, Clustered)
    np.testing.assert_array_equal(leaf.first.mask, [[False, False], [False, True]])
    np.testing.assert_allclose(leaf.dense(), params["w"], atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 16), (3, 3, 4, 6)])
def test_turns_never_raise_the_error(shape):
    weight = kernel(*shape)
    errors = [float(jnp.sum((corrected("w", n).init({"w": weight})["w"].dense() - weight) ** 2)) for n in (1, 2, 5, 20)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]
    alone = [prune.magnitude("w", 0.75), quantize.codebook("w", 1)]
    assert errors[-1] < min(float(jnp.sum((densify(t.init({"w": weight}))["w"] - weight) ** 2)) for t in alone)


def test_low_rank_and_sparse_weights_are_told_apart():
    smooth = 3 * kernel(20, 1) @ kernel(1, 20)
    spikes = jnp.zeros((20, 20)).at[jnp.array([1, 7, 12]), jnp.array([3, 9, 19])].set(20.0)
    transform = additive("w", factorize.svd("w", 1), prune.magnitude("w", 397 / 400), rounds=30)
    leaf = transform.init({"w": smooth + spikes})["w"]
    assert isinstance(leaf.first, LowRank)
    np.testing.assert_allclose(leaf.second.dense(), spikes, atol=0.1)


def test_sums_pack_and_update_and_keep_their_leaves():
    transform = corrected("w")
    params = transform.init({"w": kernel(8, 8), "b": kernel(8)})
    assert transform.init(params)["w"] is params["w"]
    np.testing.assert_array_equal(transform.update(params, 3)["w"].dense(), params["w"].dense())
    packed = pack(params)["w"]
    np.testing.assert_array_equal(packed.dense(), params["w"].dense())
    assert packed.owner == packed.first.owner == ""


def test_a_codebook_may_be_one_for_all():
    params = {"a": kernel(4, 4), "b": 3 * kernel(4, 5), "c": kernel(3)}
    leaves = quantize.codebook("a|b", 2, scope="global").init(params)
    np.testing.assert_array_equal(leaves["a"].centroids, leaves["b"].centroids)
    whole = jnp.concatenate([params["a"].reshape(-1), params["b"].reshape(-1)])
    together = quantize.codebook("w", 2).init({"w": whole})["w"]
    np.testing.assert_array_equal(jnp.concatenate([leaves[n].dense().reshape(-1) for n in "ab"]), together.dense())


def test_bad_sums_are_named_by_path():
    with pytest.raises(ValueError, match="rounds=0 for pattern 'w' must be at least 1"):
        corrected("w", 0)
    with pytest.raises(ValueError, match="w is already Masked; a sum is made of a plain weight"):
        corrected("w").init(prune.magnitude("w", 0.5).init({"w": kernel(4, 4)}))
    with pytest.raises(ValueError, match=r"a is left as it is by codebook\[b\]"):
        additive("a", prune.magnitude("a", 0.5), quantize.codebook("b", 1)).init({"a": kernel(4, 4), "b": kernel(4, 4)})
    with pytest.raises(ValueError, match="matches no parameter"):
        corrected("v").init({"w": kernel(4, 4)})
    with pytest.raises(ValueError, match="scope 'all' for pattern 'w' is not 'layer' or 'global'"):
        quantize.codebook("w", 1, scope="all")
