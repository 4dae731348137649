"""Checks folding in training: the paper's formulas in float64, factors that vanish, the way to a device."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcompress as jc
from jaxcompress import quantize, schedules
from jaxcompress.arrays import FakeQuantized, LearnedStep, Masked, Scaled, dense
from jaxcompress.export.packed import from_bytes, to_bytes
from jaxcompress.prune import magnitude
from jaxcompress.quantize import folded
from jaxcompress.quantize.folding import usable_factor

EPSILON = 1e-3


def gaussian(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


class Layer(nn.Module):
    """One dense layer and its normalization."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(5, use_bias=False, name="fc")(x)
        return nn.BatchNorm(use_running_average=not train, epsilon=EPSILON, name="fc_norm")(x)


def variables(gamma=(0.5, -1.5, 2.0, 0.1, 1.0)):
    """Returns a trained-looking tree of `Layer` on 8 inputs."""
    norm = {"scale": jnp.float32(gamma), "bias": gaussian(5, seed=3)}
    stats = {"mean": gaussian(5, seed=4), "var": jnp.float32([0.3, 2.0, 5.0, 1.0, 0.7])}
    return {"params": {"fc": {"kernel": gaussian(8, 5)}, "fc_norm": norm}, "batch_stats": {"fc_norm": stats}}


def of_layer(bits=4, **options):
    return folded("params/(fc)/kernel", r"\1_norm", bits, epsilon=EPSILON, **options)


def doubles(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def rounded(weight, bits, axes):
    scale = np.abs(weight).max(axes, keepdims=True) / (2 ** (bits - 1) - 1)
    return np.round(weight / scale) * scale


def folded_weight(tree, bits, axes=(0, 1)):
    """Returns what the device multiplies with, ``quantized(gamma W / sigma)``, with gamma and sigma."""
    gamma, sigma = tree["params"]["fc_norm"]["scale"], np.sqrt(tree["batch_stats"]["fc_norm"]["var"] + EPSILON)
    return rounded(tree["params"]["fc"]["kernel"] * gamma / sigma, bits, axes), gamma, sigma


# The paper's formulas (Krishnamoorthi 2018, section 3.2.2).


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize(("granularity", "axes"), [("tensor", (0, 1)), ("channel", (0,))])
def test_with_running_statistics_it_is_the_frozen_form(bits, granularity, axes):
    tree, x = variables(), gaussian(32, 8, seed=1)
    seen = jc.lift(Layer().apply)(of_layer(bits, granularity=granularity).init(tree), x)
    wide = doubles(tree)
    weight, gamma, sigma = folded_weight(wide, bits, axes)
    shift = wide["params"]["fc_norm"]["bias"] - gamma * wide["batch_stats"]["fc_norm"]["mean"] / sigma
    np.testing.assert_allclose(seen, np.asarray(x, np.float64) @ weight + shift, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_with_the_statistics_of_the_batch_it_is_the_form_with_correction(bits):
    tree, x = variables(), 2 * gaussian(32, 8, seed=1) + 0.5
    run = jc.lift(lambda v, x: Layer().apply(v, x, True, mutable=["batch_stats"]))
    seen, _ = run(of_layer(bits).init(tree), x)
    wide = doubles(tree)
    weight, gamma, sigma = folded_weight(wide, bits)
    out = np.asarray(x, np.float64) @ weight
    layer = out * sigma / gamma  # what the model's own layer gives, of which it takes the statistics
    mean, deviation = layer.mean(0), np.sqrt(layer.var(0) + EPSILON)
    expected = out * (sigma / deviation) + wide["params"]["fc_norm"]["bias"] - gamma * mean / deviation
    np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-4)


def test_one_scale_per_output_is_that_of_the_kernel_itself():
    tree = variables()
    unfolded = quantize.weights("params/fc/kernel", 4).init(tree)["params"]["fc"]["kernel"]
    leaf = of_layer(granularity="channel").init(tree)["params"]["fc"]["kernel"]
    np.testing.assert_allclose(dense(leaf), dense(unfolded), rtol=1e-5, atol=1e-6)
    signs = np.sign(tree["params"]["fc_norm"]["scale"])
    np.testing.assert_array_equal(leaf.weight.integers()[0], np.asarray(unfolded.integers()[0]) * signs)
    per_tensor = dense(of_layer().init(tree)["params"]["fc"]["kernel"])
    assert np.max(np.abs(per_tensor - dense(unfolded))) > 0.1  # there it matters


def test_gradients_pass_straight_through_the_kernel():
    params, upstream = of_layer().init(variables()), gaussian(8, 5, seed=2)
    trained, fixed = jc.partition(params)
    assert set(trained["params"]["fc"]) == {"kernel"} and len(jax.tree.leaves(fixed["params"]["fc"])) == 3
    slope = jax.grad(lambda t: jnp.sum(dense(jc.combine(t, fixed)["params"]["fc"]["kernel"]) * upstream))(trained)
    np.testing.assert_allclose(slope["params"]["fc"]["kernel"].weight.weight.weight, upstream, rtol=1e-6)


# Its update.


def test_update_follows_gamma_and_the_running_variance_in_one_trace():
    transform, traces = of_layer(), []

    @jax.jit
    def update(params, step):
        traces.append(step)
        return transform.update(params, step)

    params = transform.init(variables())
    params["params"]["fc_norm"]["scale"] = 2 * params["params"]["fc_norm"]["scale"]
    params["batch_stats"]["fc_norm"]["var"] = params["batch_stats"]["fc_norm"]["var"] + 1
    moved = update(update(params, jnp.int32(0)), jnp.int32(1))
    plain = variables()
    plain["params"]["fc_norm"], plain["batch_stats"] = params["params"]["fc_norm"], params["batch_stats"]
    fresh = transform.init(plain)
    assert len(traces) == 1 and jax.tree.structure(moved) == jax.tree.structure(fresh)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), moved, fresh)
    assert transform.init(moved)["params"]["fc"]["kernel"] is moved["params"]["fc"]["kernel"]


