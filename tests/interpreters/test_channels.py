"""Checks which slices of which parameters belong together, by hand, for the ways in which networks are joined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

from experiments import models
from jaxcompress import adapters
from jaxcompress.interpreters.channels import channels
from tests.nets import NNXMLP, LinenResNet, LinenScan, LinenTied, NNXBlock


def ones(**shapes):
    return {name: jnp.ones(shape) for name, shape in shapes.items()}


def found(apply, params, *shapes, **options):
    """Returns the groups as ``{(path, axis): indices}`` in lists, by the number of channels."""
    example = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    made = channels(apply, params, *example, **options)
    return [{(m.path, m.axis): m.indices.tolist() for m in group.members} for group in made.groups], made.pinned


def places(groups):
    return [sorted(group) for group in groups]


def linen(module, *shape, **kwargs):
    x = jnp.zeros(shape)
    variables = module.init(jax.random.key(0), x, **kwargs)
    return lambda variables, x: module.apply(variables, x), variables


def single(count):
    return [[i] for i in range(count)]


# Products


def test_a_perceptron_by_hand():
    groups, pinned = found(
        lambda p, x: jax.nn.relu(x @ p["a"] + p["b"][None]) @ p["c"], ones(a=(3, 4), b=(4,), c=(4, 2)), (1, 3)
    )
    assert groups == [{("a", 1): single(4), ("b", 0): single(4), ("c", 0): single(4)}] and not pinned


def test_nnx_has_the_groups_of_linen():
    from flax import nnx

    apply, params = adapters.nnx.functional(NNXMLP(nnx.Rngs(0)))
    groups, _ = found(apply, params, (1, 9))
    assert places(groups) == [
        [("layers/0/bias", 0), ("layers/0/kernel", 1), ("layers/1/kernel", 0)],
        [("layers/1/bias", 0), ("layers/1/kernel", 1), ("layers/2/kernel", 0)],
    ]


def test_a_flattened_channel_is_many_inputs():
    groups, _ = found(*linen(models.LeNet5(), 1, 28, 28, 1), (1, 28, 28, 1))
    assert places(groups)[1] == [("params/conv2/bias", 0), ("params/conv2/kernel", 3), ("params/fc1/kernel", 0)]
    assert groups[1]["params/fc1/kernel", 0] == [list(range(c, 800, 50)) for c in range(50)]


def test_inputs_outputs_and_what_is_added_to_them_are_pinned():
    params = ones(a=(3, 3), b=(3, 3))
    assert found(lambda p, x: (x + x @ p["a"]) @ p["b"], params, (1, 3))[0] == []
    assert found(lambda p, x: x @ p["a"], params, (1, 3))[0] == []


# Convolutions


def test_depthwise_convolutions_are_passed_through():
    groups, _ = found(*linen(models.DSCNN(width=8, blocks=1, norm=False), 1, 49, 10, 1), (1, 49, 10, 1))
    stem = places(groups)[0]
    assert stem == [
        ("params/block1/depthwise/bias", 0),
        ("params/block1/depthwise/kernel", 3),
        ("params/block1/pointwise/kernel", 2),
        ("params/stem/bias", 0),
        ("params/stem/kernel", 3),
    ]


def conv(x, kernel, groups=1, strides=(1, 1)):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=numbers, feature_group_count=groups)


def test_a_depth_multiplier_ties_its_outputs():
    params = ones(a=(1, 1, 2, 3), b=(3, 3, 1, 6), c=(1, 1, 6, 2))
    groups, _ = found(lambda p, x: conv(conv(conv(x, p["a"]), p["b"], 3), p["c"]), params, (1, 4, 4, 2))
    assert groups == [{("a", 3): single(3), ("b", 3): [[0, 1], [2, 3], [4, 5]], ("c", 2): [[0, 1], [2, 3], [4, 5]]}]


def test_a_grouped_convolution_keeps_its_groups_alike():
    params = ones(a=(1, 1, 2, 4), b=(3, 3, 2, 6), c=(1, 1, 6, 2))
    groups, _ = found(lambda p, x: conv(conv(conv(x, p["a"]), p["b"], 2), p["c"]), params, (1, 4, 4, 2))
    assert groups == [
        {("a", 3): [[0, 2], [1, 3]], ("b", 2): single(2)},
        {("b", 3): [[0, 3], [1, 4], [2, 5]], ("c", 2): [[0, 3], [1, 4], [2, 5]]},
    ]


def test_residual_sums_tie_the_layers_of_a_stage():
    groups, pinned = found(*linen(models.ResNet8(norm=True), 1, 32, 32, 3), (1, 32, 32, 3))
    assert [len(next(iter(group.values()))) for group in groups] == [16, 16, 32, 32, 64, 64] and not pinned
    stage = {path for path, _ in groups[1]}
    norms = {f"{kind}/{layer}_norm/{part}" for layer in ("stem", "block1/conv2") for kind, part in NORM}
    assert norms <= stage and {"params/stem/kernel", "params/block2/shortcut/kernel"} <= stage


NORM = [("params", "scale"), ("params", "bias"), ("batch_stats", "mean"), ("batch_stats", "var")]


def test_a_residual_net_of_linen_has_no_channel_left_out():
    groups, pinned = found(*linen(LinenResNet(), 1, 8, 8, 3), (1, 8, 8, 3))
    assert groups and not pinned


# Joining and splitting


def test_a_concatenation_keeps_its_parts_apart():
    params = ones(a=(3, 2), b=(3, 4), c=(6, 1))
    groups, _ = found(lambda p, x: jnp.concatenate([x @ p["a"], x @ p["b"]], -1) @ p["c"], params, (1, 3))
    assert groups == [
        {("a", 1): single(2), ("c", 0): [[0], [1]]},
        {("b", 1): single(4), ("c", 0): [[2], [3], [4], [5]]},
    ]


def test_dense_connections_reach_every_later_layer():
    def apply(p, x):
        for name in "abc":
            x = jnp.concatenate([x, jax.nn.relu(x @ p[name])], -1)
        return x @ p["d"]

    groups, _ = found(apply, ones(a=(2, 3), b=(5, 3), c=(8, 3), d=(11, 1)), (1, 2))
    assert [sorted(group) for group in groups] == [
        [("a", 1), ("b", 0), ("c", 0), ("d", 0)],
        [("b", 1), ("c", 0), ("d", 0)],
        [("c", 1), ("d", 0)],
    ]


def test_a_gated_unit_ties_both_halves():
    def apply(p, x):
        a, b = jnp.split(x @ p["a"], 2, axis=-1)
        return (a * jax.nn.sigmoid(b)) @ p["b"]

    groups, _ = found(apply, ones(a=(3, 8), b=(4, 1)), (1, 3))
    assert groups == [{("a", 1): [[i, i + 4] for i in range(4)], ("b", 0): single(4)}]


def test_squeeze_and_excite_ties_the_gate_to_what_it_gates():
    def apply(p, x):
        x = conv(x, p["a"])
        gate = jax.nn.sigmoid(jax.nn.relu(x.mean((1, 2)) @ p["b"]) @ p["c"])
        return conv(x * gate[:, None, None], p["d"])

    groups, _ = found(apply, ones(a=(3, 3, 2, 8), b=(8, 2), c=(2, 8), d=(1, 1, 8, 1)), (1, 4, 4, 2))
    assert places(groups) == [[("a", 3), ("b", 0), ("c", 1), ("d", 2)], [("b", 1), ("c", 0)]]


def test_constants_go_with_the_channels_that_they_meet():
    mean, token = np.arange(4, dtype=np.float32), np.ones((1, 1, 4), np.float32)

    def apply(p, x):
        x = jnp.concatenate([jnp.tile(token, (2, 1, 1)), x @ p["a"] - mean[None, None]], 1)
        return jnp.stack([x, jnp.zeros_like(x)], 1).sum(1) @ p["b"]

    groups, pinned = found(apply, ones(a=(3, 4), b=(4, 1)), (2, 5, 3))
    assert groups == [{("a", 1): single(4), ("b", 0): single(4)}] and not pinned


def test_noise_from_a_key_among_the_parameters_goes_with_the_channels_that_it_meets():
    def apply(p, x):
        x = x @ p["a"]
        return jnp.where(jax.random.bernoulli(p["key"], 0.5, x.shape), x, 0.0) @ p["b"]

    groups, pinned = found(apply, ones(a=(3, 4), b=(4, 1)) | {"key": jax.random.key(0)}, (2, 3))
    assert groups == [{("a", 1): single(4), ("b", 0): single(4)}] and not pinned


def test_what_nothing_depends_on_pins_nothing():
    def apply(p, x):
        x = x @ p["a"]
        jnp.fft.fft(x)
        return jax.jit(lambda x: [jnp.sort(x), x @ p["b"]][1])(x)

    groups, pinned = found(apply, ones(a=(3, 4), b=(4, 1)), (2, 3))
    assert groups == [{("a", 1): single(4), ("b", 0): single(4)}] and not pinned


def test_new_statistics_that_are_dropped_pin_nothing():
    model = NNXBlock(nnx.Rngs(0))
    model.eval()
    still, _ = found(*adapters.nnx.functional(model), (2, 9, 7, 3))
    model.train()
    groups, pinned = found(*adapters.nnx.functional(model), (2, 9, 7, 3))
    assert places(groups) == places(still) != [] and not pinned


# Stacks and repetitions


def test_a_stack_ties_the_channels_of_its_values():
    def apply(p, x):
        return jnp.stack([x @ p["a"], x @ p["b"]], 1).sum(1) @ p["c"]

    groups, pinned = found(apply, ones(a=(3, 4), b=(3, 4), c=(4, 2)), (1, 3))
    assert groups == [{("a", 1): single(4), ("b", 1): single(4), ("c", 0): single(4)}] and not pinned


def test_a_stack_along_the_last_axis_that_is_joined_interleaves_channels():
    def apply(p, x):
        return jnp.stack([x @ p["a"], x @ p["b"]], -1).reshape(-1, 8) @ p["c"]

    groups, pinned = found(apply, ones(a=(3, 4), b=(3, 4), c=(8, 2)), (1, 3))
    pairs = [[2 * i, 2 * i + 1] for i in range(4)]
    assert groups == [{("a", 1): single(4), ("b", 1): single(4), ("c", 0): pairs}] and not pinned


def test_values_along_an_axis_have_the_channels_of_the_others():
    def apply(p, x):
        first, second = jnp.unstack(x @ p["a"], axis=1)
        return (first * jnp.tanh(second)) @ p["b"]

    groups, pinned = found(apply, ones(a=(3, 4), b=(4, 2)), (1, 2, 3))
    assert groups == [{("a", 1): single(4), ("b", 0): single(4)}] and not pinned


def test_values_along_the_axis_of_channels_are_pinned():
    groups, pinned = found(
        lambda p, x: sum(jnp.unstack(x @ p["a"], axis=1))[:, None] @ p["b"], ones(a=(3, 4), b=(1, 2)), (1, 3)
    )
    assert groups == [] and not pinned


def test_channels_that_are_repeated_go_with_what_is_made_of_them():
    groups, pinned = found(lambda p, x: jnp.tile(x @ p["a"], (2, 3)) @ p["b"], ones(a=(3, 2), b=(6, 1)), (1, 3))
    assert groups == [{("a", 1): single(2), ("b", 0): [[0, 2, 4], [1, 3, 5]]}] and not pinned


def test_what_is_repeated_from_one_entry_goes_with_whatever_it_meets():
    def apply(p, x):
        return (jnp.tile(p["gate"], (1, 4)) * (x @ p["a"])) @ p["b"]

    groups, pinned = found(apply, ones(gate=(1, 1), a=(3, 4), b=(4, 1)), (1, 3))
    assert groups == [{("a", 1): single(4), ("b", 0): single(4)}] and not pinned


def test_group_norm_and_layer_norm_are_passed_through():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.GroupNorm(num_groups=2, name="group")(nn.Dense(8, name="a")(x)))
            return nn.Dense(1, name="c")(nn.LayerNorm(name="layer")(nn.Dense(6, name="b")(x)))

    groups, pinned = found(*linen(Net(), 1, 3), (1, 3))
    by_count = {len(next(iter(group.values()))): group for group in groups}
    assert by_count[6]["params/layer/scale", 0] == single(6) and not pinned
    wide = next(group for group in groups if ("params/a/kernel", 1) in group)
    # The groups of the norm go whole, or every one of them loses as many.
    assert wide["params/a/kernel", 1] == wide["params/group/scale", 0] == wide["params/b/kernel", 0]
    assert sorted(sum(wide["params/a/kernel", 1], [])) == list(range(8))


def test_heads_or_their_dimensions():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            attention = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6, name="attention")
            return nn.Dense(1, name="out")(attention(x))

    groups, pinned = found(*linen(Net(), 1, 5, 4), (1, 5, 4))
    assert not pinned
    kinds = {tuple(sorted(group)): len(next(iter(group.values()))) for group in groups}
    query_key = tuple(
        sorted(
            (f"params/attention/{n}/{leaf}", a) for n in ("query", "key") for leaf, a in (("bias", 1), ("kernel", 2))
        )
    )
    assert kinds[query_key] == 3  # the dimensions in which queries meet keys
    heads = [group for group in groups if ("params/attention/query/kernel", 1) in group]
    assert len(heads) == 1 and ("params/attention/out/kernel", 0) in heads[0]


@pytest.mark.parametrize(("split", "indices"), [("first", [[0, 1, 2], [3, 4, 5]]), ("last", [[0, 3], [1, 4], [2, 5]])])
def test_an_axis_that_is_taken_apart_keeps_one_of_its_parts(split, indices):
    def apply(p, x):
        return jnp.einsum("bhd,hdo->bo", jax.nn.relu((x @ p["a"]).reshape(-1, 2, 3)), p["b"])

    groups, _ = found(apply, ones(a=(4, 6), b=(2, 3, 1)), (1, 4), split=split)
    assert groups[0]["a", 1] == indices


def test_tied_embeddings_are_one_group():
    module = LinenTied()
    tokens = jnp.zeros((1, 5), jnp.int32)
    variables = module.init(jax.random.key(0), tokens)
    made = channels(lambda v, t: module.apply(v, t), variables, tokens)
    assert any(member.path.endswith("embedding") and member.axis == 1 for g in made.groups for member in g.members)


def test_layers_in_a_scan_lose_the_same_channels():
    groups, pinned = found(*linen(LinenScan(), 1, 8), (1, 8))
    assert not pinned and all(axis > 0 for group in groups for path, axis in group if len(group[path, axis]) > 1)


# What is not known


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: jnp.sort(x, -1), "sort"),
        (lambda x: jnp.cumsum(x, -1), "cumsum"),
        (lambda x: lax.top_k(x, 4)[0], "top_k"),
    ],
)
def test_an_unknown_operation_pins_its_channels_and_is_named(function, name):
    groups, pinned = found(lambda p, x: function(x @ p["a"]) @ p["b"], ones(a=(3, 4), b=(4, 1)), (1, 3))
    assert groups == [] and name in pinned


def test_a_softmax_over_channels_pins_them():
    groups, _ = found(lambda p, x: jax.nn.softmax(x @ p["a"]) @ p["b"], ones(a=(3, 4), b=(4, 1)), (1, 3))
    assert groups == []


def test_branches_and_loops_tie_what_they_carry():
    def apply(p, x):
        x = lax.cond(x.sum() > 0, lambda x: x @ p["a"], lambda x: x @ p["b"], x)
        return x @ p["c"]

    groups, _ = found(apply, ones(a=(3, 4), b=(3, 4), c=(4, 1)), (1, 3))
    assert places(groups) == [[("a", 1), ("b", 1), ("c", 0)]]


def test_another_split_is_refused():
    with pytest.raises(ValueError, match="split 'middle' is not 'first' or 'last'"):
        channels(lambda p, x: x @ p, jnp.ones((2, 2)), jnp.ones((1, 2)), split="middle")  # pyright: ignore


def test_indices_are_arrays_of_channels_by_entries():
    made = channels(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], ones(a=(3, 4), b=(4, 1)), jnp.ones((1, 3)))
    (group,) = made.groups
    assert group.channels == 4 and group.name == "a:1"
    assert all(isinstance(member.indices, np.ndarray) and member.indices.shape == (4, 1) for member in group.members)


@pytest.mark.parametrize("order", ["bq3hd", "bqh3d"])
def test_heads_are_found_in_a_product_of_queries_keys_and_values(order):
    def apply(p, x):
        sizes = {"b": 1, "q": 5, "3": 3, "h": 4, "d": 2}
        qkv = jnp.moveaxis((x @ p["a"]).reshape([sizes[axis] for axis in order]), order.index("3"), 0)
        mixed = jnp.einsum("bqhd,bkhd,bkhe->bqhe", qkv[0], qkv[1], qkv[2])
        return mixed.reshape(1, 5, 8) @ p["b"]

    groups, pinned = found(apply, ones(a=(6, 24), b=(8, 1)), (1, 5, 6))
    numbers = np.moveaxis(np.arange(24).reshape((3, 4, 2) if order == "bq3hd" else (4, 3, 2)), order.index("h") - 2, 0)
    assert [group["a", 1] for group in groups] == [numbers.reshape(4, 6).tolist()] and not pinned
    assert groups[0]["b", 0] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_channels_of_zeros_that_a_shortcut_appends_go_with_what_they_meet():
    def apply(p, x):
        x = x @ p["a"]
        return (jnp.pad(x, ((0, 0), (0, 2))) + jax.nn.relu(x) @ p["b"]) @ p["c"]

    groups, _ = found(apply, ones(a=(3, 2), b=(2, 4), c=(4, 1)), (1, 3))
    assert groups[1] == {("b", 1): [[2], [3]], ("c", 0): [[2], [3]]}
    assert groups[0] == {("a", 1): [[0], [1]], ("b", 0): [[0], [1]], ("b", 1): [[0], [1]], ("c", 0): [[0], [1]]}


def test_what_a_carry_that_starts_from_zeros_meets_is_tied_in_every_turn():
    def recurrent(params, x):
        def turn(h, x):
            h = jnp.tanh(x @ params["in"] + h @ params["h"])
            return h, None

        h, _ = lax.scan(turn, jnp.zeros((2, 5)), x)
        return h @ params["out"]

    params = {"in": jnp.ones((3, 5)), "h": jnp.ones((5, 5)), "out": jnp.ones((5, 4))}
    for group in channels(recurrent, params, jnp.ones((7, 2, 3))).groups:
        cut = {(member.path, member.axis) for member in group.members}
        assert ("h", 0) not in cut or ("h", 1) in cut


def test_what_shares_a_channel_with_constants_in_a_reshape_is_pinned():
    def apply(params, x):
        rows = jnp.concatenate([jnp.zeros((2, 2)), x @ params["a"]], 1).reshape(2, 2, 4)
        return jnp.einsum("bij,jk->bik", rows, params["b"])

    params = {"a": jnp.ones((3, 6)), "b": jnp.ones((4, 5))}
    (group,) = channels(apply, params, jnp.ones((2, 3))).groups
    # Rows of zeros, zeros, a0, a1 and of a2 to a5: the first two places hold constants.
    assert [(member.path, member.indices.tolist()) for member in group.members] == [
        ("a", [[0, 4], [1, 5]]),
        ("b", [[2], [3]]),
    ]
