"""Checks that every form takes the matrix that the program contracts: in attention, under einsum, in scans."""

import functools
import re
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxcompress import adapters, densify, factorize, lift, macs
from jaxcompress.arrays import LowRank, Reshaped
from jaxcompress.factorize import Axes
from jaxcompress.paths import flatten
from jaxcompress.prune import sparsegpt, wanda

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (4, 5, 16))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return jnp.tanh(nn.Dense(16, use_bias=False, name="fc")(x)), None


class Stack(nn.Module):
    axis: int = 0

    @nn.compact
    def __call__(self, x):
        layers = nn.scan(nn.remat(Block), variable_axes={"params": self.axis}, split_rngs={"params": True}, length=3)
        return layers(name="layers")(x, None)[0]


MODELS = {
    "queries": lambda: nn.DenseGeneral((4, 6), use_bias=False),
    "several_on_both_sides": lambda: nn.DenseGeneral((4, 6), axis=(-2, -1), use_bias=False),
    "einsum": lambda: nn.Einsum((16, 4, 6), "btd,dhk->bthk", use_bias=False),
    "einsum_heads_first": lambda: nn.Einsum((4, 16, 6), "btd,hdk->bthk", use_bias=False),
    "einsum_keys_and_values": lambda: nn.Einsum((2, 4, 16, 6), "bsd,ckdh->cbskh", use_bias=False),
    "scan": lambda: Stack(),
    "scan_inside": lambda: Stack(1),
    "local": lambda: nn.ConvLocal(8, (3,), use_bias=False),
    "transposed_convolution": lambda: nn.ConvTranspose(8, (3,), (2,), use_bias=False, transpose_kernel=True),
}
ORDER = {  # the axes of the kernel in the order (stack, rows, columns), and how many are of each
    "queries": ((0, 1, 2), (0, 1, 2)),
    "several_on_both_sides": ((0, 1, 2, 3), (0, 2, 2)),
    "einsum": ((0, 1, 2), (0, 1, 2)),
    "einsum_heads_first": ((1, 0, 2), (0, 1, 2)),
    "einsum_keys_and_values": ((2, 0, 1, 3), (0, 1, 3)),
    "scan": ((0, 1, 2), (1, 1, 1)),
    "scan_inside": ((1, 0, 2), (1, 1, 1)),
    "local": ((0, 1, 2), (1, 1, 1)),
    "transposed_convolution": ((0, 2, 1), (0, 2, 1)),
}
EVERY = pytest.mark.parametrize("name", MODELS)


@functools.cache
def model(name):
    module = MODELS[name]()
    params = module.init(KEY, X)["params"]
    return (lambda p, x: module.apply({"params": p}, x)), params


def matrices(kernel, name) -> np.ndarray:
    """Returns a kernel as (layers, rows, columns), by hand."""
    order, counts = ORDER[name]
    turned = np.asarray(kernel, np.float64).transpose(order)
    stack, rows = (int(np.prod(turned.shape[a:b])) for a, b in ((0, counts[0]), (counts[0], counts[0] + counts[1])))
    return turned.reshape(stack, rows, -1)


def nearest(kernel, name, rank) -> np.ndarray:
    u, s, v = np.linalg.svd(matrices(kernel, name), full_matrices=False)
    return (u[..., :rank] * s[:, None, :rank]) @ v[:, :rank]


@EVERY
@pytest.mark.sampled(3)
def test_svd_is_the_nearest_of_its_rank_of_the_matrix_that_is_contracted_and_runs_thin(name):
    apply, params = model(name)
    axes = factorize.axes(apply, params, ".*kernel", X)
    small = factorize.svd(".*kernel", 2, axes=axes).init(params)
    ((path, kernel),) = flatten(params).items()
    leaf = flatten(small)[path]
    np.testing.assert_allclose(matrices(leaf.dense(), name), nearest(kernel, name, 2), atol=1e-5)
    run = jax.jit(lift(apply))
    np.testing.assert_allclose(run(small, X), apply(densify(small), X), rtol=1e-4, atol=1e-5)
    assert macs(lift(apply), small, X) < macs(apply, params, X)
    saved = axes[path].multiply_adds(kernel) - axes[path].multiply_adds(leaf)
    assert saved == macs(apply, params, X) - macs(lift(apply), small, X)
    slopes = jax.grad(lambda p: jnp.sum(jnp.sin(lift(apply)(p, X))))(small)
    assert all(bool(jnp.all(jnp.isfinite(slope)) & jnp.any(slope != 0)) for slope in jax.tree.leaves(slopes))
    stacked = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), small)
    many = jax.vmap(lift(apply), in_axes=(0, None))(stacked, X)
    np.testing.assert_allclose(many[0], run(small, X), rtol=1e-4, atol=1e-5)