def test_bits_may_follow_a_schedule():
    transform = of_layer(schedules.linear(8, 2, end=6))
    params = transform.init(variables())
    assert [transform.update(params, s)["params"]["fc"]["kernel"].weight.bits.tolist() for s in (0, 2, 6)] == [8, 6, 2]


def test_masks_inside_and_around_are_reached_by_update():
    prune = magnitude("params/fc/kernel", 0.5)
    for transform in (jc.chain(prune, of_layer()), jc.chain(of_layer(), prune)):
        params = transform.init(variables())
        params["params"]["fc_norm"]["scale"] = -params["params"]["fc_norm"]["scale"]
        leaf = transform.update(params, 1)["params"]["fc"]["kernel"]
        scaled = leaf.weight if isinstance(leaf, Masked) else leaf
        assert scaled.factor[0, 0] < 0 and scaled.weight.weight.factor[0, 0] < 0
        assert 0.5 <= np.mean(np.asarray(dense(leaf)) == 0) < 1
        np.testing.assert_array_equal(from_bytes(to_bytes({"k": leaf}))["k"].dense(), leaf.dense())


# Factors that vanish.


def test_usable_factors_by_hand():
    assert usable_factor(jnp.float32([0.5, 0.0, -2.0, 1e-9])).tolist() == [0.5, 2, -2, 2]
    assert usable_factor(jnp.float32([0.0, -0.0, 1e-30])).tolist() == [1, 1, 1]
    assert usable_factor(jnp.float32([jnp.nan, jnp.inf, 3.0])).tolist() == [3, 3, 3]
    assert usable_factor(jnp.float32([1e-12, 2e-12])).tolist() == [np.float32(1e-12), np.float32(2e-12)]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(-(2.0**40), 2.0**40, width=32) | st.just(0.0), min_size=5, max_size=5),
    st.lists(st.floats(0, 2.0**40, width=32), min_size=5, max_size=5),
)
def test_no_gamma_and_no_variance_gives_what_is_not_finite(gamma, variance):
    tree = variables(gamma)
    tree["batch_stats"]["fc_norm"]["var"] = jnp.float32(variance)
    leaf = FOLD_WITHOUT_EPSILON(tree)["params"]["fc"]["kernel"]
    assert np.all(np.isfinite(leaf.factor)) and np.all(np.isfinite(dense(leaf)))


