"""One contract for every compressed array, nested ones included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import combine, pack, partition
from jaxcompress.arrays import (
    CP,
    Binary,
    Clustered,
    CompressedArray,
    Dithered,
    DoReFa,
    FakeQuantized,
    Float8,
    Kronecker,
    LearnedStep,
    LowRank,
    Masked,
    Movement,
    Quantized,
    Reshaped,
    Scaled,
    ScaledBinary,
    Sliced,
    SpatialLowRank,
    StraightThrough,
    Summed,
    TensorRing,
    TensorTrain,
    Ternary,
    TrainedTernary,
    Tucker,
    Tucker2,
    Zeros,
    data_fields,
    decode,
    dense,
    encode,
    kinds,
    static_fields,
)
from jaxcompress.arrays.sliced import cut

SHAPE = (6, 5)


def weight(seed=0, shape=SHAPE, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def mask(seed=0, shape=SHAPE):
    return jax.random.bernoulli(jax.random.key(100 + seed), 0.6, shape)


def fake(leaf, axes=(-2,), bits=4, symmetric=True, group=0):
    return FakeQuantized(leaf, jnp.int32(bits), axes, symmetric, "q", group)


def dithered(leaf):
    return Dithered(leaf, jnp.zeros(leaf.shape, jnp.float32), "q")


def float8(leaf, axes=(-2, -1), format="e4m3", scaled=True):
    return Float8(leaf, axes, format, scaled, "f")


def scaled(leaf, factor=((0.3, -1.7, 0.0, 1.0, 1e3),)):
    return Scaled(leaf, jnp.float32(factor), "s")


def clustered(seed=0):
    codes = jax.random.randint(jax.random.key(seed), SHAPE, 0, 7)
    return Clustered(codes, jnp.sort(weight(seed, (7,))), "c")


def low_rank():
    return LowRank(weight(1, (6, 2)), weight(2, (2, 5)), 1, 1, "s")


def quantized(zero=0, keep=True, dtype="float32"):
    codes = jax.random.randint(jax.random.key(5), SHAPE, -7, 8).astype(jnp.int8)
    codes = jnp.where(keep, codes, jnp.int8(zero))
    return Quantized(codes, jnp.float32([[0.1, 0.2, 0.3, 0.4, 0.7]]), jnp.full((1, 5), zero, jnp.int8), 4, dtype)


def learned_step(leaf, step, bits=4, symmetric=False):
    return LearnedStep(leaf, jnp.float32(step), jnp.int32(bits), 6, symmetric, "l")


def dorefa(leaf, bits=4):
    return DoReFa(leaf, jnp.int32(bits), (-2, -1), "d")


def binary(leaf, shape=(1, 1)):
    return Binary(leaf, jnp.zeros(shape, jnp.float32), "b")


def ternary(leaf):
    return Ternary(leaf, jnp.float32(0.7), (-2, -1), "t")


def trained_ternary(leaf, positive=0.8, negative=0.6):
    levels = jnp.float32([[positive]]), jnp.float32([[negative]])
    return TrainedTernary(leaf, *levels, jnp.float32(0.05), (-2, -1), "t")


def sliced(leaf, rows=(0, 2, 3), columns=None, fill=0.0):
    return Sliced(cut(leaf, (rows, columns), SHAPE), SHAPE, (rows, columns), fill, "s")


LEAVES = {
    "masked": lambda: Masked(weight(), mask(), "m"),
    "masked_bf16": lambda: Masked(weight(dtype=jnp.bfloat16), mask(), "m"),
    "masked_whole": lambda: Masked(weight(), jnp.ones(SHAPE, bool), "m"),
    "masked_away": lambda: Masked(weight(), jnp.zeros(SHAPE, bool), "m"),
    "masked_scalar": lambda: Masked(jnp.float32(2.0), jnp.array(True), "m"),
    "clustered": clustered,
    "low_rank": low_rank,
    "low_rank_conv": lambda: LowRank(weight(1, (2, 3, 6, 2)), weight(2, (2, 5)), 3, 1, "s"),
    "low_rank_stack": lambda: LowRank(weight(1, (3, 6, 2)), weight(2, (3, 2, 5)), 1, 1, "s"),
    "low_rank_attention": lambda: LowRank(weight(1, (6, 2)), weight(2, (2, 3, 5)), 1, 2, "s"),
    "spatial_low_rank_3d": lambda: SpatialLowRank(weight(1, (3, 4, 2)), weight(2, (2, 3, 2, 5)), "s"),
    "spatial_low_rank_stack": lambda: SpatialLowRank(weight(1, (2, 3, 4, 2)), weight(2, (2, 2, 2, 5)), "s"),
    "spatial_low_rank": lambda: SpatialLowRank(weight(1, (3, 4, 2)), weight(2, (2, 2, 5)), "s"),
    "tucker2": lambda: Tucker2(weight(1, (6, 2)), weight(2, (2, 3)), weight(3, (3, 5)), "t"),
    "tucker2_conv": lambda: Tucker2(weight(1, (4, 2)), weight(2, (3, 2, 2, 3)), weight(3, (3, 5)), "t"),
    "tucker2_of_masked": lambda: Tucker2(
        Masked(weight(1, (6, 2)), mask(1, (6, 2)), "m"), fake(weight(2, (2, 3))), weight(3, (3, 5)), "t"
    ),
    "tucker": lambda: Tucker(
        (weight(0, (3, 2)), weight(1, (2, 1))), weight(2, (4, 2)), weight(3, (2, 1, 2, 3)), weight(4, (3, 5)), "t"
    ),
    "tucker_3d": lambda: Tucker(
        tuple(weight(i, (2, 2)) for i in range(3)),
        weight(3, (4, 2)),
        weight(4, (2, 2, 2, 2, 3)),
        weight(5, (3, 5)),
        "t",
    ),
    "tucker_stack": lambda: Tucker(
        (weight(0, (2, 3, 2)),), weight(2, (2, 4, 2)), weight(3, (2, 2, 2, 3)), weight(4, (2, 3, 5)), "t"
    ),
    "tucker2_stack": lambda: Tucker2(weight(1, (4, 6, 2)), weight(2, (4, 2, 3)), weight(3, (4, 3, 5)), "t"),
    "cp": lambda: CP((weight(0, (3, 4)), weight(1, (2, 4))), weight(2, (4, 4)), weight(3, (4, 5)), "c"),
    "cp_1d": lambda: CP((fake(weight(0, (3, 4))),), weight(2, (4, 4)), weight(3, (4, 5)), "c"),
    "cp_3d_stack": lambda: CP(
        tuple(weight(i, (2, 3, 4)) for i in range(3)), weight(3, (2, 4, 4)), weight(4, (2, 4, 5)), "c"
    ),
    "tensor_train": lambda: TensorTrain((weight(1, (1, 2, 5, 3)), weight(2, (3, 3, 1, 1))), (), "t"),
    "tensor_train_conv": lambda: TensorTrain(
        (fake(weight(1, (3, 2, 5, 2))), weight(2, (2, 3, 1, 1))), (weight(3, (3, 2, 3)),), "t"
    ),
    "tensor_ring": lambda: TensorRing((), (weight(1, (2, 6, 3)),), (weight(2, (3, 5, 2)),), "r"),
    "tensor_ring_of_modes": lambda: TensorRing(
        (), (fake(weight(1, (2, 2, 3))), weight(2, (3, 3, 1))), (weight(3, (1, 1, 2)), weight(4, (2, 5, 2))), "r"
    ),
    "tensor_ring_conv": lambda: TensorRing(
        (weight(1, (2, 3, 1)), weight(2, (1, 2, 3))), (weight(3, (3, 4, 2)),), (weight(4, (2, 5, 2)),), "r"
    ),
    "tensor_ring_stack": lambda: TensorRing((), (weight(1, (4, 2, 6, 3)),), (weight(2, (4, 3, 5, 2)),), "r"),
    "tensor_train_stack": lambda: TensorTrain((weight(1, (4, 1, 2, 5, 3)), weight(2, (4, 3, 3, 1, 1))), (), "t"),
    "kronecker_stack": lambda: Kronecker(weight(1, (3, 2, 3, 1)), weight(2, (3, 2, 2, 5)), "k"),
    "reshaped": lambda: Reshaped(low_rank(), (2, 3, 5), (2, 0, 1), "r"),
    "reshaped_conv": lambda: Reshaped(
        LowRank(weight(1, (2, 3, 6, 2)), weight(2, (2, 5)), 3, 1, "s"), (2, 3, 6, 5), (0, 1, 3, 2), "r"
    ),
    "reshaped_stack": lambda: Reshaped(
        Kronecker(weight(1, (3, 2, 3, 1)), weight(2, (3, 2, 2, 5)), "k"), (6, 5), (1, 0, 2), "r"
    ),
    "reshaped_of_fakes": lambda: Reshaped(
        Tucker2(fake(weight(1, (6, 2))), weight(2, (2, 3)), weight(3, (3, 5)), "t"), (6, 5), (1, 0), "r"
    ),
    "kronecker": lambda: Kronecker(weight(1, (2, 3, 1)), weight(2, (2, 2, 5)), "k"),
    "kronecker_conv": lambda: Kronecker(weight(1, (1, 2, 2)), weight(2, (1, 3, 3, 2, 2)), "k"),
    "summed": lambda: Summed(Masked(weight(), mask(), "m"), clustered(), "a"),
    "summed_low_rank": lambda: Summed(low_rank(), Masked(weight(), mask(), "m"), "a"),
    "quantized": quantized,
    "quantized_sparse": lambda: quantized(keep=weight(6) > 1),
    "quantized_offset": lambda: quantized(zero=3),
    "quantized_bf16": lambda: quantized(dtype="bfloat16"),
    "fake_channel": lambda: fake(weight()),
    "fake_tensor": lambda: fake(weight(), axes=(-2, -1)),
    "fake_offset": lambda: fake(weight(), symmetric=False),
    "fake_2_bits": lambda: fake(weight(), bits=2),
    "fake_8_bits": lambda: fake(weight(), bits=8),
    "fake_bf16": lambda: fake(weight(dtype=jnp.bfloat16)),
    "fake_f16": lambda: fake(weight(dtype=jnp.float16), symmetric=False),
    "fake_zeros": lambda: fake(jnp.zeros(SHAPE)),
    "fake_of_masked": lambda: fake(Masked(weight(), mask(), "m")),
    "fake_of_masked_offset": lambda: fake(Masked(weight() + 2, mask(), "m"), symmetric=False),
    "fake_of_low_rank": lambda: fake(low_rank()),
    "fake_of_clustered": lambda: fake(clustered()),
    "low_rank_of_fakes": lambda: LowRank(
        fake(Masked(weight(1, (6, 2)), mask(1, (6, 2)), "m")), fake(weight(2, (2, 5))), 1, 1, "s"
    ),
    "masked_clustered": lambda: Masked(clustered(), mask(), "m"),
    "masked_masked": lambda: Masked(Masked(weight(), mask(1), "a"), mask(2), "b"),
    "masked_fake": lambda: Masked(fake(weight()), mask(), "m"),
    "masked_fake_offset": lambda: Masked(fake(weight() + 1, symmetric=False), mask(), "m"),
    "masked_low_rank": lambda: Masked(low_rank(), mask(), "m"),
    "masked_masked_clustered": lambda: Masked(Masked(clustered(), mask(1), "a"), mask(2), "b"),
    "masked_masked_fake": lambda: Masked(Masked(fake(weight()), mask(1), "a"), mask(2), "b"),
    "learned_step": lambda: learned_step(weight(), [[0.3]]),
    "learned_step_channel": lambda: learned_step(weight(), [[0.1, 0.2, 0.3, 0.4, 0.7]], symmetric=True),
    "learned_step_2_bits": lambda: learned_step(weight(), [[0.9]], bits=2),
    "learned_step_below_zero": lambda: learned_step(weight(), [[0.3, 0.3, -0.3, 0.3, 0.3]]),
    "learned_step_bf16": lambda: learned_step(weight(dtype=jnp.bfloat16), [[0.3]]),
    "learned_step_of_masked": lambda: learned_step(Masked(weight(), mask(), "m"), [[0.3]]),
    **{f"dorefa_{bits}_bits": lambda bits=bits: dorefa(weight(), bits) for bits in (1, 7, 8)},
    "dorefa_8_bits_f16": lambda: dorefa(weight(dtype=jnp.float16), 8),
    "dorefa_of_masked": lambda: dorefa(Masked(weight(), mask(), "m")),
    "dorefa_8_bits_of_masked": lambda: dorefa(Masked(weight(), mask(), "m"), 8),
    "masked_dorefa_8_bits": lambda: Masked(dorefa(weight(), 8), mask(), "m"),
    "binary": lambda: binary(weight()),
    "binary_drawn_in_place": lambda: binary(weight(), SHAPE),
    "binary_bf16": lambda: binary(weight(dtype=jnp.bfloat16)),
    "binary_of_masked_masked": lambda: binary(Masked(Masked(weight(), mask(1), "a"), mask(2), "b")),
    "scaled_binary": lambda: ScaledBinary(weight(), (-2,), "x"),
    "scaled_binary_f16": lambda: ScaledBinary(weight(dtype=jnp.float16), (-2, -1), "x"),
    "scaled_binary_of_masked": lambda: ScaledBinary(Masked(weight(), mask(), "m"), (-2,), "x"),
    "ternary": lambda: ternary(weight()),
    "ternary_bf16": lambda: ternary(weight(dtype=jnp.bfloat16)),
    "ternary_of_masked": lambda: ternary(Masked(weight(), mask(), "m")),
    "trained_ternary": lambda: trained_ternary(weight()),
    "trained_ternary_below_zero": lambda: trained_ternary(weight(), -0.1, 0.0),
    "trained_ternary_bf16": lambda: trained_ternary(weight(dtype=jnp.bfloat16)),
    "trained_ternary_of_masked": lambda: trained_ternary(Masked(weight(), mask(), "m")),
    "fake_groups": lambda: fake(weight(), group=3),
    "fake_groups_offset": lambda: fake(weight() + 1, group=2, symmetric=False),
    "fake_groups_of_kernel": lambda: fake(weight(0, (3, 2, 4, 5)), group=2),
    "fake_groups_of_masked": lambda: fake(Masked(weight() + 1, mask(), "m"), group=3, symmetric=False),
    "masked_fake_groups": lambda: Masked(fake(weight() + 1, group=3, symmetric=False), mask(), "m"),
    "quantized_groups": lambda: fake(weight(), group=1).pack(),
    "dithered": lambda: dithered(fake(weight())),
    "dithered_groups": lambda: dithered(fake(weight(dtype=jnp.bfloat16), group=3)),
    "float8": lambda: float8(weight()),
    "float8_channel_e5m2": lambda: float8(weight(), (-2,), "e5m2"),
    "float8_unscaled": lambda: float8(300 * weight(), scaled=False),
    "float8_bf16": lambda: float8(weight(dtype=jnp.bfloat16)),
    "float8_of_masked": lambda: float8(Masked(weight(), mask(), "m")),
    "masked_float8": lambda: Masked(float8(weight()), mask(), "m"),
    "quantized_float8": lambda: float8(weight()).pack(),
    "scaled": lambda: scaled(weight()),
    "scaled_f16": lambda: scaled(weight(dtype=jnp.float16), [[0.3]]),
    "scaled_fake": lambda: scaled(fake(weight())),
    "scaled_fake_offset": lambda: scaled(fake(weight() + 1, symmetric=False)),
    "scaled_fake_of_scaled": lambda: scaled(fake(scaled(weight()), (-2, -1)), [[3.3, -0.6, 1.0, 1.0, 1e-3]]),
    "scaled_of_masked": lambda: scaled(Masked(weight(), mask(), "m")),
    "masked_scaled_fake": lambda: Masked(scaled(fake(weight())), mask(), "m"),
    "quantized_scaled": lambda: scaled(quantized()),
    "straight_through": lambda: StraightThrough(weight(), mask(), jnp.float32(0.1), "s"),
    "straight_through_bf16": lambda: StraightThrough(weight(dtype=jnp.bfloat16), mask(), jnp.float32(0.0), "s"),
    "straight_through_of_masked": lambda: StraightThrough(
        Masked(weight(), mask(1), "m"), mask(), jnp.float32(0.1), "s"
    ),
    "movement": lambda: Movement(weight(), weight(2), mask(), "v"),
    "movement_bf16": lambda: Movement(weight(dtype=jnp.bfloat16), weight(2), mask(), "v"),
    "zeros": lambda: Zeros(jnp.float32(0), SHAPE, "z"),
    "zeros_bf16": lambda: Zeros(jnp.bfloat16(0), (3, *SHAPE), "z"),
    "sliced": lambda: sliced(weight()),
    "sliced_both": lambda: sliced(weight(), (1, 2), (0, 4)),
    "sliced_filled_bf16": lambda: sliced(weight(dtype=jnp.bfloat16), None, (3,), 1.5),
    "sliced_masked": lambda: sliced(Masked(weight(), mask(), "m")),
    "sliced_fake": lambda: sliced(fake(weight())),
    "quantized_sliced": lambda: sliced(quantized(zero=3), (5,), (1, 2)),
    "sliced_low_rank": lambda: sliced(low_rank(), (0, 5), (1, 2, 4)),
    "sliced_clustered": lambda: sliced(clustered()),
    "masked_sliced": lambda: Masked(sliced(weight()), mask(), "m"),
    "masked_trained_ternary": lambda: Masked(trained_ternary(weight()), mask(), "m"),
}
LEAVES = {name: functools.cache(make) for name, make in LEAVES.items()}  # arrays stay as they are, so one is enough
ROUNDED = ("fake", "learned", "dorefa", "binary", "ternary", "dithered", "float8", "scaled")
EVERY_LEAF = pytest.mark.parametrize("name", LEAVES)


def assert_same_bits(a, b):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def assert_same_leaf(a, b):
    assert type(a) is type(b)
    if not isinstance(a, CompressedArray):
        return assert_same_bits(a, b)
    for name in static_fields(type(a)):
        assert getattr(a, name) == getattr(b, name), name
    for name in data_fields(type(a)):
        fields = getattr(a, name), getattr(b, name)
        for x, y in zip(*fields, strict=True) if isinstance(fields[0], tuple) else (fields,):
            assert_same_leaf(x, y)


def test_every_class_is_in_the_contract():
    assert set(kinds()) == {type(make()).__name__ for make in LEAVES.values()}


@EVERY_LEAF
def test_dense_has_the_declared_shape_and_dtype(name):
    leaf = LEAVES[name]()
    out = leaf.dense()
    assert (out.shape, out.dtype, out.weak_type) == (leaf.shape, leaf.dtype, False)
    assert (leaf.ndim, leaf.size) == (out.ndim, out.size)


@EVERY_LEAF
def test_pack_changes_no_bit_of_dense(name):
    leaf = LEAVES[name]()
    packed = leaf.pack()
    assert_same_bits(jax.jit(dense)(leaf), jax.jit(dense)(packed))
    assert_same_bits(leaf.dense(), packed.dense())


@pytest.mark.parametrize("name", [n for n in LEAVES if any(word in n for word in ROUNDED)])
def test_pack_changes_no_bit_of_a_leaf_that_is_a_constant_of_the_program(name):
    leaf = LEAVES[name]()
    assert_same_bits(jax.jit(leaf.dense)(), jax.jit(leaf.pack().dense)())


@EVERY_LEAF
def test_pack_is_idempotent_and_forgets_owners(name):
    packed = LEAVES[name]().pack()
    assert packed.owner == ""
    assert_same_leaf(packed.pack(), packed)


@EVERY_LEAF
def test_decode_restores_the_packed_leaf(name):
    packed = LEAVES[name]().pack()
    assert_same_leaf(decode(encode(packed)), packed)


@EVERY_LEAF
def test_storage_bits_are_the_bytes_of_the_streams(name):
    leaf = LEAVES[name]()

    def count(coded):
        return sum(len(s.data) for s in coded.streams) + sum(map(count, coded.parts.values()))

    bits = leaf.storage_bits()
    assert type(bits) is int and bits > 0
    assert bits == 8 * count(encode(pack(leaf)))


@EVERY_LEAF
def test_leaf_is_a_pytree_that_round_trips(name):
    leaf = LEAVES[name]()
    parts, structure = jax.tree.flatten(leaf)
    assert all(isinstance(part, jax.Array) for part in parts)
    assert_same_leaf(jax.tree.unflatten(structure, parts), leaf)
    assert_same_leaf(jax.jit(lambda x: x)(leaf), leaf)


@EVERY_LEAF
@pytest.mark.sampled(3)
def test_vmap_over_stacked_leaves_gives_each_dense_array(name):
    leaf = LEAVES[name]()
    stack = jax.tree.map(lambda a: jnp.stack([a, jnp.flip(a)]), leaf)
    single = jax.tree.map(lambda a: a[1], stack)
    out = jax.jit(jax.vmap(dense))(stack)
    assert out.shape == (2, *leaf.shape)
    expected = np.asarray(single.dense(), np.float32)
    np.testing.assert_allclose(np.asarray(out[1], np.float32), expected, rtol=1e-5, atol=1e-5)


@EVERY_LEAF
def test_gradients_are_finite_and_only_of_trained_fields(name):
    leaf = LEAVES[name]()
    trained, rest = partition(leaf)

    def loss(trained):
        return jnp.sum(jnp.square(combine(trained, rest).dense().astype(jnp.float32)))

    grads = jax.jit(jax.grad(loss))(trained)
    assert jax.tree.structure(grads) == jax.tree.structure(trained)
    values = [np.asarray(g, np.float32) for g in jax.tree.leaves(grads)]
    assert all(np.isfinite(g).all() for g in values)
    still = name in ("masked_away", "fake_zeros", "zeros", "zeros_bf16") or name.startswith("quantized")
    assert any(g.any() for g in values) != still


def test_masked_gradient_is_zero_exactly_where_removed():
    keep = mask()
    grad = jax.grad(lambda w: jnp.sum(Masked(w, keep).dense()))(weight())
    np.testing.assert_array_equal(grad, keep.astype(jnp.float32))


def test_centroid_gradient_sums_over_its_group():
    codes, upstream = jnp.int32([[0, 1], [1, 1]]), jnp.float32([[1.0, 10.0], [100.0, 1000.0]])
    grad = jax.grad(lambda c: jnp.sum(Clustered(codes, c).dense() * upstream))(jnp.float32([2.0, 3.0]))
    np.testing.assert_array_equal(grad, [1.0, 1110.0])


def test_fake_quantized_gradient_passes_straight_through():
    upstream = weight(9)
    grad = jax.grad(lambda w: jnp.sum(fake(w).dense() * upstream))(weight())
    np.testing.assert_array_equal(grad, upstream)


def test_fake_quantized_by_hand():
    leaf = FakeQuantized(jnp.float32([[0.9, -3.0], [0.4, 1.6]]), jnp.int32(3), (-2, -1))
    np.testing.assert_array_equal(leaf.dense(), [[1.0, -3.0], [0.0, 2.0]])  # scale 3 / 3, codes -3..3


def test_masked_zeroes_what_is_not_finite_too():
    leaf = Masked(jnp.float32([[1.0, jnp.inf], [jnp.nan, 4.0]]), jnp.array([[True, False], [False, True]]))
    np.testing.assert_array_equal(leaf.dense(), [[1.0, 0.0], [0.0, 4.0]])
    np.testing.assert_array_equal(leaf.pack().weight, [[1.0, 0.0], [0.0, 4.0]])


def test_low_rank_stack_multiplies_layer_by_layer():
    leaf = LEAVES["low_rank_stack"]()
    assert (leaf.stack_axes, leaf.rank) == (1, 2)
    for i in range(3):
        np.testing.assert_allclose(leaf.dense()[i], leaf.u[i] @ leaf.v[i], rtol=1e-5, atol=1e-6)


def test_codes_of_a_large_codebook_need_a_wider_type():
    def packed(clusters):
        return Clustered(jnp.arange(clusters), jnp.arange(clusters, dtype=jnp.float32)).pack()

    assert packed(256).codes.dtype == jnp.uint8
    assert packed(257).codes.dtype == jnp.uint16
    assert_same_leaf(decode(encode(packed(257))), packed(257))


def test_sparse_weight_stores_fewer_bytes_than_dense():
    leaf = Masked(weight(0, (64, 64)), jax.random.bernoulli(jax.random.key(1), 0.1, (64, 64)))
    assert leaf.storage_bits() < 0.2 * 64 * 64 * 32
