"""Holds leaves to tensorly's reconstructions of their tensors, both ways, and what is set to what was before."""

import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress import factorize
from jaxcompress.arrays import CP, LowRank, Masked, TensorRing, TensorTrain, Tucker, Tucker2
from jaxcompress.factorize.tensorly import numpy_backend, to_leaf, to_tensor

tl = pytest.importorskip("tensorly", reason="pip install 'jaxcompress[tensorly]'")
decomposition = pytest.importorskip("tensorly.decomposition")
random = pytest.importorskip("tensorly.random")
tt_matrix = pytest.importorskip("tensorly.tt_matrix")

CONVOLUTION, DENSE = (3, 2, 6, 8), (12, 20)
RING = {"inputs": (4, 3), "outputs": (4, 5)}  # the first mode bounds the product of the first two ranks
SPLIT = {"inputs": (3, 4), "outputs": (4, 5)}


def gaussian(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def rebuilt(tensor, shape):
    """Returns tensorly's own reconstruction of a tensor, as a kernel."""
    with numpy_backend():
        if isinstance(tensor, tt_matrix.TTMatrix):
            return np.asarray(tt_matrix.tt_matrix_to_tensor(tensor)).reshape(shape)
        return np.asarray(tensor.to_tensor()).reshape(shape)


def weighted_cp(shape, rank=4):
    factors = [gaussian(size, rank, seed=i) for i, size in enumerate(shape)]
    return tl.cp_tensor.CPTensor((np.float32([3.0, -0.5, 0.0, 2.0])[:rank], factors))


def tucker(shape, ranks):
    factors = [gaussian(*pair, seed=i) for i, pair in enumerate(zip(shape, ranks, strict=True))]
    return tl.tucker_tensor.TuckerTensor((gaussian(*ranks, seed=9), factors))


def train(sizes, ranks):
    ends = zip(ranks[:-1], sizes, ranks[1:], strict=True)
    return tl.tt_tensor.TTTensor([gaussian(*core, seed=i) for i, core in enumerate(ends)])


def ring(sizes, ranks):
    ends = zip(ranks, sizes, [*ranks[1:], ranks[0]], strict=True)
    return tl.tr_tensor.TRTensor([gaussian(*core, seed=i) for i, core in enumerate(ends)])


def paired_train(inputs, outputs, ranks):
    ends = zip(ranks[:-1], inputs, outputs, ranks[1:], strict=True)
    return tt_matrix.TTMatrix([gaussian(*core, seed=i) for i, core in enumerate(ends)])


TENSORS = {
    "cp of a matrix": (lambda: weighted_cp((12, 20)), DENSE, LowRank),
    "cp of a convolution": (lambda: weighted_cp(CONVOLUTION), CONVOLUTION, CP),
    "cp of one place": (lambda: weighted_cp((5, 6, 8)), (5, 6, 8), CP),
    "cp of three places": (lambda: weighted_cp((3, 2, 3, 6, 8)), (3, 2, 3, 6, 8), CP),
    "cp of split axes": (lambda: weighted_cp((3, 2, 2, 3, 4, 2)), CONVOLUTION, CP),
    "cp of a split matrix": (lambda: weighted_cp((3, 4, 4, 5)), DENSE, LowRank),
    "tucker of a matrix": (lambda: tucker(DENSE, (3, 5)), DENSE, Tucker2),
    "tucker of a convolution": (lambda: tucker(CONVOLUTION, (2, 1, 3, 5)), CONVOLUTION, Tucker),
    "tucker of one place": (lambda: tucker((5, 6, 8), (2, 3, 4)), (5, 6, 8), Tucker),
    "tucker of three places": (lambda: tucker((3, 2, 3, 6, 8), (2, 1, 2, 3, 4)), (3, 2, 3, 6, 8), Tucker),
    "train of a matrix": (lambda: train((3, 4, 4, 5), (1, 2, 3, 2, 1)), DENSE, TensorTrain),
    "train of two": (lambda: train(DENSE, (1, 3, 1)), DENSE, TensorTrain),
    "train of a convolution": (lambda: train(CONVOLUTION, (1, 3, 4, 5, 1)), CONVOLUTION, TensorTrain),
    "train of one place": (lambda: train((5, 2, 3, 8), (1, 3, 4, 5, 1)), (5, 6, 8), TensorTrain),
    "train of pairs": (lambda: paired_train((3, 4), (4, 5), (1, 6, 1)), DENSE, TensorTrain),
    "train of pairs and places": (lambda: paired_train((6, 2, 3), (1, 4, 2), (1, 2, 3, 1)), CONVOLUTION, TensorTrain),
    "ring of a matrix": (lambda: ring((3, 4, 4, 5), (2, 3, 4, 2)), DENSE, TensorRing),
    "ring of two": (lambda: ring(DENSE, (2, 3)), DENSE, TensorRing),
    "ring of a convolution": (lambda: ring(CONVOLUTION, (2, 3, 4, 2)), CONVOLUTION, TensorRing),
    "ring of one place": (lambda: ring((5, 2, 3, 8), (2, 3, 4, 2)), (5, 6, 8), TensorRing),
    "ring of three places": (lambda: ring((3, 2, 3, 6, 8), (2, 3, 1, 4, 2)), (3, 2, 3, 6, 8), TensorRing),
}


@pytest.mark.parametrize(("make", "shape", "kind"), TENSORS.values(), ids=TENSORS)
def test_a_leaf_is_what_tensorly_rebuilds_and_so_is_its_tensor(make, shape, kind):
    tensor = make()
    expected = rebuilt(tensor, shape)
    leaf = to_leaf(tensor, shape, owner="x")
    assert type(leaf) is kind and leaf.owner == "x" and leaf.dtype == jnp.float32
    tolerance = {"rtol": 1e-5, "atol": 1e-5 * np.abs(expected).max()}
    np.testing.assert_allclose(leaf.dense(), expected, **tolerance)
    back = to_tensor(leaf)
    np.testing.assert_allclose(rebuilt(back, shape), expected, **tolerance)
    np.testing.assert_allclose(to_leaf(back, shape).dense(), expected, **tolerance)
    assert type(back) is type(tensor)


def test_a_low_rank_convolution_is_a_tucker_tensor_of_its_last_axis():
    leaf = LowRank(jnp.asarray(gaussian(3, 2, 6, 4)), jnp.asarray(gaussian(4, 8)), 3, 1)
    np.testing.assert_allclose(rebuilt(to_tensor(leaf), CONVOLUTION), leaf.dense(), rtol=1e-5, atol=1e-5)


def test_factors_of_half_precision_and_masked_ones_become_what_they_mean():
    u, v = jnp.asarray(gaussian(12, 3), jnp.bfloat16), jnp.asarray(gaussian(3, 20), jnp.bfloat16)
    leaf = LowRank(Masked(u, u > 0), v)
    expected = np.asarray(jnp.where(u > 0, u, 0), np.float32) @ np.asarray(v, np.float32)
    np.testing.assert_allclose(rebuilt(to_tensor(leaf), DENSE), expected, rtol=1e-5, atol=1e-5)


def test_weights_are_shared_by_the_factors():
    u, v = to_leaf(tl.cp_tensor.CPTensor((np.float32([16.0]), [np.ones((2, 1)), np.ones((3, 1))])), (2, 3)).parts()
    np.testing.assert_allclose(np.concatenate([u.ravel(), v.ravel()]), np.full(5, 4.0))


def test_plain_pairs_and_lists_are_read_as_tensorlys_classes():
    weights, factors = weighted_cp(DENSE)
    core, matrices = tucker(DENSE, (3, 5))
    errors = [0.5, 0.25]
    pairs = [
        ((weights, factors), weighted_cp(DENSE)),
        ((None, factors), tl.cp_tensor.CPTensor((None, factors))),
        ((weighted_cp(DENSE), errors), weighted_cp(DENSE)),
        ((core, matrices), tucker(DENSE, (3, 5))),
        (((core, matrices), errors), tucker(DENSE, (3, 5))),
        (train(DENSE, (1, 3, 1)).factors, train(DENSE, (1, 3, 1))),
        (ring(DENSE, (2, 3)).factors, ring(DENSE, (2, 3))),
        (paired_train((3, 4), (4, 5), (1, 6, 1)).factors, paired_train((3, 4), (4, 5), (1, 6, 1))),
    ]
    for plain, tensor in pairs:
        np.testing.assert_array_equal(to_leaf(plain, DENSE).dense(), to_leaf(tensor, DENSE).dense())


def cp_rank(array):
    return decomposition.parafac(array, rank=tl.cp_tensor.validate_cp_rank(array.shape, 0.5), n_iter_max=5)


def constrained(array):
    return decomposition.constrained_parafac(array, rank=3, non_negative={0: True}, n_iter_max=3, init="random")


def randomised(array):
    return decomposition.randomised_parafac(array, 3, n_samples=60, n_iter_max=5, random_state=0)


def errors(array):
    return decomposition.parafac(array, 3, n_iter_max=5, return_errors=True, l2_reg=1e-3, random_state=0)


def tucker_rank(array):
    rank = tl.tucker_tensor.validate_tucker_rank(array.shape, 0.5, fixed_modes=[0, 1])
    return decomposition.tucker(array, rank=rank, n_iter_max=3)


BY = {
    "parafac": (lambda a: decomposition.parafac(a, 3, n_iter_max=5, random_state=0), CONVOLUTION, {}, CP),
    "parafac with errors": (errors, CONVOLUTION, {}, CP),
    "a rule of the rank": (cp_rank, CONVOLUTION, {}, CP),
    "non-negative": (lambda a: decomposition.non_negative_parafac(abs(a), 3, n_iter_max=5), CONVOLUTION, {}, CP),
    "randomised": (randomised, CONVOLUTION, {}, CP),
    "constrained": (constrained, CONVOLUTION, {}, CP),
    "matrix": (lambda a: decomposition.parafac(a, 3, n_iter_max=5), DENSE, {}, LowRank),
    "split matrix": (lambda a: decomposition.parafac(a, 3, n_iter_max=5), DENSE, SPLIT, LowRank),
    "tucker": (lambda a: decomposition.tucker(a, rank=[2, 2, 3, 4]), CONVOLUTION, {}, Tucker),
    "tucker of a fraction": (tucker_rank, CONVOLUTION, {}, Tucker),
    "non-negative tucker": (
        lambda a: decomposition.non_negative_tucker(abs(a), [2, 2, 3, 4], n_iter_max=5),
        CONVOLUTION,
        {},
        Tucker,
    ),
    "partial tucker": (lambda a: decomposition.partial_tucker(a, [3, 4], modes=[2, 3]), CONVOLUTION, {}, Tucker2),
    "tucker of the outputs": (lambda a: decomposition.partial_tucker(a, [4], modes=[3]), CONVOLUTION, {}, LowRank),
    "partial tucker with places": (
        lambda a: decomposition.partial_tucker(a, [2, 3, 4], modes=[0, 2, 3]),
        CONVOLUTION,
        {"modes": (0, 2, 3)},
        Tucker2,
    ),
    "train": (lambda a: decomposition.tensor_train(a, rank=[1, 3, 3, 4, 1]), CONVOLUTION, {}, TensorTrain),
    "train of a dense kernel": (
        lambda a: decomposition.tensor_train(a, rank=[1, 2, 4, 2, 1]),
        DENSE,
        SPLIT,
        TensorTrain,
    ),
    "train of a rule": (
        lambda a: decomposition.tensor_train(a, rank=tl.tt_tensor.validate_tt_rank(a.shape, 0.6)),
        DENSE,
        SPLIT,
        TensorTrain,
    ),
    "TT-matrix": (lambda a: decomposition.tensor_train_matrix(a, rank=[1, 4, 1]), DENSE, SPLIT, TensorTrain),
    "ring": (lambda a: decomposition.tensor_ring(a, rank=[2, 2, 3, 2, 2]), DENSE, RING, TensorRing),
    "ring of a rule": (
        lambda a: decomposition.tensor_ring(a, rank=tl.tr_tensor.validate_tr_rank(a.shape, 0.3)),
        DENSE,
        RING,
        TensorRing,
    ),
    "ring of a convolution": (
        lambda a: decomposition.tensor_ring(a, rank=[1, 3, 4, 2, 1]),
        CONVOLUTION,
        {},
        TensorRing,
    ),
    "an object": (lambda a: decomposition.CP(rank=3, n_iter_max=5).fit_transform(a), CONVOLUTION, {}, CP),
}


@pytest.mark.filterwarnings("ignore::UserWarning:tensorly")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorly")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("decompose", "shape", "options", "kind"), BY.values(), ids=BY)
def test_any_decomposition_is_a_transform(decompose, shape, options, kind, dtype):
    kernel = jnp.asarray(gaussian(*shape), dtype)
    seen = []

    def watched(array):
        seen.append((array, decompose(array)))
        return seen[-1][1]

    leaf = factorize.by("w", watched, always=True, name="x", **options).init({"w": kernel})["w"]
    (array, tensor), *_ = seen
    assert type(array) is np.ndarray and array.dtype == np.float32
    np.testing.assert_array_equal(array.reshape(shape), np.asarray(kernel, np.float32))
    assert type(leaf) is kind and leaf.owner == "x" and leaf.shape == shape and leaf.dtype == dtype
    expected = np.asarray(to_leaf(tensor, shape, modes=options.get("modes")).dense(), np.float32)
    tolerance = 1e-5 if dtype == jnp.float32 else 0.05
    np.testing.assert_allclose(np.asarray(leaf.dense(), np.float32), expected, atol=tolerance * np.abs(expected).max())


def test_a_partial_tucker_decomposition_is_what_tensorly_rebuilds():
    kernel = gaussian(*CONVOLUTION)
    (core, factors), errors = decomposition.partial_tucker(kernel, rank=[2, 3, 4], modes=[0, 2, 3])
    expected = tl.tenalg.multi_mode_dot(core, factors, modes=[0, 2, 3])
    np.testing.assert_allclose(
        to_leaf(((core, factors), errors), modes=(0, 2, 3)).dense(), expected, rtol=1e-5, atol=1e-5
    )


def test_a_symmetric_decomposition_is_a_low_rank_matrix_of_one_factor():
    half = gaussian(6, 6)
    kernel = half @ half.T
    weights, factor = decomposition.symmetric_parafac_power_iteration(kernel, 2)
    leaf = factorize.by("w", lambda w: (weights, factor)).init({"w": jnp.asarray(kernel)})["w"]
    np.testing.assert_allclose(leaf.dense(), (factor * weights) @ factor.T, rtol=1e-5, atol=1e-5)


def test_what_gets_no_smaller_is_declined():
    whole = lambda w: decomposition.tucker(w, rank=(4, 4))
    with pytest.warns(factorize.Declined, match="w stays as it is"):
        assert isinstance(factorize.by("w", whole).init({"w": jnp.ones((4, 5))})["w"], jax.Array)


@pytest.mark.parametrize(
    ("options", "kernel", "decompose", "message"),
    [
        ({"inputs": (3, 5)}, (12, 20), None, r"modes \(3, 5\) and \(20,\) do not multiply to w, shape \(12, 20\)"),
        ({}, (12, 20), lambda w: "text", "w: a str is no tensor of tensorly's; those are CP, Tucker"),
        ({}, (12, 20), lambda w: w, "w: a ndarray is no tensor of tensorly's"),
        ({}, (12, 20), lambda w: weighted_cp((12, 21)), r"w: a CP tensor of modes \(12, 21\) is no kernel of shape"),
        ({}, (12, 20), lambda w: ring((3, 4, 21), (2, 2, 2)), r"w: a TR tensor of modes \(3, 4, 21\) is no kernel"),
        ({}, (12, 20), lambda w: [w, w], r"w: arrays of shapes \(12, 20\), \(12, 20\) are no tensor"),
        (
            {},
            (12, 20),
            lambda w: (None, [w, w[:, :3]]),
            r"w: factors of shapes \(12, 20\), \(12, 3\) do not have the 20",
        ),
        ({}, (12, 20), lambda w: (None, [1j * w, w]), "w: factors of dtype complex64 are not real numbers"),
        ({"modes": (0,)}, (3, 6, 8), lambda w: (w, [np.eye(3)]), r"w: .* factors of modes \[0\] alone has no leaf"),
        ({"modes": (0, 1)}, (12, 20), lambda w: (w, [np.eye(12)]), r"w: 1 factors of a core \(12, 20\) are not"),
        ({}, (12, 20), lambda w: (w, [np.eye(12)]), r"w: factors of shapes \[\(12, 12\)\] do not fit modes \(1,\)"),
        ({}, (12,), None, "at least two axes"),
    ],
)
def test_what_does_not_fit_is_named(options, kernel, decompose, message):
    transform = factorize.by("w", decompose or (lambda w: None), **options)
    with pytest.raises(ValueError, match=message):
        transform.init({"w": jnp.ones(kernel)})


def test_modes_below_one_and_leaves_without_a_tensor_are_named():
    with pytest.raises(ValueError, match=r"inputs \(0, 3\) for pattern 'w' are not integers of at least 1"):
        factorize.by("w", lambda w: w, inputs=(0, 3))
    with pytest.raises(ValueError, match="tensorly has no tensor for Masked; it has for CP, LowRank, TensorRing"):
        to_tensor(Masked(jnp.ones((2, 2)), jnp.ones((2, 2), bool)))
    with pytest.raises(ValueError, match=r"w holds \d+ entries that are not finite"):
        factorize.by("w", lambda w: w).init({"w": jnp.full((4, 4), jnp.nan)})


def convolve(kernel, x):
    spatial = "HWD"[: kernel.ndim - 2]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    return jax.lax.conv_general_dilated(x, kernel, (1,) * len(spatial), "SAME", dimension_numbers=numbers)


def test_a_ring_runs_as_small_operations():
    leaf = to_leaf(ring((8, 8, 8, 8), (2, 2, 2, 2)), (64, 64))
    x = jnp.asarray(gaussian(5, 64))
    multiply = lambda w, x: x @ w
    np.testing.assert_allclose(jc.lift(multiply)(leaf, x), x @ leaf.dense(), rtol=1e-4, atol=1e-3)
    # The cores in their order, each with what it adds up over for every number that it writes.
    by_hand = 5 * (8 * 4 * 8 + 4 * (2 * 8) + (2 * 8 * 2) * 2 + (8 * 8) * (2 * 2))
    assert jc.macs(jc.lift(multiply), leaf, x) == by_hand < jc.macs(multiply, leaf.dense(), x) / 5


@pytest.mark.parametrize("name", ["ring of a convolution", "ring of one place", "ring of three places"])
def test_a_ring_of_a_convolution_equals_the_dense_one(name):
    make, shape, _ = TENSORS[name]
    leaf = to_leaf(make(), shape)
    x = jnp.asarray(gaussian(2, *(5,) * (len(shape) - 2), shape[-2]))
    expected = convolve(leaf.dense(), x)
    scale = float(jnp.max(jnp.abs(expected)))
    np.testing.assert_allclose(jax.jit(jc.lift(convolve))(leaf, x) / scale, expected / scale, atol=1e-5)


def test_a_thin_ring_of_a_convolution_multiplies_less():
    leaf = to_leaf(ring((3, 3, 32, 32), (2, 2, 2, 2)), (3, 3, 32, 32))
    x = jax.ShapeDtypeStruct((1, 8, 8, 32), jnp.float32)
    dense = jax.ShapeDtypeStruct((3, 3, 32, 32), jnp.float32)
    # A place: inputs to two ranks, nine places of two by two for each rank behind, and two ranks to the outputs.
    window = 2 * 3 * 2 * 3 * 2
    assert jc.macs(jc.lift(convolve), leaf, x) == 64 * (32 * 4 + 2 * 9 * 4 + 4 * 32) + window
    assert jc.macs(convolve, dense, x) == 64 * 9 * 32 * 32


def test_a_ring_is_saved_with_fewer_bytes(tmp_path):
    leaf = to_leaf(ring((8, 8, 8, 8), (2, 2, 2, 2)), (64, 64))
    jc.export.save(tmp_path / "ring.jcpk", {"w": leaf})
    loaded = jc.export.load(tmp_path / "ring.jcpk")["w"]
    assert type(loaded) is TensorRing and loaded.ranks == (2, 2, 2, 2) and loaded.storage_bits() == 4 * 8 * 4 * 32
    np.testing.assert_array_equal(loaded.dense(), leaf.dense())


@pytest.fixture
def backend():
    """Sets tensorly and JAX to what they were before the test."""
    name, wide = tl.get_backend(), jax.config.jax_enable_x64
    yield
    tl.set_backend(name)
    jax.config.update("jax_enable_x64", wide)


def low_rank(array):
    assert tl.get_backend() == "numpy"
    return decomposition.parafac(array, 2, n_iter_max=2, random_state=0)


def fails(array):
    raise RuntimeError("no convergence")


def test_neither_the_backend_nor_float64_leaks(backend):
    tl.set_backend("numpy")
    for decompose in (low_rank, fails, lambda array: tl.set_backend("jax") or fails(array)):
        try:
            factorize.by("w", decompose, always=True).init({"w": jnp.ones((4, 5))})
        except RuntimeError:
            pass
        assert tl.get_backend() == "numpy" and not jax.config.jax_enable_x64
    assert jnp.ones(2).dtype == jnp.float32


def test_what_a_user_chose_stays(backend):
    tl.set_backend("jax")
    jax.config.update("jax_enable_x64", True)
    leaf = factorize.by("w", low_rank, always=True).init({"w": jnp.ones((4, 5), jnp.float32)})["w"]
    assert tl.get_backend() == "jax" and jax.config.jax_enable_x64 and leaf.dtype == jnp.float32
    tensor = to_tensor(leaf)
    assert all(isinstance(factor, jax.Array) for factor in tensor.factors)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(tensor.to_tensor(), leaf.dense(), rtol=1e-5)
    np.testing.assert_array_equal(to_leaf(tensor).dense(), leaf.dense())


def test_other_threads_keep_their_backend(backend):
    tl.set_backend("numpy")
    seen = []
    with numpy_backend():
        thread = threading.Thread(target=lambda: seen.append(tl.get_backend()))
        thread.start()
        thread.join()
    assert seen == ["numpy"]


def test_an_environment_that_names_the_jax_backend_switches_nothing():
    script = """
import jax, jax.numpy as jnp, jaxcompress as jc, sys
assert "tensorly" not in sys.modules
def decompose(array):
    from tensorly.decomposition import parafac
    return parafac(array, 2, n_iter_max=2)
jc.factorize.by("w", decompose, always=True).init({"w": jnp.ones((4, 5))})
assert not jax.config.jax_enable_x64
"""
    environment = {"TENSORLY_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_without_tensorly_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorly", None)
    for call in (
        lambda: to_leaf((None, [np.ones((2, 1))] * 2)),
        lambda: to_tensor(LowRank(jnp.ones((2, 1)), jnp.ones((1, 2)))),
        lambda: factorize.by("w", low_rank).init({"w": jnp.ones((4, 5))}),
    ):
        with pytest.raises(ImportError, match=r"pip install 'jaxcompress\[tensorly\]'"):
            call()


def test_a_kernel_of_several_output_axes_is_the_matrix_that_its_axes_tell():
    kernel = gaussian(12, 4, 5)
    seen = []

    def decompose(array):
        seen.append(array.shape)
        return decomposition.parafac(array, 2, n_iter_max=50, tol=0, random_state=0)

    leaf = factorize.by("w", decompose, axes=1).init({"w": jnp.asarray(kernel)})["w"]
    u, s, v = np.linalg.svd(kernel.reshape(12, 20))
    assert seen == [(12, 20)] and leaf.shape == (12, 4, 5)
    np.testing.assert_allclose(leaf.dense().reshape(12, 20), (u[:, :2] * s[:2]) @ v[:2], atol=0.02)


def test_every_layer_of_a_stack_is_decomposed():
    kernel = gaussian(3, 12, 20)
    layers = jc.factorize.Axes((1,), (2,), (0,))
    ranks = iter((2, 2, 2, 2, 3, 2))
    decompose = lambda array: decomposition.tensor_train(array, rank=[1, next(ranks), 1])
    leaf = factorize.by("w", decompose, axes=layers).init({"w": jnp.asarray(kernel)})["w"]
    for layer, one in zip(kernel, leaf.dense(), strict=True):
        u, s, v = np.linalg.svd(layer)
        np.testing.assert_allclose(one, (u[:, :2] * s[:2]) @ v[:2], atol=1e-4)
    with pytest.raises(ValueError, match="the layers of w have factors of shapes"):
        factorize.by("w", decompose, axes=layers).init({"w": jnp.asarray(kernel)})