FOLD_WITHOUT_EPSILON = jax.jit(folded("params/(fc)/kernel", r"\1_norm", 4, epsilon=0.0).init)


def test_a_gamma_that_starts_from_zero_is_trained():
    params = of_layer().init(variables(gamma=(0.0,) * 5))
    trained, fixed = jc.partition(params)
    x = gaussian(32, 8, seed=1)

    def loss(trained):
        out, _ = jc.lift(lambda v, x: Layer().apply(v, x, True, mutable=["batch_stats"]))(jc.combine(trained, fixed), x)
        return jnp.sum(jnp.sin(out) * gaussian(32, 5, seed=2))

    slope = jax.grad(loss)(trained)["params"]["fc_norm"]["scale"]
    assert np.all(np.isfinite(slope)) and np.all(np.abs(slope) > 1e-3)


# The way to a device.


class Net(nn.Module):
    """Convolutions, one of them depthwise, normalized with gammas of both signs."""

    @nn.compact
    def __call__(self, x, train=False):
        signs = lambda key, shape, dtype=jnp.float32: jnp.linspace(-1.0, 1.5, shape[0]).astype(dtype)
        for i, (features, groups) in enumerate([(4, 1), (8, 4)]):
            conv = nn.Conv(features, (3, 3), use_bias=False, feature_group_count=groups, name=f"conv{i}")
            norm = nn.BatchNorm(use_running_average=not train, momentum=0.8, scale_init=signs, name=f"norm{i}")
            x = nn.relu(norm(conv(x)))
        return nn.Dense(3, name="head")(x.mean((1, 2)))


IMAGES = gaussian(8, 6, 6, 3, seed=5)


