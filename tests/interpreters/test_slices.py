"""Holds programs on sliced operands, whatever was cut from them, to the same programs on the arrays that they mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxcompress import cost, lift
from jaxcompress.arrays import LowRank, Masked, densify, sliced
from jaxcompress.interpreters.slices import Slices, Spread, narrowed, outside, sliceable, united


def values(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def agree(function, *args, tolerance=1e-5):
    """Holds the lifted function and its gradients to those of the whole arrays; returns the shapes of its products."""
    expected = function(*densify(args))
    out = lift(function)(*args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), out, expected)
    return [operation.inputs for operation in cost(lift(function), *args)]


CUTS = st.sampled_from(
    [(None, None), (None, (0, 2)), (None, (1, 2, 3)), ((1, 2), None), ((0, 3), (1, 3)), ((2,), (0,))]
)

TABLE = np.linspace(-1.0, 2.0, 16, dtype=np.float32).reshape(4, 4) ** 2  # closed over, another number at each entry

PROGRAMS = {
    "constants": lambda a, b: (
        ((a - TABLE[:1]) * b, jnp.exp(a + TABLE), (a + TABLE) @ b, jnp.maximum(a, TABLE) / (1 + b * b)),
        ((a + TABLE).sum(1), (a + TABLE).sum(), (a - TABLE).max(0), (b * 2 + TABLE).min(), jnp.exp(a + TABLE).sum(0)),
        jax.nn.softmax(a + TABLE) @ b,
        (a + TABLE - (a + TABLE).mean(1, keepdims=True)) * lax.rsqrt((a + TABLE).var(1, keepdims=True) + 0.1),
    ),
    "constants that move": lambda a, b: (
        ((a - TABLE).reshape(2, 2, 4), (a + TABLE).reshape(16), (a + TABLE).T[1:3], jnp.split(b + TABLE, 2, axis=1)),
        (jnp.concatenate([a, TABLE], 0) @ b, jnp.concatenate([TABLE + a, b], 1), jnp.concatenate([b, TABLE], 1)),
        (jnp.stack([a, TABLE], 1), jnp.tile(a + TABLE, (1, 2)), jnp.unstack(b + TABLE, axis=1)),
        (jnp.pad(a + TABLE, ((0, 0), (1, 0))), jnp.broadcast_to((a + TABLE)[None], (2, 4, 4))),
        lax.reduce_window(a + TABLE, 0.0, lax.add, (2, 1), (1, 1), "SAME"),
    ),
    "constants in functions": lambda a, b: (
        jax.nn.relu(a + TABLE) + jax.nn.silu(b - TABLE),
        jax.jit(lambda a: jnp.tanh(a * TABLE) - TABLE)(a),
        lax.scan(lambda x, row: (jnp.tanh(x + TABLE), x.sum(0) + row), a, b + TABLE),
        lax.cond(a[0, 0] > 0, lambda a: a - TABLE, lambda a: a * TABLE, a),
        jax.checkpoint(lambda a: jnp.exp(a - TABLE))(a) @ b,
    ),
    "product": lambda a, b: a @ b,
    "product of transposed": lambda a, b: a.T @ b,
    "sum of products": lambda a, b: jax.nn.relu(a @ b + b) @ a,
    "elementwise": lambda a, b: jnp.exp(a) * b + jnp.tanh(b) / (1 + a * a),
    "quotient": lambda a, b: a / (2 + jnp.abs(b)),
    "maximum": lambda a, b: jnp.maximum(a, 0.3) - jnp.minimum(b, a),
    "chosen": lambda a, b: jnp.where(a > 0.1, b, a) + jnp.where(b > 0, 1.0, a),
    "sums": lambda a, b: (jnp.exp(a).sum(0), jnp.exp(b).sum(1), (a + 1).sum()),
    "extremes": lambda a, b: (a.max(0), b.min(1), jnp.exp(a).max()),
    "normalized": lambda a, b: ((a - a.mean(1, keepdims=True)) * lax.rsqrt(a.var(1, keepdims=True) + 0.1)) @ b,
    "softmax": lambda a, b: jax.nn.softmax(a @ b.T) @ b,
    "reshaped": lambda a, b: (a.reshape(2, 8) @ b.reshape(8, 2), a.reshape(-1), (a - 1).reshape(4, 2, 2)),
    "moved": lambda a, b: (a.T, a[:, None] * b[None], jnp.broadcast_to(jnp.exp(a)[None], (2, 4, 4)), a.T[..., None]),
    "joined": lambda a, b: (jnp.concatenate([a, b], 1) @ jnp.concatenate([b, a], 0), jnp.concatenate([a, a + 1], 0)),
    "joined with zeros": lambda a, b: jnp.concatenate([a, jnp.zeros((4, 2))], 1) @ jnp.ones((6, 2)),
    "parts": lambda a, b: (a[1:3] @ b[:, ::2], jnp.exp(a)[:, 1:2], *jnp.split(b + 1, 2, axis=1)),
    "padded": lambda a, b: (jnp.pad(a, ((0, 0), (0, 2))), jnp.pad(jnp.exp(b), ((1, 0), (0, 0))), jnp.pad(a, 1)),
    "padded sums": lambda a, b: jnp.pad(a[:, :2], ((0, 0), (0, 2))) + b,
    "selected": lambda a, b: (
        jnp.select([a > 0], [b]),
        jnp.select([a > 0.1, b > 0], [b, a + 1], 2.0),
        jnp.where((a > 0) & jnp.full((4, 4), True), b, 0.0) @ b,
        jnp.where(jnp.full((4, 4), False) | (a > b), a, -1.0),
    ),
    "stacked": lambda a, b: (
        jnp.stack([a, b * 2, a], 1).sum(1) @ b,
        jnp.stack([jnp.exp(a), jnp.exp(b)], 0),
        jnp.stack([a, b], -1).reshape(4, 8),
        jnp.stack([a - a.mean(1, keepdims=True), b], 1),
    ),
    "stacked with constants": lambda a, b: (
        jnp.stack([a, jnp.ones((4, 4))], 1).sum(1) @ b,
        jnp.stack([jnp.zeros((4, 4)), b], -1),
    ),
    "unstacked": lambda a, b: (
        sum(jnp.unstack(a @ b, axis=1)),
        [jnp.exp(part) for part in jnp.unstack(jnp.exp(b), axis=1)],
        jnp.unstack(b, axis=0)[1] @ a,
        jnp.unstack(a - a.mean(1, keepdims=True), axis=0),
        sum(jnp.unstack(jnp.stack([a, jnp.exp(b)], 2), axis=2)),
    ),
    "tiled": lambda a, b: (
        jnp.tile(a, (2, 1)) @ b,
        jnp.tile(a, (1, 3)) @ jnp.tile(b, (3, 2)),
        jnp.tile(jnp.exp(a)[:, None], (1, 3, 1)),
        jnp.tile(a - a.mean(1, keepdims=True), (1, 2)),
        jnp.tile(b[None], (2, 2, 2)) * jnp.tile(jnp.ones((1, 1, 1)), (2, 8, 8)),
    ),
    "taken": lambda a, b: (jnp.take(a, jnp.array([2, 0]), axis=0), jnp.take(b, jnp.array([1, 1]), axis=1)),
    "unknown": lambda a, b: (jnp.sort(a, 1), jnp.cumsum(b, 0), lax.top_k(a, 2)[0]),
    "functions with derivatives": lambda a, b: jax.nn.relu(a @ b) + jax.nn.silu(a) * jax.nn.gelu(b) + jax.nn.relu6(b),
    "loop": lambda a, b: lax.fori_loop(0, 2, lambda _, x: jnp.tanh(x @ b) + x, a),
    "scan": lambda a, b: lax.scan(lambda x, row: (x * row[None], x + 1), a, b[:2]),
    "branches": lambda a, b: lax.cond(a[0, 0] > 0, lambda a: a @ b, lambda a: a - b, a),
    "rematerialised": lambda a, b: jax.checkpoint(lambda a: jnp.tanh(a @ b))(a) @ b,
    "integers": lambda a, b: (a > 0).astype(jnp.int32) * jnp.sign(b).astype(jnp.int32),
    "windows": lambda a, b: (
        lax.reduce_window(jnp.exp(a), -jnp.inf, lax.max, (2, 1), (1, 1), "SAME"),
        lax.reduce_window(jnp.exp(a), 0.0, lax.add, (1, 3), (1, 2), "SAME"),
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
@settings(deadline=None, max_examples=5, derandomize=True)
@given(cut_a=CUTS, cut_b=CUTS)
@pytest.mark.sampled(3)
def test_any_cut_computes_what_the_whole_arrays_do(name, cut_a, cut_b):
    a, b = values(4, 4), values(4, 4, seed=1)
    agree(PROGRAMS[name], sliced(a, cut_a), sliced(b, cut_b))


@pytest.mark.parametrize(
    "name",
    ["sum of products", "normalized", "functions with derivatives", "joined", "softmax", "constants in functions"],
)
@pytest.mark.sampled(3)
def test_gradients_are_those_of_what_is_left(name):
    a, b = sliced(values(4, 4), (None, (0, 2))), sliced(values(4, 4, seed=1), ((0, 2), (1, 2, 3)))

    def loss(function, a, b):
        return sum(jnp.sum(jnp.sin(out)) for out in jax.tree.leaves(function(a, b)))

    found = jax.grad(lambda a, b: loss(lift(PROGRAMS[name]), a, b), (0, 1))(a, b)
    whole = jax.grad(lambda a, b: loss(PROGRAMS[name], a.dense(), b.dense()), (0, 1))(a, b)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def conv(x, kernel, groups=1, strides=(1, 1)):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=numbers, feature_group_count=groups)


@settings(deadline=None, max_examples=12, derandomize=True)
@given(st.data(), st.sampled_from([(1, 4, 6), (2, 4, 6), (4, 4, 8), (4, 4, 4)]))
def test_any_cut_of_a_convolution(data, sizes):
    groups, inputs, outputs = sizes
    entries = lambda n: data.draw(st.none() | st.sets(st.integers(0, n - 1), min_size=1).map(sorted), label="entries")
    x = sliced(values(1, 3, 3, inputs), (None, None, None, entries(inputs)))
    kernel = sliced(values(3, 3, inputs // groups, outputs), (None, None, entries(inputs // groups), entries(outputs)))
    shift = data.draw(st.sampled_from([0.0, 1.0]))
    agree(lambda x, kernel: conv(x + shift, kernel, groups) - 1, x, kernel, tolerance=1e-4)


# What is computed is smaller


def test_a_product_drops_what_meets_zeros():
    a, b = sliced(values(2, 6), (None, (0, 1, 2, 4))), sliced(values(6, 5), ((0, 2, 3, 4), (1, 3)))
    assert agree(jnp.matmul, a, b) == [((2, 3), (3, 2))]
    assert agree(jnp.matmul, values(2, 6), b) == [((2, 4), (4, 2))]


def test_a_product_is_whole_where_something_else_than_zero_is_removed():
    a, b = sliced(values(2, 6), (None, (0, 1))), values(6, 5)
    assert agree(lambda a, b: jnp.exp(a) @ b, a, b) == [((2, 6), (6, 5))]
    b = sliced(b, ((0, 1), None))
    assert agree(lambda a, b: jnp.exp(a) @ b, a, b) == [((2, 2), (2, 5))]


@pytest.mark.parametrize(
    ("cut_x", "cut_kernel", "shapes"),
    [
        ([0, 2], [0, 1, 4, 5], ((1, 3, 3, 2), (3, 3, 1, 4))),  # whole groups go, by both
        (None, [0, 1, 4, 5], ((1, 3, 3, 2), (3, 3, 1, 4))),  # by the kernel alone
        ([0, 2], None, ((1, 3, 3, 2), (3, 3, 1, 4))),  # by the input alone
        (None, [0, 2, 4, 6], ((1, 3, 3, 4), (3, 3, 1, 4))),  # every group loses one
        (None, [0, 1, 2], ((1, 3, 3, 4), (3, 3, 1, 8))),  # uneven: no grouped convolution any more
    ],
)
def test_depthwise_convolutions_of_what_is_left(cut_x, cut_kernel, shapes):
    x = sliced(values(1, 3, 3, 4), (None, None, None, cut_x))
    kernel = sliced(values(3, 3, 1, 8), (None, None, None, cut_kernel))
    assert agree(lambda x, kernel: conv(x, kernel, 4), x, kernel, tolerance=1e-4) == [shapes]


def test_groups_of_a_convolution_lose_inputs_alike():
    x = sliced(values(1, 3, 3, 6), (None, None, None, [0, 2, 3, 5]))
    kernel = sliced(values(1, 1, 3, 4), (None, None, [0, 2], None))
    assert agree(lambda x, kernel: conv(x, kernel, 2), x, kernel) == [((1, 3, 3, 4), (1, 1, 2, 4))]


def test_thin_factors_stay_thin():
    factors = sliced(LowRank(values(6, 2), values(2, 5)), ([0, 1, 4], [0, 3]))
    assert agree(jnp.matmul, values(3, 6), factors) == [((3, 3), (3, 2)), ((3, 2), (2, 2))]
    x = sliced(values(3, 6), (None, [0, 1, 4]))
    assert agree(jnp.matmul, x, LowRank(values(6, 2), values(2, 5))) == [((3, 3), (3, 2)), ((3, 2), (2, 5))]


def test_masks_inside_stay():
    leaf = sliced(Masked(values(4, 4), values(4, 4, seed=1) > 0), ([0, 2], None))
    assert agree(jnp.matmul, values(3, 4), leaf) == [((3, 2), (2, 4))]


def test_a_scan_carries_what_is_left():
    first, stack = sliced(values(3, 6), (None, [0, 2, 5])), sliced(values(2, 6, 6), (None, [0, 2, 5], [0, 2, 5]))

    def layers(first, stack):
        return lax.scan(lambda x, w: (x + jnp.tanh(x @ w), x.sum(1)), first, stack)

    shapes = agree(layers, first, stack)
    assert shapes == [((3, 3), (3, 3))]
    text = str(jax.make_jaxpr(lift(layers))(first, stack))
    body = text[text.index("scan") :].split(" in (")[0]
    assert "3,3]" in body and "3,6]" not in body.split("dot_general")[0]


def test_a_scan_whose_turns_are_cut_otherwise_carries_whole_arrays():
    first, stack = sliced(values(3, 6), (None, [0, 2, 5])), sliced(values(2, 6, 6), (None, [0, 2, 5], [1, 2]))
    agree(lambda first, stack: lax.scan(lambda x, w: (jnp.tanh(x @ w), x), first, stack), first, stack)


def test_constants_are_cut_while_tracing():
    mean, kernel = np.float32([3, 1, 4, 1, 5]), sliced(values(2, 5), (None, [0, 2, 3]))

    def apply(x, kernel, scale, after):
        return jax.nn.relu((x @ kernel - mean[None]) * (lax.rsqrt(mean + 1e-3) * scale)[None]) @ after

    leaves = values(3, 2), kernel, sliced(values(5), ([0, 2, 3],)), sliced(values(5, 2), ([0, 2, 3], None))
    agree(apply, *leaves)
    program = jax.make_jaxpr(lift(apply))(*leaves)
    np.testing.assert_array_equal(program.consts[0].reshape(-1), [3, 4, 1])
    assert all(operation not in str(program) for operation in ("scatter", "gather", "pad", ",5]"))


def test_a_table_of_positions_stays_beside_what_is_cut():
    table = np.float32(np.arange(12).reshape(3, 4))

    def apply(x, a, b):
        return nn_layer_norm(x @ a + table) @ b

    a, b = sliced(values(2, 4), (None, [1, 2])), sliced(values(4, 5), ([1, 2], None))
    assert agree(apply, values(3, 2), a, b) == [((3, 2), (2, 2)), ((3, 2), (2, 5))]


def nn_layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)


def test_nan_and_infinity_of_what_is_removed_stay_away():
    scale = sliced(jnp.float32([2.0, 4.0, 8.0]), ([0, 2],))
    out = lift(lambda s: 1 / s * s)(scale)
    np.testing.assert_array_equal(out, [1, 0, 1])
    grads = jax.grad(lambda s: lift(lambda s: jnp.sum(1 / jnp.sqrt(s) * s))(s))(scale)
    assert np.isfinite(grads.weight).all()


def test_functions_of_their_own_derivative_keep_it():
    @jax.custom_jvp
    def odd(x):
        return jnp.sin(x)

    odd.defjvp(lambda primals, tangents: (odd(primals[0]), 7.0 * tangents[0] * primals[0]))
    leaf = sliced(values(2, 5), (None, [0, 3]))
    grads = jax.grad(lambda leaf: jnp.sum(lift(odd)(leaf)))(leaf)
    np.testing.assert_allclose(grads.weight, 7 * leaf.weight, rtol=1e-6)
    second = jax.grad(lambda leaf: jnp.sum(jax.grad(lambda leaf: jnp.sum(lift(odd)(leaf)))(leaf).weight))(leaf)
    np.testing.assert_allclose(second.weight, jnp.full((2, 2), 7.0), rtol=1e-6)


def test_vmap_of_stacks_and_repetitions_of_what_is_left():
    def apply(x, w):
        first, second = jnp.unstack(jnp.stack([x @ w, jax.nn.relu(x @ w)], 1), axis=1)
        return jnp.tile(first * second - TABLE[:1], (1, 2))

    leaf, x = sliced(values(6, 4), (None, [1, 3])), values(2, 3, 6)
    out = jax.vmap(lift(apply), (0, None))(x, leaf)
    expected = jnp.stack([apply(one, leaf.dense()) for one in x])
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_vmap_and_export_of_what_is_left():
    kernels = jnp.stack([values(6, 5), values(6, 5, seed=1)])
    leaf = jax.vmap(lambda kernel: sliced(kernel, ([0, 2, 4], [1, 3])))(kernels)
    x = values(3, 6)
    out = jax.vmap(lift(lambda w, x: jax.nn.relu(x @ w)), (0, None))(leaf, x)
    for i in range(2):
        np.testing.assert_allclose(out[i], jax.nn.relu(x @ leaf.dense()[i]), rtol=1e-5, atol=1e-6)
    small = sliced(kernels[0], ([0, 2, 4], [1, 3]))
    exported = jax.export.export(jax.jit(lambda x: lift(jnp.matmul)(x, small)))(x)
    np.testing.assert_allclose(exported.call(x), x @ small.dense(), rtol=1e-5, atol=1e-6)


# Values


def test_values_by_hand():
    x = Slices(jnp.float32([[1, 2], [3, 4]]), (2, 4), (None, (1, 3)), 5.0)
    np.testing.assert_array_equal(x.dense(), [[5, 1, 5, 2], [5, 3, 5, 4]])
    np.testing.assert_array_equal(narrowed(x, (None, (0, 3)), x.shape), [[5, 2], [5, 4]])
    np.testing.assert_array_equal(narrowed(x, (None, (0, 2)), x.shape), [[5, 5], [5, 5]])
    by_row = Slices(x.value, x.shape, x.keep, jnp.float32([[8], [9]]))
    np.testing.assert_array_equal(by_row.dense(), [[8, 1, 8, 2], [9, 3, 9, 4]])
    np.testing.assert_array_equal(narrowed(by_row, (None, (0, 3)), x.shape), [[8, 2], [9, 4]])
    other = Slices(jnp.float32([[1], [2]]), (2, 4), (None, (0,)), 0.0)
    assert united([x, other], (2, 4)) == (None, (0, 1, 3))
    assert outside(x, [1], (2, 4)) == 5.0 and outside(x, [0, 1], (2, 4)) is None
    assert outside(jnp.ones((2, 4)), [1], (2, 4)) is None and outside(jnp.ones((2, 1)), [1], (2, 4)).shape == (2, 1)
    assert sliceable(Slices(x.value, (2, 4), (None, (1, 3)), 5.0)).keep == ((1, 3),)
    spread = Spread(jnp.float32([[1, 2, 3, 4]]), (2, 4), jnp.float32)
    np.testing.assert_array_equal(narrowed(spread, (None, (1, 3)), (2, 4)), [[2, 4], [2, 4]])


def test_values_are_trees_that_keep_a_known_fill():
    x = Slices(jnp.ones((2, 2)), (2, 4), (None, (1, 3)), 0.5)
    through = jax.jit(lambda x: x)(x)
    assert (through.shape, through.keep, through.fill) == (x.shape, x.keep, 0.5)
    unknown = jax.jit(lambda x: x)(Slices(x.value, x.shape, x.keep, jnp.ones((2, 1))))
    assert unknown.fill.shape == (2, 1)
    assert jax.jit(lambda x: x)(Spread(3.0, (2,), jnp.dtype("float32"))).value == 3.0


def test_a_variable_may_be_both_operands_of_a_function_of_its_own_derivative():
    @jax.custom_jvp
    def product(x, y):
        return x * y

    product.defjvp(lambda primals, t: (product(*primals), t[0] * primals[1] + 3.0 * t[1] * primals[0]))
    leaf = sliced(values(2, 5), (None, [0, 3]))
    grads = jax.grad(lambda leaf: jnp.sum(lift(lambda x: product(x, x))(leaf)))(leaf)
    np.testing.assert_allclose(grads.weight, 4 * leaf.weight, rtol=1e-6)
