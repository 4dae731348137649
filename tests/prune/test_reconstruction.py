"""Checks pruning layer by layer: what each layer is given, counts, groups, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxcompress import chain, densify, lift, quantize
from jaxcompress.arrays import Masked
from jaxcompress.numerics import sparsegpt as numerics
from jaxcompress.prune import Blocks, Runs, Single, magnitude, optimal_brain_surgeon, sparsegpt, wanda


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3), strides=2, name="conv")(x))
        x = nn.relu(nn.Conv(6, (3, 3), feature_group_count=2, name="grouped")(x))
        return nn.Dense(4, name="fc")(x.reshape(len(x), -1))


@functools.cache
def model():
    x = jax.random.normal(jax.random.key(0), (12, 6, 6, 2))
    return Net().init(jax.random.key(1), x)["params"], (x[:8], x[8:])


def apply(params, x):
    return lift(Net().apply)({"params": params}, x)


def patches_of(x, stride):
    """Gathers 3 x 3 patches with the padding of SAME in numpy, entries in the order of the kernel."""
    height = x.shape[1]
    places = -(-height // stride)
    total = max((places - 1) * stride + 3 - height, 0)
    x = np.pad(x, ((0, 0), (total // 2, total - total // 2), (total // 2, total - total // 2), (0, 0)))
    rows = [
        x[b, i * stride : i * stride + 3, j * stride : j * stride + 3].reshape(-1)
        for b in range(len(x))
        for i in range(places)
        for j in range(places)
    ]
    return np.array(rows)


@pytest.mark.slow
def test_wanda_ranks_by_weight_times_the_norm_of_its_input_within_an_output():
    params, batches = model()
    pruned = wanda("(conv|fc)/kernel", 0.5, apply, batches).init(params)
    x = np.concatenate([np.asarray(b) for b in batches])
    kernel = np.asarray(params["conv"]["kernel"])
    scores = np.abs(kernel.reshape(18, 6)) * np.linalg.norm(patches_of(x, 2), axis=0)[:, None]
    for o in range(6):
        expected = np.zeros(18, bool)
        expected[np.argsort(-scores[:, o])[:9]] = True
        np.testing.assert_array_equal(pruned["conv"]["kernel"].mask[..., o].reshape(-1), expected)
    # The second is ranked by what the pruned first gives.
    dense_first = {**params, "conv": densify(pruned)["conv"]}
    _, state = Net().apply({"params": dense_first}, jnp.asarray(x), capture_intermediates=True)
    inputs = jax.nn.relu(state["intermediates"]["grouped"]["__call__"][0]).reshape(12, -1)
    scores = np.abs(params["fc"]["kernel"]) * np.linalg.norm(inputs, axis=0)[:, None]
    for o in range(4):
        expected = np.zeros(54, bool)
        expected[np.argsort(-scores[:, o])[:27]] = True
        np.testing.assert_array_equal(pruned["fc"]["kernel"].mask[:, o], expected)
    kept, weight = np.asarray(pruned["fc"]["kernel"].mask), np.asarray(params["fc"]["kernel"])
    np.testing.assert_array_equal(pruned["fc"]["kernel"].dense(), np.where(kept, weight, 0))


def test_sparsegpt_is_given_the_moment_of_the_patches_group_by_group():
    params, batches = model()
    pruned = sparsegpt("(conv|grouped)/kernel", 0.5, apply, batches).init(params)
    x = np.concatenate([np.asarray(b) for b in batches])
    rows = patches_of(x, 2)
    weight, mask = numerics.sparsegpt(params["conv"]["kernel"].reshape(18, 6), jnp.asarray(rows.T @ rows), 0.5)
    np.testing.assert_array_equal(pruned["conv"]["kernel"].mask.reshape(18, 6), mask)
    np.testing.assert_allclose(pruned["conv"]["kernel"].weight.reshape(18, 6), weight, atol=1e-4)
    first = {**params, "conv": densify(pruned)["conv"]}
    _, state = Net().apply({"params": first}, jnp.asarray(x), capture_intermediates=True)
    given = np.maximum(np.asarray(state["intermediates"]["conv"]["__call__"][0]), 0)
    for g in range(2):
        rows = patches_of(given[..., 3 * g : 3 * g + 3], 1)
        kernel = params["grouped"]["kernel"][..., 3 * g : 3 * g + 3].reshape(27, 3)
        weight, mask = numerics.sparsegpt(kernel, jnp.asarray(rows.T @ rows), 0.5)
        leaf = jax.tree.map(lambda a: a[..., 3 * g : 3 * g + 3].reshape(27, 3), pruned["grouped"]["kernel"])  # noqa: B023
        np.testing.assert_array_equal(leaf.mask, mask)
        np.testing.assert_allclose(leaf.weight, weight, atol=1e-3)


@pytest.mark.parametrize("make", [wanda, sparsegpt, optimal_brain_surgeon])
def test_a_kernel_used_transposed_is_pruned_as_the_one_that_it_is_there(make):
    w, x = jax.random.normal(jax.random.key(2), (6, 8)), jax.random.normal(jax.random.key(3), (20, 8))
    turned = make("w", 0.5, lambda p, x: x @ p["w"].T, [x]).init({"w": w})["w"]
    plain = make("w", 0.5, lambda p, x: x @ p["w"], [x]).init({"w": w.T})["w"]
    np.testing.assert_array_equal(turned.mask, plain.mask.T)
    np.testing.assert_allclose(turned.weight, plain.weight.T, rtol=1e-6)


@pytest.mark.parametrize("make", [wanda, sparsegpt, optimal_brain_surgeon])
def test_counts_are_exact_and_the_mask_stands(make):
    params, batches = model()
    transform = make(".*kernel", 0.6, apply, batches)
    pruned = transform.init(params)
    for name, size in (("conv", 108), ("grouped", 162), ("fc", 216)):
        leaf = pruned[name]["kernel"]
        rows = np.asarray(leaf.mask).reshape(-1, leaf.shape[-1])
        if make is sparsegpt:
            groups = 2 if name == "grouped" else 1
            assert rows.sum() == groups * (size // groups - round(0.6 * size / groups))
        else:
            assert set(rows.sum(0)) == {len(rows) - round(0.6 * len(rows))}
        assert isinstance(leaf, Masked) and not np.asarray(leaf.weight)[~np.asarray(leaf.mask)].any()
    again = transform.init(pruned)
    jax.tree.map(np.testing.assert_array_equal, again, pruned)
    assert transform.update(pruned, 3) is pruned


@pytest.mark.slow
def test_what_is_made_up_for_keeps_the_outputs_nearer_than_magnitude():
    params, batches = model()
    x = jnp.concatenate(batches)
    dense = apply(params, x)
    error = lambda tree: float(jnp.mean((apply(tree, x) - dense) ** 2))
    by_size = error(magnitude(".*kernel", 0.6).init(params))
    assert error(sparsegpt(".*kernel", 0.6, apply, batches).init(params)) < by_size
    assert error(optimal_brain_surgeon(".*kernel", 0.6, apply, batches).init(params)) < by_size


def test_runs_along_the_inputs():
    params, batches = model()
    for make in (wanda, sparsegpt):
        pruned = make("fc/kernel", 0.5, apply, batches, structure=Runs(2)).init(params)
        runs = np.asarray(pruned["fc"]["kernel"].mask).T.reshape(-1, 2)
        assert set(runs.sum(1)) == {1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, b: wanda("fc/kernel", 1.5, apply, b), "sparsity 1.5 for pattern 'fc/kernel'"),
        (lambda p, b: wanda("fc/kernel", 0.5, apply, []), "at least one batch"),
        (lambda p, b: wanda("fd/kernel", 0.5, apply, b).init(p), "'fd/kernel' matches no parameter"),
        (lambda p, b: wanda("fc/bias", 0.5, apply, b).init(p), "no product or convolution with fc/bias"),
        (lambda p, b: wanda("fc/kernel", 0.5, apply, b, structure=Runs(4)).init(p), "runs of 4 .* fc/kernel"),
        (lambda p, b: wanda("fc/kernel", 0.5, apply, [b[0] * jnp.inf]).init(p), "inputs of fc/kernel are not finite"),
        (lambda p, b: wanda("w", 0.5, lambda p, x: x, b).init({"w": jnp.arange(3)}), "w of dtype int32"),
        (
            lambda p, b: wanda(".*", 0.5, apply, b).init(quantize.weights("fc/kernel", 4).init(p)["fc"]),
            "kernel is already",
        ),
        (lambda p, b: sparsegpt("fc/kernel", 0.5, apply, b, damping=0.0), "damping 0.0"),
        (lambda p, b: sparsegpt("fc/kernel", 0.5, apply, b, structure=Runs(2, -1)), "axis -2, the inputs, not -1"),
        (lambda p, b: sparsegpt("fc/kernel", 0.5, apply, b, structure=Blocks(2, 2)), "neither Single"),
        (lambda p, b: optimal_brain_surgeon("fc/kernel", 0.5, apply, b, damping=-1.0), "damping -1.0"),
        (
            lambda p, b: sparsegpt(
                "w", 0.5, lambda p, x: jax.lax.conv_transpose(x, p["w"], (2,), "SAME"), [jnp.ones((2, 5, 3))]
            ).init({"w": jnp.ones((2, 3, 3))}),
            "w is not used as a kernel whose inputs are known: in a transposed convolution",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    params, batches = model()
    with pytest.raises(ValueError, match=message):
        make(params, batches)


def test_a_later_transform_takes_what_is_pruned():
    params, batches = model()
    both = chain(sparsegpt("fc/kernel", 0.5, apply, batches, structure=Single()), quantize.weights("fc/kernel", 8))
    assert isinstance(both.init(params)["fc"]["kernel"].weight, Masked)