@EVERY
def test_rules_look_at_the_spectrum_of_that_matrix(name):
    apply, params = model(name)
    axes = factorize.axes(apply, params, ".*kernel", X)
    small = factorize.svd(".*kernel", energy=0.6, axes=axes, always=True).init(params)
    ((path, kernel),) = flatten(params).items()
    squared = np.square(np.linalg.svd(matrices(kernel, name), compute_uv=False))
    shares = np.cumsum(squared, -1) / squared.sum(-1, keepdims=True)
    expected = max(int(np.sum(of < 0.6)) + 1 for of in shares)  # of layers the one that needs most
    leaf = flatten(small)[path]
    assert (leaf.weight if isinstance(leaf, Reshaped) else leaf).rank == expected


FORMS = {
    "svd": lambda **o: factorize.svd("kernel", 3, **o),
    "randomized": lambda **o: factorize.svd("kernel", 3, key=KEY, **o),
    "tucker2": lambda **o: factorize.tucker2("kernel", (4, 4), **o),
    "tensor_train": lambda **o: factorize.tensor_train("kernel", (4, 4), (4, 6), 2, **o),
    "kronecker": lambda **o: factorize.kronecker("kernel", (4, 4), 2, **o),
}


@pytest.mark.parametrize("name", ["queries", "einsum", "einsum_heads_first"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_matrix_is_that_of_the_kernel_made_a_matrix(form, name):
    apply, params = model(name)
    axes = factorize.axes(apply, params, "kernel", X)
    leaf = FORMS[form](axes=axes, always=True).init(params)["kernel"]
    flat = jnp.asarray(matrices(params["kernel"], name)[0], jnp.float32)
    expected = FORMS[form](always=True).init({"kernel": flat})["kernel"]
    np.testing.assert_allclose(matrices(leaf.dense(), name)[0], expected.dense(), atol=1e-5)
    small = {"kernel": leaf}
    np.testing.assert_allclose(lift(apply)(small, X), apply(densify(small), X), rtol=1e-4, atol=1e-4)
    thin = macs(lift(lambda p, x: x @ p), expected, X)
    assert macs(lift(apply), small, X) == thin


@pytest.mark.parametrize("form", FORMS)
def test_layers_of_a_stack_have_factors_of_their_own(form):
    kernel = jax.random.normal(KEY, (3, 16, 24))
    axes = Axes((1,), (2,), (0,))
    leaf = FORMS[form](axes=axes, always=True).init({"kernel": kernel})["kernel"]
    for layer in range(3):
        if form == "randomized":
            assert np.linalg.norm(leaf.dense()[layer] - kernel[layer]) < np.linalg.norm(kernel[layer])
        else:
            alone = FORMS[form](always=True).init({"kernel": kernel[layer]})["kernel"]
            np.testing.assert_allclose(leaf.dense()[layer], alone.dense(), atol=1e-5)


CONVOLUTIONS = {
    "spatial": lambda **o: factorize.svd("w", 4, split="spatial", **o),
    "tucker": lambda **o: factorize.tucker("w", (2, 2, 3, 4), **o),
    "tucker2": lambda **o: factorize.tucker2("w", (3, 4), **o),
    "cp": lambda **o: factorize.cp("w", 4, key=KEY, sweeps=5, **o),
}


@pytest.mark.parametrize("form", CONVOLUTIONS)
def test_convolutions_under_other_axes_and_in_stacks(form):
    kernel = jax.random.normal(KEY, (3, 2, 6, 8))
    plain = CONVOLUTIONS[form](always=True).init({"w": kernel})["w"].dense()
    turned = CONVOLUTIONS[form](axes=Axes((1,), (0,), (), (2, 3)), always=True)
    leaf = turned.init({"w": kernel.transpose(3, 2, 0, 1)})["w"]
    np.testing.assert_allclose(leaf.dense().transpose(2, 3, 1, 0), plain, atol=1e-5)
    numbers = ("NHWC", "OIHW", "NHWC")
    x = jax.random.normal(KEY, (1, 7, 7, 6))
    convolve = lambda w: jax.lax.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=numbers)
    np.testing.assert_allclose(lift(convolve)(leaf), convolve(leaf.dense()), rtol=1e-4, atol=1e-4)
    stack = CONVOLUTIONS[form](axes=Axes((3,), (4,), (0,), (1, 2)), always=True)
    layers = stack.init({"w": jnp.stack([kernel, 2 * kernel])})["w"]
    assert layers.shape == (2, 3, 2, 6, 8)
    if form != "cp":  # whose layers begin from draws of their own
        np.testing.assert_allclose(layers.dense(), jnp.stack([plain, 2 * plain]), atol=1e-4)


def attention():
    module = nn.MultiHeadDotProductAttention(num_heads=4, qkv_features=24, use_bias=False)
    return (lambda p, x: module.apply({"params": p}, x)), module.init(KEY, X)["params"]


def test_attention_of_linen_runs_thin_by_convention_and_by_its_program():
    apply, params = attention()
    by_convention = factorize.svd(".*/kernel", 2).init(params)
    axes = factorize.axes(apply, params, ".*/kernel", X)
    by_program = factorize.svd(".*/kernel", 2, axes=axes).init(params)
    for small in (by_convention, by_program):
        assert all(isinstance(leaf, LowRank) for leaf in flatten(small).values())
        fallen = macs(apply, params, X) - macs(lift(apply), small, X)
        assert fallen == 20 * 4 * (16 * 24 - 2 * (16 + 24))
        np.testing.assert_allclose(lift(apply)(small, X), apply(densify(small), X), rtol=1e-4, atol=1e-4)


def test_attention_of_nnx_runs_thin():
    module = nnx.MultiHeadAttention(num_heads=4, in_features=16, qkv_features=24, decode=False, rngs=nnx.Rngs(0))
    apply, params = adapters.nnx.functional(module)
    axes = factorize.axes(apply, params, "(query|key|value|out)/kernel", X)
    small = factorize.svd("(query|key|value|out)/kernel", 2, axes=axes).init(params)
    fallen = macs(apply, params, X) - macs(lift(apply), small, X)
    assert fallen == 20 * 4 * (16 * 24 - 2 * (16 + 24))


@pytest.mark.parametrize("given", ["by_the_metric", "by_the_program"])
def test_whitened_queries_keys_and_values_have_the_least_error_of_their_outputs(given):
    apply, params = attention()
    pattern = "(query|key|value)/kernel"
    metric = factorize.second_moments(apply, params, pattern, [X[:2], X[2:]], damping=1e-7)
    axes = factorize.axes(apply, params, pattern, X) if given == "by_the_program" else None
    small = factorize.svd(pattern, 2, metric=metric, axes=axes).init(params)
    rows = np.asarray(X, np.float64).reshape(-1, 16)
    for name in ("query", "key", "value"):
        kernel = np.asarray(params[name]["kernel"], np.float64).reshape(16, 24)
        found = np.asarray(small[name]["kernel"].dense(), np.float64).reshape(16, 24)
        least = np.sum(np.linalg.svd(rows @ kernel, compute_uv=False)[2:] ** 2)
        assert np.sum((rows @ (found - kernel)) ** 2) == pytest.approx(least, rel=1e-3)


def test_statistics_of_a_stack_are_those_of_each_layer():
    apply, params = model("scan_inside")
    metric = factorize.second_moments(apply, params, ".*kernel", [X], damping=0.0)
    scales = factorize.activation_scales(apply, params, ".*kernel", [X])
    (kernel,) = jax.tree.leaves(params)
    (moment,), (scale,) = metric.values(), scales.values()
    assert moment.shape == (3, 16, 16) and scale.shape == (3, 16)
    x = np.asarray(X, np.float64).reshape(-1, 16)
    for layer in range(3):
        expected = x.T @ x
        np.testing.assert_allclose(moment[layer] / moment[layer][0, 0], expected / expected[0, 0], rtol=1e-3, atol=1e-3)
        magnitude = np.abs(x).sum(0)
        np.testing.assert_allclose(scale[layer], magnitude / magnitude.max(), rtol=1e-4)
        x = np.tanh(x @ np.asarray(kernel, np.float64)[:, layer])
    for weighed in (metric, scales):
        axes = factorize.axes(apply, params, ".*kernel", X)
        small = factorize.svd(".*kernel", 2, metric=weighed, axes=axes).init(params)
        assert macs(lift(apply), small, X) < macs(apply, params, X)


def test_fisher_information_is_that_of_the_rows_of_the_matrix():
    apply, params = model("einsum_heads_first")
    axes = factorize.axes(apply, params, "kernel", X)
    loss = lambda p, x: jnp.mean(jnp.square(apply(p, x)))
    found = factorize.fisher(loss, params, "kernel", [X], axes=axes)["kernel"]
    slope = matrices(jax.grad(loss)(params, X)["kernel"], "einsum_heads_first")[0]
    np.testing.assert_allclose(found, np.square(slope).sum(1), rtol=1e-4)


@pytest.mark.parametrize("name", ["queries", "einsum_heads_first", "several_on_both_sides", "scan_inside"])
def test_wanda_ranks_within_an_output_of_the_matrix(name):
    apply, params = model(name)
    pruned = wanda(".*kernel", 0.5, apply, [X]).init(params)
    ((path, kernel),) = flatten(params).items()
    leaf = flatten(pruned)[path]
    masks = matrices(leaf.mask, name) > 0
    x = np.asarray(X, np.float64)
    for mask, weight in zip(masks, matrices(kernel, name), strict=True):
        rows = x.reshape(-1, len(weight))
        scores = np.abs(weight) * np.linalg.norm(rows, axis=0)[:, None]
        order = np.argsort(-scores, axis=0)[: len(weight) // 2]
        expected = np.zeros(weight.shape, bool)
        np.put_along_axis(expected, order, True, axis=0)
        np.testing.assert_array_equal(mask, expected)
        x = np.tanh(rows @ weight)  # layers of one stack are measured together, before any of them is pruned


@pytest.mark.parametrize("name", ["queries", "einsum_heads_first"])
def test_sparsegpt_is_that_of_the_matrix(name):
    apply, params = model(name)
    leaf = sparsegpt("kernel", 0.5, apply, [X]).init(params)["kernel"]
    flat = jnp.asarray(matrices(params["kernel"], name)[0], jnp.float32)
    plain = sparsegpt("w", 0.5, lambda p, x: x @ p["w"], [X]).init({"w": flat})["w"]
    np.testing.assert_array_equal(matrices(leaf.mask, name)[0] > 0, plain.mask)
    np.testing.assert_allclose(matrices(leaf.weight, name)[0], plain.weight, rtol=1e-5, atol=1e-6)


def test_factors_that_make_a_program_dearer_are_declined_by_its_multiply_adds():
    apply = lambda p, x: jax.lax.conv_general_dilated(
        x, p["w"], (4, 4), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    params, x = {"w": jax.random.normal(KEY, (3, 3, 8, 8))}, jnp.ones((1, 16, 16, 8))
    axes = factorize.axes(apply, params, "w", x)
    told = re.escape("w stays as it is: its factors would take 18,240 multiply-adds, it takes 9,216")
    with pytest.warns(factorize.Declined, match=told):  # 256 * 48 + 16 * (9 * 36 + 48)
        assert factorize.tucker2("w", (6, 6), axes=axes).init(params)["w"] is params["w"]
    assert factorize.tucker2("w", (6, 6), axes=axes, always=True).init(params)["w"] is not params["w"]


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((16, 4, 6), 16), ((4, 6, 16), 24), ((5, 8, 12), 40), ((16, 1, 6), 16), ((3, 3, 8, 8), 72), ((12, 8), 12)],
)
def test_the_convention_without_a_program(shape, rows):
    leaf = factorize.svd("w", 2, always=True).init({"w": jax.random.normal(KEY, shape)})["w"]
    assert int(np.prod(shape[: leaf.input_axes])) == rows


def test_axes_by_hand_are_a_number_or_axes_or_a_table():
    params = {"w": jax.random.normal(KEY, (5, 8, 12))}
    assert factorize.svd("w", 2, axes=1, always=True).init(params)["w"].u.shape == (5, 2)
    assert factorize.svd("w", 2, axes={"w": 2}, always=True).init(params)["w"].u.shape == (5, 8, 2)
    assert factorize.svd("w", 2, axes=Axes((1,), (2,), (0,)), always=True).init(params)["w"].u.shape == (5, 8, 2)
    metric = {"w": jnp.ones((5, 8))}  # of each layer the diagonal of one
    assert factorize.svd("w", 2, metric=metric, always=True).init(params)["w"].v.shape == (5, 2, 12)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (0, "axes 0 of w, shape (5, 8, 12): its inputs are from 1 to 2 axes"),
        (3, "axes 3 of w, shape (5, 8, 12): its inputs are from 1 to 2 axes"),
        ({"v": 1}, "there are no axes for w; there are axes for v"),
        (Axes((0,), (1,)), "are not the axes of w, shape (5, 8, 12)"),
        (Axes((), (0, 1, 2)), "are not the axes of w, shape (5, 8, 12)"),
    ],
)
def test_axes_that_are_not_those_of_a_kernel_are_refused_by_path(axes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        factorize.svd("w", 2, axes=axes).init({"w": jnp.ones((5, 8, 12))})


def test_forms_without_a_meaning_in_groups_are_refused_before_they_run():
    options = {"dimension_numbers": ("NWC", "WIO", "NWC"), "feature_group_count": 2}
    apply = lambda p, x: jax.lax.conv_general_dilated(x, p["w"], (1,), "SAME", **options)
    params = {"w": jnp.ones((3, 4, 8))}
    axes = factorize.axes(apply, params, "w", jnp.ones((1, 6, 8)))
    for make in (
        factorize.tensor_train("w", (2, 2), (2, 4), 2, axes=axes),
        factorize.kronecker("w", (2, 2), axes=axes),
    ):
        with pytest.raises(ValueError, match="w is the kernel of a convolution of 2 groups"):
            make.init(params)


def test_ranks_of_tensor_trains_are_integers_of_any_kind_or_tables_by_path():
    params = {"a": jnp.ones((4, 6)), "b": jnp.ones((4, 6))}
    make = lambda rank: factorize.tensor_train("a|b", (2, 2), (2, 3), rank, always=True).init(params)
    assert make(np.int64(1))["a"].ranks == (1,)
    table = make({"a": 1, "b": (np.int32(3),)})
    assert (table["a"].ranks, table["b"].ranks) == ((1,), (3,))
    for rank, told in (
        ({"a": 1}, "no rank for b"),
        ({"a": 1, "b": 0}, "rank 0 for b"),
        (True, "rank True for pattern"),
    ):
        with pytest.raises(ValueError, match=told):
            make(rank)
    with pytest.raises(ValueError, match="there is no rank for w; there are ranks for v"):
        factorize.cp("w", {"v": 1}, key=KEY).init({"w": jnp.ones((3, 4, 5))})


@pytest.mark.parametrize("shape", [(4, 4), (3, 3, 3, 3, 4, 4)])
def test_windows_that_a_form_has_no_meaning_for_are_refused(shape):
    for make in (factorize.cp("w", 1, key=KEY), factorize.tucker("w", 1), factorize.svd("w", 1, split="spatial")):
        with pytest.raises(ValueError, match=re.escape(f"w has shape {shape}")):
            make.init({"w": jnp.ones(shape)})
    with pytest.raises(ValueError, match="a spatial split needs a convolution .* whose window has 2 to 3 axes"):
        factorize.svd("w", 1, split="spatial").init({"w": jnp.ones((3, 4, 4))})


WINDOWS = [(5,), (3, 2, 2)]
WITH_WINDOW = ["svd", "spatial", "tucker2", "tucker", "cp", "tensor_train", "kronecker"]


@pytest.mark.parametrize(
    ("form", "window"), [pair for pair in product(WITH_WINDOW, WINDOWS) if pair != ("spatial", (5,))]
)
@pytest.mark.sampled(3)
def test_convolutions_over_one_axis_and_three_run_thin(form, window):
    make = {
        "svd": factorize.svd("w", 4, axes=len(window) + 1, always=True),
        "spatial": factorize.svd("w", 4, split="spatial", always=True),
        "tucker2": factorize.tucker2("w", (3, 4), axes=Axes(*layout(window)), always=True),
        "tucker": factorize.tucker("w", (2,) * len(window) + (3, 4), always=True),
        "cp": factorize.cp("w", 4, key=KEY, sweeps=5, always=True),
        "tensor_train": factorize.tensor_train("w", (3, 2), (2, 4), 2, always=True),
        "kronecker": factorize.kronecker("w", (3, 2), 2, axes=Axes(*layout(window)), always=True),
    }[form]
    leaf = make.init({"w": jax.random.normal(KEY, (*window, 6, 8))})["w"]
    spatial = len(window)
    places = "DHW"[-spatial:]
    numbers = (f"N{places}C", f"{places}IO", f"N{places}C")
    x = jax.random.normal(KEY, (2, *(7,) * spatial, 6))
    convolve = lambda w: jax.lax.conv_general_dilated(x, w, (2,) * spatial, "SAME", dimension_numbers=numbers)
    np.testing.assert_allclose(jax.jit(lift(convolve))(leaf), convolve(leaf.dense()), rtol=1e-4, atol=1e-4)
    slopes = jax.grad(lambda leaf: jnp.sum(jnp.sin(lift(convolve)(leaf))))(leaf)
    assert all(bool(jnp.all(jnp.isfinite(slope))) for slope in jax.tree.leaves(slopes))


def layout(window):
    spatial = len(window)
    return (spatial,), (spatial + 1,), (), tuple(range(spatial))
