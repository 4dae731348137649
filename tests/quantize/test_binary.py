"""Checks the transforms of binary and ternary weights: clipping, drawn signs, pruned weights, packing, errors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import chain, combine, densify, pack, partition
from jaxcompress.arrays import Binary, Clustered, Masked, Quantized, dense
from jaxcompress.export.packed import from_bytes, to_bytes
from jaxcompress.factorize import svd
from jaxcompress.paths import select
from jaxcompress.prune import magnitude
from jaxcompress.quantize import binary, ternary, weights
from jaxcompress.transform import trainable

dense_jit = jax.jit(dense)
TRANSFORMS = {
    "binaryconnect": lambda: binary("w"),
    "xnor": lambda: binary("w", "xnor"),
    "twn": lambda: ternary("w"),
    "ttq": lambda: ternary("w", "ttq"),
}
EVERY_TRANSFORM = pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)


def gaussian(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def same_bits(a: jax.Array, b: jax.Array) -> bool:
    return a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


# BinaryConnect.


def test_update_clips_the_real_weights_of_its_own_leaves():
    transform = binary("w")
    params = transform.init({"w": jnp.array([-3.0, -0.5, 0.0, 2.0]), "v": jnp.array([3.0])})
    params = jax.jit(transform.update)(params, 0)
    assert params["w"].weight.tolist() == [-1, -0.5, 0, 1]
    assert params["v"].tolist() == [3]


def test_clipping_reaches_below_masks():
    transform = chain(magnitude("w", 0.5), magnitude("w", 0.0, name="again"), binary("w"))
    params = transform.update(transform.init({"w": jnp.array([-3.0, -0.5, 0.2, 2.0])}), 0)
    assert params["w"].weight.weight.weight.tolist() == [-1, -0.5, np.float32(0.2), 1]
    assert dense(params["w"]).tolist() == [-1, 0, 0, 1]


def test_drawn_signs_follow_the_key_the_step_and_the_place():
    transform = chain(binary("a", stochastic=True), binary("b", stochastic=True))
    params = transform.init({"a": jnp.zeros((20, 20)), "b": jnp.zeros((20, 20))})
    assert np.all(dense(params["a"]) == 1)  # deterministic until the first update
    update = jax.jit(lambda step, key: densify(transform.update(params, step, key=key)))
    first, again = update(1, jax.random.key(1)), update(1, jax.random.key(1))
    later, other = update(2, jax.random.key(1)), update(1, jax.random.key(2))
    assert same_bits(first["a"], again["a"])
    for drawn in (later, other):
        assert 100 < int(jnp.sum(first["a"] != drawn["a"])) < 300
    both = binary("a|b", stochastic=True)
    drawn = densify(
        both.update(both.init({"a": jnp.zeros((20, 20)), "b": jnp.zeros((20, 20))}), 0, key=jax.random.key(0))
    )
    assert not same_bits(drawn["a"], drawn["b"])


def test_drawn_signs_average_to_the_clipped_weight():
    weight = jnp.broadcast_to(jnp.array([-2.0, -0.5, 0.25, 0.9]), (5000, 4))
    transform = binary("w", stochastic=True)
    params = transform.update(transform.init({"w": weight}), 0, key=jax.random.key(0))
    np.testing.assert_allclose(np.mean(dense(params["w"]), 0), [-1, -0.5, 0.25, 0.9], atol=0.06)
    assert np.all(dense(params["w"])[:, 0] == -1)


def test_the_packed_form_of_drawn_signs_is_the_deterministic_one():
    transform = binary("w", stochastic=True)
    weight = gaussian(30, 20) / 3
    params = transform.update(transform.init({"w": weight}), 0, key=jax.random.key(0))
    assert not same_bits(dense(params["w"]), dense(pack(params)["w"]))
    assert same_bits(dense(pack(params)["w"]), jnp.where(weight >= 0, 1.0, -1.0).astype(jnp.float32))


def test_drawn_signs_keep_the_structure_and_trace_once():
    transform, traces = binary("w", stochastic=True), []
    params = transform.init({"w": gaussian(4, 3)})

    @jax.jit
    def update(params, step, key):
        traces.append(step)
        return transform.update(params, step, key=key)

    for step in range(3):
        before = jax.tree.map(lambda a: (a.shape, a.dtype, a.weak_type), params)
        params = update(params, jnp.int32(step), jax.random.key(step))
        assert jax.tree.map(lambda a: (a.shape, a.dtype, a.weak_type), params) == before
    assert len(traces) == 1


def test_seeds_may_be_swept_in_one_program():
    transform = binary("w", stochastic=True)
    params = transform.init({"w": jnp.zeros((8, 8))})
    drawn = jax.vmap(lambda key: densify(transform.update(params, 0, key=key))["w"])(
        jax.random.split(jax.random.key(0), 3)
    )
    assert drawn.shape == (3, 8, 8) and not same_bits(drawn[0], drawn[1])


def test_stochastic_signs_without_a_key_are_refused_with_the_pattern():
    transform = binary("w", stochastic=True)
    with pytest.raises(
        ValueError, match="stochastic signs for pattern 'w' are drawn by each update, which needs a key"
    ):
        transform.update(transform.init({"w": gaussian(2, 2)}), 0)


@pytest.mark.parametrize(("wrap", "kind"), [(weights("w", 8), "FakeQuantized"), (svd("w", rank=2), "LowRank")])
def test_weights_that_cannot_be_clipped_are_refused_by_kind(wrap, kind):
    with pytest.raises(ValueError, match=f"w is {kind}; BinaryConnect clips plain or masked weights only"):
        binary("w").init(wrap.init({"w": gaussian(4, 4)}))


# XNOR-Net and ternary weights.


def test_xnor_has_a_scale_per_channel():
    leaf = binary("w", "xnor").init({"w": gaussian(3, 4, 5)})["w"]
    assert leaf.pack().scale.shape == (1, 1, 5)
    np.testing.assert_allclose(leaf.pack().scale[0, 0], np.abs(leaf.weight).mean((0, 1)), rtol=1e-6)
    assert binary("w", "xnor", channel_axis=-2).init({"w": gaussian(3, 4, 5)})["w"].pack().scale.shape == (1, 4, 1)
    assert binary("w", "xnor").update(leaf, 0) is leaf


def test_twn_by_hand():
    params = {"w": jnp.array([[0.1, -2.0], [0.6, 1.3]])}  # the mean is 1
    np.testing.assert_allclose(densify(ternary("w").init(params))["w"], [[0, -1.65], [0, 1.65]], rtol=1e-6)
    np.testing.assert_allclose(densify(ternary("w", threshold=1.5).init(params))["w"], [[0, -2], [0, 0]], rtol=1e-6)


def test_the_values_of_ttq_are_named_and_trained():
    params = ternary("w", "ttq").init({"w": jnp.array([[0.04, -2.0], [-0.1, 0.11]])})
    np.testing.assert_allclose(densify(params)["w"], [[0, -2], [0, 0.11]], rtol=1e-6)
    assert list(select(params, "w/(positive|negative)")) == ["w/positive", "w/negative"]
    moves = trainable(params)["w"]
    assert (moves.weight, moves.positive, moves.negative, moves.threshold) == (True, True, True, False)
    trained, rest = partition(params)
    grads = jax.grad(lambda t: jnp.sum(densify(combine(t, rest))["w"]))(trained)["w"]
    assert (grads.positive.item(), grads.negative.item()) == (1, -1)


def test_ttq_packs_to_three_shared_values():
    packed = pack(ternary("w", "ttq").init({"w": jnp.array([[1.0, 3.0], [-0.5, 0.01]])}))["w"]
    assert isinstance(packed, Clustered) and packed.centroids.tolist() == [-0.5, 0, 2]


def test_layers_of_ttq_are_packed_one_by_one():
    layers = [ternary("w", "ttq").init({"w": layer})["w"] for layer in gaussian(3, 5, 4)]
    stack = jax.tree.map(lambda *arrays: jnp.stack(arrays), *layers)
    with pytest.raises(ValueError, match="3 layers of TrainedTernary share no three values; pack each alone"):
        pack(stack)


def test_thresholds_may_be_swept_in_one_program():
    leaves = [ternary("w", threshold=t).init({"w": gaussian(9, 4)})["w"] for t in (0.1, 0.7, 1.2)]
    sweep = jax.jit(jax.vmap(dense))(jax.tree.map(lambda *arrays: jnp.stack(arrays), *leaves))
    assert same_bits(sweep, jnp.stack([dense(leaf) for leaf in leaves]))


# All of them.


@EVERY_TRANSFORM
@pytest.mark.parametrize("shape", [(300, 20), (64, 33), (3, 3, 4, 7), (5,)])
@pytest.mark.sampled(3)
def test_packing_changes_no_bit_and_a_file_restores_them(make, shape):
    params = make().init({"w": gaussian(*shape)})
    seen = dense(params["w"])
    assert same_bits(dense_jit(params["w"]), seen) and same_bits(densify(pack(params))["w"], seen)
    assert same_bits(jax.jit(params["w"].dense)(), seen)
    stack = jax.tree.map(lambda a: jnp.stack([a, a]), params["w"])
    assert same_bits(jax.jit(jax.vmap(dense))(stack)[1], seen)
    assert same_bits(densify(from_bytes(to_bytes(params)))["w"], seen)


@EVERY_TRANSFORM
def test_pruned_weights_stay_zero_in_either_order(make):
    pruned = magnitude("w", 0.6)
    inside = chain(pruned, make()).init({"w": gaussian(20, 6)})["w"]
    outside = chain(make(), pruned).init({"w": gaussian(20, 6)})["w"]
    assert isinstance(inside.weight, Masked) and isinstance(outside, Masked)
    assert np.all(np.asarray(dense(inside))[~np.asarray(inside.weight.mask)] == 0)
    for leaf in (inside, outside):
        assert int(jnp.sum(dense(leaf) == 0)) >= 72
        assert same_bits(dense(pack(leaf)), dense(leaf)) and same_bits(dense_jit(leaf), dense(leaf))


@EVERY_TRANSFORM
def test_a_mask_below_that_grows_is_seen_at_once(make):
    transform = chain(magnitude("w", lambda step: jnp.where(jnp.asarray(step) < 5, 0.2, 0.8)), make())
    params = transform.init({"w": gaussian(10, 10)})
    assert int(jnp.sum(dense(transform.update(params, 5)["w"]) == 0)) >= 80


@EVERY_TRANSFORM
def test_bits_stored_are_fewer_than_two_per_weight(make):
    packed = pack(make().init({"w": gaussian(200, 50)}))["w"]
    assert isinstance(packed, Quantized | Clustered)
    assert packed.storage_bits() < 1.7 * 10000


@EVERY_TRANSFORM
def test_a_stack_may_be_cut_into_its_layers(make):
    layers = [make().init({"w": layer})["w"] for layer in gaussian(3, 5, 4)]
    stack = jax.tree.map(lambda *arrays: jnp.stack(arrays), *layers)
    cut = stack.stacked()
    for i, layer in enumerate(layers):
        np.testing.assert_array_equal(dense(jax.tree.map(lambda a, i=i: a[i], cut)), dense(layer))
    whole = make().init({"w": gaussian(3, 5, 4)})["w"]
    assert isinstance(whole, Binary) or whole.stacked() is None or -3 not in whole.axes


@EVERY_TRANSFORM
def test_init_keeps_what_it_made_and_traces(make):
    transform = make()
    once = transform.init({"w": gaussian(4, 3)})
    assert transform.init(once)["w"] is once["w"]
    traced = jax.jit(lambda w: densify(transform.init({"w": w}))["w"])(gaussian(4, 3))
    np.testing.assert_array_equal(traced, dense(once["w"]))


@EVERY_TRANSFORM
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_packing_changes_no_bit_of_half_precision(make, dtype):
    leaf = make().init({"w": gaussian(40, 6).astype(dtype)})["w"]
    assert dense(leaf).dtype == dtype and same_bits(dense(pack(leaf)), dense(leaf))


@EVERY_TRANSFORM
def test_zeros_and_channels_of_one_value_are_packed_bit_for_bit(make):
    for kernel in (jnp.zeros((4, 3)), jnp.array([[0.0, 0.3, -1.0]] * 4), jnp.full((4, 3), 1e-42)):
        leaf = make().init({"w": kernel})["w"]
        assert same_bits(dense(pack(leaf)), dense(leaf)) and np.isfinite(dense(leaf)).all()


@EVERY_TRANSFORM
def test_weights_that_are_not_finite_are_refused_by_name(make):
    with pytest.raises(ValueError, match="w holds 1 entries that are not finite"):
        make().init({"w": jnp.array([[1.0, jnp.nan]])})


@EVERY_TRANSFORM
def test_integers_and_patterns_without_a_match_are_refused(make):
    with pytest.raises(ValueError, match="w of dtype int32 cannot be quantized"):
        make().init({"w": jnp.arange(4)})
    with pytest.raises(ValueError, match=re.compile("'w' matches no parameter.*there are:\n  v", re.DOTALL)):
        make().init({"v": gaussian(2, 2)})


def test_methods_are_checked():
    with pytest.raises(ValueError, match="method 'sign' for pattern 'fc' is not 'binaryconnect' or 'xnor'"):
        binary("fc", "sign")
    with pytest.raises(ValueError, match="stochastic signs for pattern 'fc' need the method 'binaryconnect'"):
        binary("fc", "xnor", stochastic=True)
    with pytest.raises(ValueError, match="method 'three' for pattern 'fc' is not 'twn' or 'ttq'"):
        ternary("fc", "three")


@pytest.mark.parametrize(
    ("method", "threshold"), [("twn", -0.1), ("twn", np.nan), ("twn", np.inf), ("ttq", 1.0), ("ttq", -0.1)]
)
def test_thresholds_are_checked(method, threshold):
    with pytest.raises(ValueError, match=rf"threshold .* of '{method}' for pattern 'fc' is not in \[0, "):
        ternary("fc", method, threshold=threshold)
