"""Holds models of which channels are removed to the same models with zeros, and to smaller models built anew."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from experiments import models
from jaxcompress import arrays, channels, combine, lift, macs, partition, smaller
from jaxcompress.arrays import Masked, Sliced, densify
from jaxcompress.prune import mask, remove, remove_from_state, shrunk
from tests.channel_nets import CHANNEL_NETS, linen
from tests.nets import LinenMLP


def half(found, fraction=0.5, seed=0):
    """Draws which channels of each group stay."""
    rng = np.random.default_rng(seed)
    return {
        i: np.isin(np.arange(group.channels), rng.permutation(group.channels)[int(group.channels * fraction) :])
        for i, group in enumerate(found.groups)
        if group.channels > 1
    }


def close(a, b, tolerance=2e-5):
    scale = max(1e-6, float(np.max(np.abs(b))))
    np.testing.assert_allclose(a, b, atol=tolerance * scale, rtol=0)


def weights_of(tree):
    """Returns a tree of masked or sliced leaves, or gradients in their places, without these."""
    inner = lambda leaf: leaf.weight if isinstance(leaf, Masked | Sliced) else leaf
    return jax.tree.map(inner, tree, is_leaf=arrays.is_compressed)


def run(apply, params, x):
    """Returns the output, and the gradients of a sum of it that tells its entries apart."""

    @jax.jit
    def derived(trained, fixed):
        def loss(trained):
            out = lift(apply)(combine(trained, fixed), x)
            return jnp.sum(out * jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)), out

        (_, out), grads = jax.value_and_grad(loss, has_aux=True)(trained)
        return out, grads

    return derived(*partition(params))


SLOW = {"linen_resnet", "linen_resnet_identity", "linen_vit", "linen_fused_attention", "linen_normalized", "nnx_scan"}
SLOW |= {"nnx_tokens"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CHANNEL_NETS]
)
@pytest.mark.sampled(3)
def test_a_model_without_channels_equals_the_one_with_zeros(name):
    net = CHANNEL_NETS[name]()
    found = channels(net.apply, net.params, net.x)
    kept = half(found)
    assert kept and not found.pinned
    cut = jax.jit(lambda params: remove(params, found, kept))
    small, zeroed = cut(net.params), mask(net.params, found, kept)
    jax.tree.map(np.testing.assert_array_equal, *jax.jit(densify)((small, zeroed)))
    out, grads = run(net.apply, small, net.x)
    expected, of_zeroed = run(net.apply, zeroed, net.x)
    close(out, expected)
    expected_grads = cut(weights_of(of_zeroed))
    largest = max(float(np.max(np.abs(g))) for g in jax.tree.leaves(expected_grads))
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * largest, rtol=0)
    assert macs(lift(net.apply), small, net.x) < 0.75 * macs(net.apply, net.params, net.x)


# Multiply-adds, by hand


def counted(net, keeping):
    """Returns the multiply-adds of what is left when the first `keeping` of each group of that many channels stay."""
    found = channels(net.apply, net.params, net.x)
    kept = {i: np.arange(group.channels) < keeping[group.channels] for i, group in enumerate(found.groups)}
    return macs(lift(net.apply), remove(net.params, found, kept), net.x)


def test_multiply_adds_of_a_perceptron():
    net = linen(LinenMLP((8, 6, 3)), 2, 5)
    assert counted(net, {8: 5, 6: 1}) == 2 * (5 * 5 + 5 * 1 + 1 * 3)


def test_multiply_adds_of_lenet5():
    net = CHANNEL_NETS["linen_lenet5"]()
    expected = 24 * 24 * 25 * 3 + 8 * 8 * 25 * 3 * 5 + 16 * 5 * 7 + 7 * 3
    assert counted(net, {4: 3, 6: 5, 8: 7}) == expected


def test_multiply_adds_of_a_depthwise_separable_net():
    net = linen(models.MobileNetV1(alpha=0.25, blocks=((16, 1), (24, 1))), 1, 8, 8, 3)  # 8, 4 and 6 channels
    per_place = 9 * 3 * 5 + 9 * 5 + 5 * 3 + 9 * 3 + 3 * 2
    assert counted(net, {8: 5, 4: 3, 6: 2}) == 16 * per_place + 2 * 2


def test_multiply_adds_of_attention():
    net = CHANNEL_NETS["linen_fused_attention"]()  # 3 heads of 2, a width of 6, 5 tokens, a batch of 2
    width, heads, tokens = 4, 2, 5
    products = 4 * 5 * width + tokens * width * 3 * heads * 2 + 2 * heads * tokens * tokens * 2
    assert counted(net, {6: width, 3: heads}) == 2 * (products + tokens * heads * 2 * width + width * 2)


def test_multiply_adds_of_a_transformer_with_a_class_token():
    net = CHANNEL_NETS[
        "nnx_tokens"
    ]()  # 2 heads of 4, 12 hidden units, a width of 8; 4 patches and a token, a batch of 2
    width, heads, hidden = 5, 1, 7
    products = 5 * width * 3 * heads * 4 + 2 * heads * 5 * 5 * 4 + 5 * heads * 4 * width
    expected = 2 * (4 * 12 * width + products + 2 * 5 * width * hidden + width * 3)
    assert counted(net, {8: width, 2: heads, 12: hidden, 4: 4}) == expected


def test_layers_in_a_scan_multiply_what_is_left():
    net = CHANNEL_NETS["linen_scan"]()
    assert counted(net, {6: 4, 8: 3}) == 2 * (5 * 4 + 3 * (4 * 3 + 3 * 4) + 4 * 2)


# What is left by itself


def test_a_perceptron_built_anew_computes_the_same():
    net = linen(models.MLP((8, 6), classes=3), 2, 4, 4, 1)
    found = channels(net.apply, net.params, net.x)
    kept = {0: np.arange(8) % 3 > 0, 1: np.arange(6) % 2 == 0}
    left = shrunk(remove(net.params, found, kept))
    built = models.MLP((5, 3), classes=3)
    assert jax.tree.map(jnp.shape, left) == jax.tree.map(jnp.shape, built.init(jax.random.key(0), net.x))
    close(built.apply(left, net.x), net.apply(densify(mask(net.params, found, kept)), net.x), 1e-6)


@pytest.mark.slow
def test_a_residual_net_built_anew_computes_the_same():
    net = linen(models.ResNet8(width=4), 1, 8, 8, 3)
    found = channels(net.apply, net.params, net.x)
    left = shrunk(jax.jit(lambda params: remove(params, found, half(found)))(net.params))
    built = models.ResNet8(width=2)
    assert jax.tree.map(jnp.shape, left) == jax.tree.map(jnp.shape, built.init(jax.random.key(0), net.x))
    zeroed = densify(mask(net.params, found, half(found)))
    close(jax.jit(built.apply)(left, net.x), jax.jit(net.apply)(zeroed, net.x), 1e-5)


def test_a_norm_of_layers_goes_on_to_divide_by_the_number_that_there_was():
    def apply(params, x):
        return nn.LayerNorm(use_bias=False).apply({"params": {"scale": params["scale"]}}, x @ params["a"]) @ params["b"]

    params = {"a": jnp.eye(3, 4), "scale": jnp.ones(4), "b": jnp.eye(4, 2)}
    found = channels(apply, params, x := jnp.float32([[3.0, 6.0, -2.0]]))
    assert [group.summed for group in found.groups] == [True]
    out = lift(apply)(remove(params, found, {0: np.arange(4) < 2}), x)
    values = np.float64([3, 6, 0, 0])  # a zero for each that is removed
    close(out, ((values - values.mean()) / np.sqrt(values.var() + 1e-6))[None, :2], 1e-6)


def test_only_what_is_summed_over_is_said_to_be():
    net = linen(models.MLP((8,), classes=3, norm=True), 2, 4, 4, 1)
    assert [group.summed for group in channels(net.apply, net.params, net.x).groups] == [False]


def test_the_smaller_model_is_a_function_of_what_is_left():
    net = CHANNEL_NETS["linen_mobilenet"]()
    found = channels(net.apply, net.params, net.x)
    removed = remove(net.params, found, half(found))
    function, left = smaller(net.apply, removed)
    assert not any(map(arrays.is_compressed, jax.tree.leaves(left, is_leaf=arrays.is_compressed)))
    close(jax.jit(function)(left, net.x), jax.jit(lift(net.apply))(removed, net.x), 1e-6)
    again = channels(function, left, net.x)
    assert [group.channels for group in again.groups] == [4, 2, 3] and not again.pinned
    further = remove(left, again, half(again))
    assert macs(lift(function), further, net.x) < 0.6 * macs(function, left, net.x)
    run_again = jax.jit(lift(function))
    close(run_again(further, net.x), run_again(mask(left, again, half(again)), net.x), 1e-6)


def test_channels_are_removed_again_from_what_is_left():
    net = linen(LinenMLP((8, 6, 3)), 2, 5)
    found = channels(net.apply, net.params, net.x)
    first, second = np.arange(8) > 2, np.arange(8) % 2 == 0
    twice = remove(remove(net.params, found, {0: first}), found, {0: second})
    once = remove(net.params, found, {0: first & second})
    assert jax.tree.structure(twice) == jax.tree.structure(once)
    jax.tree.map(np.testing.assert_array_equal, twice, once)


# Training goes on


def test_statistics_of_a_batch_and_dropout_are_those_of_the_model_with_zeros():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(6, (3, 3))(x)))
            return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(nn.Dense(8)(x.mean((1, 2)))))

    net, key = linen(_Inference(Net()), 2, 5, 5, 3), jax.random.key(7)
    params = {name: tree["net"] for name, tree in net.params.items()}
    found = channels(lambda params, x: Net().apply(params, x, False), params, net.x)
    kept = half(found)
    apply = lambda params, x: Net().apply(params, x, True, mutable=["batch_stats"], rngs={"dropout": key})
    small = remove(params, found, kept)
    (out, moved), (expected, of_zeroed) = (lift(apply)(p, net.x) for p in (small, mask(params, found, kept)))
    close(out, expected)
    # New statistics are cut as those were that went in.
    assert jax.tree.structure(moved["batch_stats"]) == jax.tree.structure(small["batch_stats"])
    statistics = remove(params | of_zeroed, found, kept)["batch_stats"]
    for a, b in zip(jax.tree.leaves(moved["batch_stats"]), jax.tree.leaves(statistics), strict=True):
        close(a, b)
    in_training = channels(apply, params, net.x)  # as they are found in inference
    assert [group.name for group in in_training.groups] == [group.name for group in found.groups]
    full, left = macs(apply, params, net.x), macs(lift(apply), small, net.x)
    assert left == 2 * (25 * 9 * 3 * 3 + 3 * 4 + 4 * 2) and full == 2 * (25 * 9 * 3 * 6 + 6 * 8 + 8 * 2)


def test_training_of_a_module_that_returns_its_state_goes_on_with_what_is_left():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv, self.norm = nnx.Conv(3, 6, (3, 3), rngs=rngs), nnx.BatchNorm(6, rngs=rngs)
            self.head = nnx.Linear(6, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.sigmoid(self.norm(nnx.sigmoid(self.conv(x)))).mean((1, 2)))

    graph, state = nnx.split(Net(nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(1), (4, 5, 5, 3))

    def apply(state, x):
        model = nnx.merge(graph, state)
        return model(x), nnx.state(model)

    found = channels(apply, state, x)
    assert [group.name for group in found.groups] == ["conv/bias:0"] and not found.pinned
    kept = {0: np.bool_([True, False, True, True, False, False])}
    small, zeroed = remove(state, found, kept), mask(state, found, kept)
    step = jax.jit(lift(apply))
    for _ in range(3):
        (out, small), (expected, whole) = step(small, x), step(zeroed, x)
        close(out, expected)
        cut = remove(whole, found, kept)
        assert jax.tree.structure(small) == jax.tree.structure(cut)
        for a, b in zip(jax.tree.leaves(small), jax.tree.leaves(cut), strict=True):
            close(a, b)
        zeroed = mask(whole, found, kept)
    function, weights = smaller(apply, small)
    _, after = function(weights, x)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, weights)


class _Inference(nn.Module):
    net: nn.Module

    @nn.compact
    def __call__(self, x):
        return self.net(x, False)


@pytest.mark.parametrize(
    "optimiser",
    [
        optax.adamw(1e-2),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1e-2, momentum=0.9, nesterov=True)),
        optax.multi_transform(
            {"a": optax.adam(1e-2), "b": optax.sgd(1e-2, momentum=0.9)},
            lambda params: jax.tree_util.tree_map_with_path(lambda k, _: "a" if "fc1" in str(k) else "b", params),
        ),
    ],
    ids=["adamw", "momentum", "two"],
)
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_the_state_of_an_optimiser_loses_the_same_slices(optimiser, masked):
    net = linen(LinenMLP((4, 3)), 2, 5)
    params = net.params
    if masked:
        params = jax.tree.map(lambda w: Masked(w, w > -0.3) if w.ndim > 1 else w, params)
    found = channels(net.apply, params, net.x)
    kept = {found.groups[0].name: np.bool_([True, False, False, True])}
    trained, fixed = partition(params)
    state, moved = optimiser.init(trained), trained

    def update(*args):
        with jax.numpy_dtype_promotion("standard"):  # Adam counts in integers
            return jax.jit(optimiser.update)(*args)

    for i in range(3):
        grads = jax.tree.map(lambda w, i=i: jnp.cos(w + i), moved)
        updates, state = update(grads, state, moved)
        moved = optax.apply_updates(moved, updates)
    before = combine(moved, fixed)
    left = remove_from_state(state, before, found, kept)
    small = partition(remove(before, found, kept))[0]
    assert jax.tree.structure(left) == jax.tree.structure(optimiser.init(small))
    assert jax.tree.map(jnp.shape, left) == jax.tree.map(jnp.shape, optimiser.init(small))
    # One more step of the smaller model is that of the larger one, at what stays.
    cut = lambda tree: partition(remove(combine(tree, fixed), found, kept))[0]
    grads = jax.tree.map(jnp.sin, moved)
    if "clip" not in str(optimiser) and not isinstance(left[0], optax.EmptyState):
        after = optax.apply_updates(moved, update(grads, state, moved)[0])
        stepped = optax.apply_updates(small, update(cut(grads), left, small)[0])
        for a, b in zip(jax.tree.leaves(stepped), jax.tree.leaves(cut(after)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_sums_over_rows_are_no_state_slice_by_slice():
    net = linen(LinenMLP((4, 3)), 2, 5)
    found = channels(net.apply, net.params, net.x)
    state = {"rows": jax.tree.map(lambda w: w.sum(0), net.params)}
    with pytest.raises(ValueError, match=r"rows/params/fc1/bias of shape \(\) .* is no slice|rows/params/fc1/kernel"):
        remove_from_state(state, net.params, found, {0: np.bool_([True, True, False, True])})


# What is refused


def perceptron():
    net = linen(LinenMLP((4, 3)), 2, 5)
    return net.params, channels(net.apply, net.params, net.x)


@pytest.mark.parametrize("function", [remove, mask])
@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({0: np.zeros(4, bool)}, "would remove all 4 channels of params/fc1/bias:0"),
        ({0: np.ones(3, bool)}, r"must be bools of shape \(4,\).*has shape \(3,\)"),
        ({0: np.ones(4)}, "dtype float64"),
        ({1: np.ones(4, bool)}, "group 1 is not one of the 1 groups"),
        ({-1: np.ones(4, bool)}, "group -1 is not one of"),
        ({"params/fc1/bias": np.ones(4, bool)}, "did you mean 'params/fc1/bias:0'"),
    ],
)
def test_what_is_no_selection_is_refused(function, kept, message):
    params, found = perceptron()
    with pytest.raises(ValueError, match=message):
        function(params, found, kept)


def test_other_parameters_are_refused():
    params, found = perceptron()
    with pytest.raises(ValueError, match="is not what the channels of params/fc1/bias:0 are slices of"):
        remove({"params": {"fc2": params["params"]["fc2"]}}, found, {0: np.arange(4) < 2})


def test_a_name_of_two_groups_is_refused():
    def apply(params, x):
        a, b = x @ params["a"], x @ params["a"]
        return a[:, :2] @ params["b"] + b[:, 2:] @ params["c"]

    params = {"a": jnp.ones((3, 6)), "b": jnp.ones((2, 1)), "c": jnp.ones((4, 1))}
    found = channels(apply, params, jnp.ones((1, 3)))
    assert [group.name for group in found.groups] == ["a:1", "a:1"]
    with pytest.raises(ValueError, match=r"'a:1' is the name of the groups \[0, 1\]"):
        remove(params, found, {"a:1": np.ones(2, bool)})


def test_nothing_removed_is_nothing_changed():
    params, found = perceptron()
    for function in (remove, mask):
        same = function(params, found, {0: np.ones(4, bool)})
        assert jax.tree.structure(same) == jax.tree.structure(params)


def test_an_unknown_operation_keeps_its_channels():
    def apply(params, x):
        return jnp.sort(x @ params["a"], -1) @ params["b"]

    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 1))}
    found = channels(apply, params, jnp.ones((1, 3)))
    assert found.groups == () and found.pinned == {"sort": 1}