def quick_jit(function):
    """Compiles with little optimisation: these programs run a few times."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


run = jc.lift(lambda v, x: Net().apply(v, x, True, mutable=["batch_stats"]))
infer = jc.lift(lambda v, x: Net().apply(v, x))


@functools.cache
def initial():
    return quick_jit(Net().init)(jax.random.key(1), IMAGES)


def by_number(path):
    """Names the normalization of ``params/conv0/kernel``."""
    number = path.split("/")[1].removeprefix("conv")
    return f"params/norm{number}/scale", f"batch_stats/norm{number}/var"


def trained(recipe, steps=6):
    """Trains a few steps; returns the parameters and the losses."""
    params = recipe.init(initial())

    @quick_jit
    def step(params, i):
        weights, fixed = jc.partition(params["params"])

        def loss(weights):
            tree = {"params": jc.combine(weights, fixed), "batch_stats": params["batch_stats"]}
            out, stats = run(tree, IMAGES)
            return jnp.mean((out - jnp.eye(3)[jnp.arange(8) % 3]) ** 2), stats

        (value, stats), slope = jax.value_and_grad(loss, has_aux=True)(weights)
        weights = jax.tree.map(lambda w, s: w - 0.3 * s, weights, slope)
        return recipe.update({"params": jc.combine(weights, fixed), **stats}, i + 1), value

    losses = []
    for i in range(steps):
        params, loss = step(params, jnp.int32(i))
        losses.append(float(loss))
    return params, losses


HEAD = quantize.weights("params/head/kernel", 8)
RECIPES = {
    "channels": lambda: jc.chain(quantize.weights("params/conv.*/kernel", 4), HEAD),
    "folded": lambda: jc.chain(folded(r"params/conv(\d)/kernel", r"norm\1", 4), HEAD),
    "pruned and folded": lambda: jc.chain(
        magnitude("params/conv.*/kernel", 0.3), folded("params/conv.*/kernel", by_number, 8), HEAD
    ),
    "pruned afterwards": lambda: jc.chain(
        quantize.weights("params/conv.*/kernel", 4), magnitude("params/conv.*/kernel", 0.3), HEAD
    ),
    "learned steps": lambda: jc.chain(quantize.lsq("params/conv.*/kernel", 4, symmetric=True), HEAD),
}


def of_rounding(leaf):
    """Returns the leaf that rounds, which is inside of a factor where the kernel is folded."""
    return leaf.weight if isinstance(leaf, Scaled) else leaf


SLOW = ("pruned afterwards", "learned steps")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in RECIPES])
@pytest.mark.sampled(3)
def test_the_codes_of_training_are_those_of_the_device(name):
    params, losses = trained(RECIPES[name]())
    assert losses[-1] < losses[0]
    graph, weights = jc.read(infer, params, IMAGES[:1])
    found, expected = quick_jit(lambda w, p: (graph(w, IMAGES), infer(p, IMAGES)))(weights, params)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    device = quantize.to_integers(graph, weights, quantize.calibrate(graph, weights, [IMAGES]))
    for path, layer in device.layers.items():
        name_of_layer = path.removeprefix("params/")
        leaf = params["params"][name_of_layer]["kernel"]
        codes, scale, _ = of_rounding(leaf).integers()
        if name_of_layer != "head" and not isinstance(leaf, Scaled):  # the normalization went into the scales
            gamma = params["params"][name_of_layer.replace("conv", "norm")]["scale"]
            codes = np.asarray(codes) * np.sign(gamma)
            assert len(np.unique(layer.scale)) == len(gamma)
        else:
            np.testing.assert_array_equal(layer.scale, jnp.broadcast_to(scale.reshape(-1), layer.scale.shape))
        np.testing.assert_array_equal(layer.kernel, codes)
        assert np.any(layer.kernel)


def test_a_learned_step_stays_one():
    params = quantize.lsq("params/conv.*/kernel", 4).init(initial())
    _, weights = jc.read(infer, params, IMAGES[:1])
    assert isinstance(weights["params/conv0"]["kernel"].weight, LearnedStep)


def test_training_on_the_device_goes_on_from_what_was_read():
    params, _ = trained(RECIPES["channels"](), steps=1)
    graph, weights = jc.read(infer, params, IMAGES[:1])
    grids = quantize.calibrate(graph, weights, [IMAGES])
    moves, fixed = jc.partition(weights)

    @quick_jit
    def slopes(moves):
        def loss(moves):
            return jnp.sum(quantize.on_device(graph, jc.combine(moves, fixed), grids)(IMAGES) ** 2)

        return jax.grad(loss)(moves)

    slope = slopes(moves)["params/conv0"]["kernel"]
    assert isinstance(slope, Scaled) and isinstance(slope.weight, FakeQuantized)
    assert np.all(np.isfinite(slope.weight.weight)) and np.any(slope.weight.weight)


# Errors.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: of_layer(1), "bits 1 for pattern 'params/(fc)/kernel' is not an integer from 2 to 8"),
        (lambda: of_layer(granularity="group"), "granularity 'group' for pattern"),
        (lambda: folded("w", "n", 4, epsilon=-1.0), "epsilon -1.0 for pattern 'w' is not a number of at least 0"),
        (lambda: folded("params/fc/kernel", "fc_nrm", 4).init(variables()), "has no batch_stats/fc_nrm/var (did you"),
        (lambda: folded("params/fc/kernel", r"\1_norm", 4).init(variables()), r"norm '\\1_norm' is no template for"),
        (lambda: folded("params/fd/kernel", "fc_norm", 4).init(variables()), "'params/fd/kernel' matches no parameter"),
        (
            lambda: folded("params/fc/kernel", lambda path: (None, path), 4).init(variables()),
            "params/fc/kernel of shape (8, 5) does not normalize the 5 outputs of params/fc/kernel",
        ),
        (
            lambda: of_layer().init(variables() | {"params": {"fc": {"kernel": jnp.full((8, 5), jnp.nan)}}}),
            "params/fc/kernel holds 40 entries that are not finite",
        ),
    ],
)
def test_errors_name_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_a_normalization_without_a_scale_folds_its_variance():
    tree = variables(gamma=(1.0,) * 5)
    expected = of_layer().init(tree)["params"]["fc"]["kernel"]
    transform = folded("params/fc/kernel", lambda _: (None, "batch_stats/fc_norm/var"), 4, epsilon=EPSILON)
    del tree["params"]["fc_norm"]["scale"]
    np.testing.assert_array_equal(dense(transform.init(tree)["params"]["fc"]["kernel"]), dense(expected))
