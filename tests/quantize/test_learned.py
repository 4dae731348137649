"""Checks the transforms of LSQ and DoReFa: initial steps, pruned weights, training, packing, errors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import chain, combine, densify, pack, partition
from jaxcompress.arrays import Clustered, DoReFa, LearnedStep, Masked, Quantized, dense
from jaxcompress.export.packed import from_bytes, to_bytes
from jaxcompress.paths import select
from jaxcompress.prune import magnitude
from jaxcompress.quantize import dorefa, lsq
from jaxcompress.transform import trainable

dense_jit = jax.jit(dense)
CASES = [(granularity, symmetric) for granularity in ("tensor", "channel") for symmetric in (True, False)]
REALS = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 2.0**-60)
KERNELS = st.lists(REALS | st.integers(-9, 9).map(float), min_size=15, max_size=15).map(
    lambda values: np.array(values, np.float32).reshape(5, 3)
)
TRANSFORMS = {
    "lsq_2": lambda: lsq("w", 2),
    "lsq_4_channel": lambda: lsq("w", 4, granularity="channel"),
    "lsq_8_symmetric": lambda: lsq("w", 8, symmetric=True),
    "dorefa_1": lambda: dorefa("w", 1),
    "dorefa_3": lambda: dorefa("w", 3),
    "dorefa_8": lambda: dorefa("w", 8),
}
EVERY_TRANSFORM = pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)


def gaussian(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def same_bits(a: jax.Array, b: jax.Array) -> bool:
    return a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_lsq_by_hand():
    leaf = lsq("w", 2).init({"w": jnp.array([[0.2, -2.0], [0.7, 1.1]])})["w"]
    assert leaf.step.tolist() == [[2.0]] and leaf.count == 4  # twice the mean of 1, by a Q_P of 1
    assert dense(leaf).tolist() == [[0, -2], [0, 2]]


def test_lsq_per_channel_by_hand():
    leaf = lsq("w", 2, granularity="channel").init({"w": jnp.array([[0.5, -2.0], [1.5, 0.0]])})["w"]
    assert leaf.step.tolist() == [[2, 2]] and leaf.count == 2
    assert lsq("w", 2, granularity="channel", channel_axis=-2).init({"w": leaf.weight})["w"].step.shape == (2, 1)


def test_the_step_is_named_and_trained_and_nothing_else_is():
    params = lsq("w", 4).init({"w": gaussian(3, 3)})
    assert list(select(params, "w/step")) == ["w/step"]
    moves = trainable(params)["w"]
    assert (moves.weight, moves.step, moves.bits) == (True, True, False)


def test_pruned_weights_do_not_count_in_the_initial_step():
    pruned = magnitude("w", 0.5).init({"w": jnp.array([[2.0, 0.1], [4.0, 0.2]])})
    assert lsq("w", 2).init(pruned)["w"].step.tolist() == [[6]]


def test_training_the_step_lessens_the_error():
    weight, params = gaussian(40, 10), lsq("w", 3).init({"w": gaussian(40, 10)})
    trained, rest = partition(params)
    optimiser = optax.sgd(0.02)
    state = optimiser.init(trained)

    @jax.jit
    def train(trained, state):
        loss = lambda t: jnp.sum(jnp.square(densify(combine(t, rest))["w"] - weight))
        value, grads = jax.value_and_grad(loss)(trained)
        grads["w"] = LearnedStep(jnp.zeros_like(weight), grads["w"].step, None, params["w"].count, False, "lsq[w]")
        updates, state = optimiser.update(grads, state, trained)
        return optax.apply_updates(trained, updates), state, value

    losses = []
    for _ in range(30):
        trained, state, value = train(trained, state)
        losses.append(float(value))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize(("granularity", "symmetric"), CASES)
@settings(deadline=None, max_examples=6)
@given(KERNELS)
def test_packing_changes_no_bit_of_lsq(bits, granularity, symmetric, kernel):
    leaf = lsq("w", bits, granularity=granularity, symmetric=symmetric).init({"w": jnp.asarray(kernel)})["w"]
    packed = leaf.pack()
    assert (packed.bits, packed.owner, packed.codes.dtype) == (bits, "", jnp.int8)
    seen = dense(leaf)
    assert same_bits(dense(packed), seen)
    assert same_bits(dense_jit(leaf), seen) and same_bits(dense_jit(packed), seen)


@pytest.mark.parametrize("shape", [(), (1,), (1, 5)])
def test_packing_changes_no_bit_where_every_weight_is_half_way(shape):
    # A division that became a product with the inverse would round some of them to the other side.
    step = jnp.full(shape, 0.0371, jnp.float32)
    kernel = (jnp.arange(-120.0, 120.0).reshape(48, 5) + 0.5) * 0.0371
    kernel = kernel.reshape(-1) if len(shape) == 1 else kernel
    leaf = LearnedStep(kernel, step, jnp.int32(8), 1)
    seen = dense(leaf)
    assert same_bits(dense(leaf.pack()), seen)
    assert same_bits(dense_jit(leaf), seen) and same_bits(jax.jit(leaf.dense)(), seen)
    stack = jax.tree.map(lambda a: jnp.stack([a, a]), leaf)
    assert same_bits(jax.vmap(dense)(stack)[1], seen)


@EVERY_TRANSFORM
def test_packing_changes_no_bit_of_pruned_weights_and_a_file_restores_them(make):
    pruned, quantizer = magnitude("w", 0.6), make()
    inside, outside = chain(pruned, quantizer), chain(quantizer, pruned)
    for transform in (inside, outside):
        params = transform.init({"w": gaussian(3, 3, 14, 20)})
        seen = dense(params["w"])
        assert same_bits(dense_jit(params["w"]), seen) and same_bits(densify(pack(params))["w"], seen)
        assert same_bits(densify(from_bytes(to_bytes(params)))["w"], seen)
        assert int(jnp.sum(seen == 0)) >= round(0.6 * seen.size)


@pytest.mark.parametrize("bits", range(1, 9))
@settings(deadline=None, max_examples=6)
@given(KERNELS)
def test_packing_changes_no_bit_of_dorefa(bits, kernel):
    leaf = dorefa("w", bits).init({"w": jnp.asarray(kernel)})["w"]
    seen = dense(leaf)
    assert isinstance(leaf.pack(), Quantized if bits < 8 else Clustered)
    assert same_bits(dense(leaf.pack()), seen) and same_bits(dense_jit(leaf), seen)


@pytest.mark.parametrize("bits", range(1, 8))
@pytest.mark.parametrize("spread", ["gaussian", "uniform"])
def test_odd_integers_take_no_more_bytes_than_a_codebook(bits, spread):
    kernel = gaussian(60, 50) if spread == "gaussian" else jnp.linspace(-0.1, 0.1, 3000).reshape(60, 50)
    packed = dorefa("w", bits).init({"w": kernel})["w"].pack()
    largest = 2**bits - 1
    levels = jnp.arange(-largest, largest + 1, 2, dtype=jnp.float32) * packed.scale.item()
    shared = Clustered((packed.codes.astype(jnp.int32) + largest) // 2, levels).pack()
    np.testing.assert_array_equal(dense(shared), dense(packed))
    assert packed.storage_bits() <= shared.storage_bits()


def test_pruned_weights_of_eight_bits_stay_pruned_beside_the_codebook():
    params = chain(magnitude("w", 0.5), dorefa("w", 8)).init({"w": gaussian(9, 8)})
    packed = pack(params)["w"]
    assert isinstance(packed, Masked) and isinstance(packed.weight, Clustered)
    assert int(jnp.sum(dense(packed) == 0)) == 36


@EVERY_TRANSFORM
def test_stacked_layers_have_values_of_their_own(make):
    layers = [make().init({"w": layer})["w"] for layer in gaussian(3, 5, 4)]
    stack = jax.tree.map(lambda *arrays: jnp.stack(arrays), *layers)
    np.testing.assert_array_equal(jax.vmap(dense)(stack), jnp.stack([dense(layer) for layer in layers]))


@EVERY_TRANSFORM
def test_a_stack_may_be_cut_into_its_layers(make):
    leaf = make().init({"w": gaussian(3, 5, 4)})["w"]
    cut = leaf.stacked()
    if cut is None:  # layers share a scale
        assert isinstance(leaf, DoReFa)
        return
    layers = [jax.tree.map(lambda a, i=i: a[i], cut) for i in range(3)]
    np.testing.assert_array_equal(jnp.stack([dense(layer) for layer in layers]), dense(leaf))


@pytest.mark.parametrize("kind", ["lsq", "dorefa"])
def test_bits_may_be_swept_in_one_program(kind):
    make = lambda bits: (lsq if kind == "lsq" else dorefa)("w", bits).init({"w": gaussian(9, 4)})["w"]
    leaves = [make(bits) for bits in range(2, 9)]
    sweep = jax.jit(jax.vmap(dense))(jax.tree.map(lambda *arrays: jnp.stack(arrays), *leaves))
    np.testing.assert_array_equal(sweep, jnp.stack([dense(leaf) for leaf in leaves]))


@EVERY_TRANSFORM
def test_init_keeps_what_it_made_and_traces(make):
    transform = make()
    once = transform.init({"w": gaussian(4, 3)})
    assert transform.init(once)["w"] is once["w"]
    traced = jax.jit(lambda w: densify(transform.init({"w": w}))["w"])(gaussian(4, 3))
    np.testing.assert_allclose(traced, dense(once["w"]), rtol=1e-6)


@EVERY_TRANSFORM
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(make, value):
    with pytest.raises(ValueError, match="w holds 2 entries that are not finite"):
        make().init({"w": jnp.array([[1.0, value], [value, 2.0]])})


@EVERY_TRANSFORM
def test_integers_and_patterns_without_a_match_are_refused(make):
    with pytest.raises(ValueError, match="w of dtype int32 cannot be quantized"):
        make().init({"w": jnp.arange(4)})
    with pytest.raises(ValueError, match=re.compile("'w' matches no parameter.*there are:\n  v", re.DOTALL)):
        make().init({"v": gaussian(2, 2)})


@pytest.mark.parametrize(("make", "smallest"), [(lsq, 2), (dorefa, 1)])
@pytest.mark.parametrize("bits", [0, 9, -2, 4.0, "8"])
def test_bits_out_of_range_are_named_with_the_pattern(make, smallest, bits):
    with pytest.raises(ValueError, match=f"bits {bits!r} for pattern 'fc' is not an integer from {smallest} to 8"):
        make("fc", bits)


def test_granularity_and_channel_axis_are_checked():
    with pytest.raises(ValueError, match="granularity 'row' for pattern 'fc' is not 'tensor' or 'channel'"):
        lsq("fc", 8, granularity="row")
    with pytest.raises(ValueError, match=r"channel_axis 1 is not in \[-2, -1\], the axes of w"):
        lsq("w", 8, granularity="channel", channel_axis=1).init({"w": gaussian(2, 2)})
