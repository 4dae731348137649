"""Checks factorization: the error is the tail energy for kernels and convolutions, and what is refused is named."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import densify
from jaxcompress.arrays import LowRank, dense, pack
from jaxcompress.factorize import svd
from jaxcompress.prune import magnitude
from jaxcompress.quantize import weights


def gaussian(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def tail_energy(kernel: jax.Array, rank: int) -> float:
    matrix = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])
    return float(np.square(np.linalg.svd(matrix, compute_uv=False)[rank:]).sum())


def squared_error(leaf: LowRank, kernel: jax.Array) -> float:
    return float(np.square(np.asarray(dense(leaf), np.float64) - np.asarray(kernel, np.float64)).sum())


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_error_of_a_kernel_is_its_tail_energy(rank):
    kernel = gaussian(8, 6)
    leaf = svd("w", rank=rank, always=True).init({"w": kernel})["w"]
    assert leaf.u.shape == (8, rank) and leaf.v.shape == (rank, 6) and leaf.rank == rank
    np.testing.assert_allclose(squared_error(leaf, kernel), tail_energy(kernel, rank), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("rank", [1, 4, 7])
def test_the_error_of_a_convolution_is_its_tail_energy(rank):
    kernel = gaussian(3, 2, 4, 7)
    leaf = svd("w", rank=rank, always=True).init({"w": kernel})["w"]
    assert leaf.u.shape == (3, 2, 4, rank) and leaf.v.shape == (rank, 7) and leaf.shape == kernel.shape
    np.testing.assert_allclose(squared_error(leaf, kernel), tail_energy(kernel, rank), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(("shape", "split"), [((60, 50), "channel"), ((3, 3, 12, 16), "spatial")])
def test_a_randomized_decomposition_is_nearly_as_good(shape, split, key):
    params = {name: gaussian(*shape) for name in "wx"}
    exact, near = (svd(".", rank=6, split=split, key=given).init(params) for given in (None, key))
    assert squared_error(near["w"], params["w"]) < 1.02 * squared_error(exact["w"], params["w"])
    assert not np.array_equal(near["w"].u, near["x"].u)  # each path has its own draw
    with pytest.raises(ValueError, match="either a metric or the key"):
        svd("w", rank=6, key=key, metric={"w": jnp.ones(60)})


def test_a_factorized_convolution_is_two_convolutions():
    kernel, images = gaussian(3, 3, 4, 6), gaussian(2, 8, 8, 4, seed=1)
    leaf = svd("w", rank=3).init({"w": kernel})["w"]

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    np.testing.assert_allclose(
        convolve(convolve(images, leaf.u), leaf.v[None, None]), convolve(images, dense(leaf)), atol=1e-4
    )


@pytest.mark.parametrize(("energy", "rank"), [(0.5, 1), (0.65, 2), (0.9, 2), (0.95, 3), (1.0, 3)])
def test_energy_by_hand(energy, rank):
    # The squares 9, 4, 1 hold 9/14 = 0.643 and 13/14 = 0.929 of the energy.
    assert svd("w", energy=energy, always=True).init({"w": jnp.diag(jnp.array([1.0, 3.0, 2.0]))})["w"].rank == rank


@pytest.mark.parametrize("energy", [0.3, 0.8, 0.99])
def test_energy_is_kept_by_the_smallest_rank_that_does(energy):
    kernel = gaussian(3, 3, 4, 16)
    leaf = svd("w", energy=energy, always=True).init({"w": kernel})["w"]
    total = tail_energy(kernel, 0)
    assert tail_energy(kernel, leaf.rank) <= (1 - energy) * total < tail_energy(kernel, leaf.rank - 1)


def test_every_match_gets_the_rank_that_its_own_energy_asks_for():
    params = {"a": jnp.diag(jnp.array([1.0, 3.0, 2.0])), "b": jnp.diag(jnp.array([1.0, 90.0, 2.0]))}
    leaves = svd("a|b", energy=0.9, always=True).init(params)
    assert (leaves["a"].rank, leaves["b"].rank) == (2, 1)


def test_the_factors_carry_the_gradient_of_their_product():
    params = svd("w", rank=2).init({"w": gaussian(5, 4)})
    upstream = gaussian(5, 4, seed=1)
    slope = jax.grad(lambda p: jnp.sum(densify(p)["w"] * upstream))(params)["w"]
    np.testing.assert_allclose(slope.u, upstream @ params["w"].v.T, atol=1e-5)
    np.testing.assert_allclose(slope.v, params["w"].u.T @ upstream, atol=1e-5)


def test_packing_changes_no_bit():
    leaf = svd("w", rank=2).init({"w": gaussian(5, 4)})["w"]
    np.testing.assert_array_equal(dense(pack(leaf)), dense(leaf))
    assert pack(leaf).owner == ""


def test_factors_can_be_pruned_and_quantized_by_their_paths():
    params = svd("w", rank=3).init({"w": gaussian(8, 6)})
    params = weights("w/v", 8).init(magnitude("w/u", 0.5).init(params))
    assert int(params["w"].u.mask.sum()) == 12
    np.testing.assert_array_equal(dense(pack(params["w"])), dense(params["w"]))


def test_the_factors_then_train_freely():
    transform = svd("w", rank=2)
    params = transform.init({"w": gaussian(5, 4)})
    assert transform.update(params, 3) is params
    assert transform.init(params)["w"] is params["w"]


@pytest.mark.parametrize("rank", [0, -1, 2.0, "3"])
def test_a_rank_that_is_none_is_named_with_the_pattern(rank):
    with pytest.raises(ValueError, match=f"rank {rank!r} for pattern 'fc' is not an integer of at least 1"):
        svd("fc", rank=rank)


def test_a_rank_above_the_full_one_is_named_with_the_path():
    with pytest.raises(ValueError, match=r"rank 5 is above the full rank 4 of w, shape \(4, 6\)"):
        svd("w", rank=5).init({"w": gaussian(4, 6)})


@pytest.mark.parametrize("energy", [0.0, -0.5, 1.01, float("nan")])
def test_an_energy_outside_of_zero_to_one_is_named_with_the_pattern(energy):
    with pytest.raises(ValueError, match=rf"energy {energy!r} for pattern 'fc' is not a fraction in \(0, 1\]"):
        svd("fc", energy=energy)


@pytest.mark.parametrize("options", [{}, {"rank": 2, "energy": 0.5}])
def test_both_or_neither_of_rank_and_energy_are_refused(options):
    with pytest.raises(ValueError, match="svd of 'fc' takes either rank or energy"):
        svd("fc", **options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{"rank": 1}, {"energy": 0.5}])
def test_values_that_are_not_finite_are_refused_by_path(value, options):
    with pytest.raises(ValueError, match=r"w holds \d+ entries that are not finite"):
        svd("w", **options).init({"w": gaussian(3, 3).at[1, 1].set(value)})


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (magnitude("w", 0.5), "Masked"),
        (weights("w", 8), "FakeQuantized"),
        (svd("w", rank=2, name="other"), "LowRank"),
    ],
    ids=["masked", "quantized", "factorized"],
)
def test_compressed_weights_are_refused_by_kind_with_a_way_out(wrap, kind):
    with pytest.raises(ValueError, match=f"w is already {kind}; factorize first, then .* w/u and w/v"):
        svd("w", rank=2).init(wrap.init({"w": gaussian(4, 4)}))


@pytest.mark.parametrize("shape", [(), (4,)])
def test_what_is_not_a_kernel_is_refused_by_path(shape):
    with pytest.raises(ValueError, match=re.escape(f"w has shape {shape}; a factorization needs a kernel")):
        svd("w", rank=1).init({"w": jnp.ones(shape)})


@pytest.mark.parametrize("options", [{"rank": 1}, {"energy": 0.5}])
def test_tracing_is_refused_by_path(options):
    with pytest.raises(TypeError, match="w is traced; factorize outside jit"):
        jax.jit(svd("w", **options).init)({"w": gaussian(3, 3)})


def test_a_pattern_without_a_match_lists_the_paths():
    with pytest.raises(ValueError, match=re.compile("'v' matches no parameter.*there are:\n  w", re.DOTALL)):
        svd("v", rank=1).init({"w": gaussian(2, 2)})
