"""Checks AdaRound: the objective by hand, codes next to the real ones, outputs nearer than by rounding to nearest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxcompress.numerics import affine
from jaxcompress.numerics.adaround import adaround, annealed, initial_logits, objective, rectified_sigmoid, soft_round

QUICK = {"steps": 600, "batch": 32, "learning_rate": 0.1}


def dense(weight, inputs):
    return inputs @ weight


def dense_relu(weight, inputs):
    return jax.nn.relu(inputs @ weight)


def conv(weight, inputs):
    return lax.conv_general_dilated(inputs, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def correlated(*shape, seed=1):
    """Draws inputs whose last axis has as many common causes as half its size."""
    rng = np.random.default_rng(seed)
    causes = rng.standard_normal((*shape[:-1], max(1, shape[-1] // 2)))
    return jnp.asarray(causes @ rng.standard_normal((causes.shape[-1], shape[-1])), jnp.float32)


def gaussian(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def reals(codes, scale, zero):
    return affine.dequantize(codes, scale, zero)


def per_output(value):
    """Returns the same scale or zero point for each of 6 outputs."""
    return jnp.full((1, 6), value, jnp.float32)


LAYERS = {
    "dense": (dense, gaussian(16, 6), correlated(64, 16), (0,)),
    "dense_relu": (dense_relu, gaussian(16, 6), correlated(64, 16), (0,)),
    "conv": (conv, gaussian(3, 3, 4, 5), correlated(24, 6, 6, 4), (0, 1, 2)),
}


@pytest.mark.parametrize(
    ("name", "symmetric"), [("dense", True), ("dense", False), ("dense_relu", False), ("conv", True)]
)
def test_outputs_are_nearer_than_those_of_rounding_to_nearest(name, symmetric, key):
    apply, weight, inputs, axes = LAYERS[name]
    scale, zero = affine.weight_range(weight, 4, axes, symmetric)
    targets = apply(weight, inputs)
    codes = adaround(weight, apply, inputs, targets, scale, zero, 4, symmetric, key=key, **QUICK)
    nearest = affine.quantize(weight, scale, zero, 4, symmetric)
    ours, theirs = (jnp.mean((apply(reals(c, scale, zero), inputs) - targets) ** 2) for c in (codes, nearest))
    assert codes.dtype == jnp.int8 and codes.shape == weight.shape
    assert ours < 0.7 * theirs


def test_two_inputs_by_hand(key):
    # Equal inputs see the sum, 0.75: the nearest integers sum to 0, but 1 is nearer, and 0.45 is the cheaper to raise.
    weight, inputs = jnp.array([[0.3], [0.45]]), gaussian(40, 1) * jnp.ones((1, 2))
    arguments = (weight, dense, inputs, dense(weight, inputs), jnp.float32(1), jnp.float32(0), 4, True)
    assert adaround(*arguments, key=key, **QUICK).tolist() == [[0], [1]]


def test_the_targets_may_be_those_of_other_inputs(key):
    # What an earlier layer lost, here a quarter of its outputs, is made up for where the rounding allows it.
    weight, inputs = gaussian(16, 6) * 2, jnp.abs(gaussian(64, 16, seed=1))
    targets, scale, zero = dense(weight, inputs / 0.75), per_output(1), per_output(0)
    codes = adaround(weight, dense, inputs, targets, scale, zero, 8, True, key=key, **QUICK)
    plain = adaround(weight, dense, inputs, dense(weight, inputs), scale, zero, 8, True, key=key, **QUICK)
    ours, theirs = (jnp.mean((dense(reals(c, scale, zero), inputs) - targets) ** 2) for c in (codes, plain))
    assert ours < 0.7 * theirs


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.booleans(), st.floats(0.1, 1.2))
def test_every_code_is_the_floor_or_the_ceiling_of_the_real_one_within_the_range(seed, bits, symmetric, part):
    weight, inputs = gaussian(16, 6, seed=seed), gaussian(64, 16, seed=seed + 1)
    scale, zero = affine.weight_range(part * weight, bits, (0,), symmetric)  # for part < 1 some weights are cut
    codes = adaround(
        *(weight, dense, inputs, dense(weight, inputs), scale, zero, bits, symmetric),
        key=jax.random.key(0),
        **QUICK,
    )
    position = weight / scale
    smallest, largest = -(2 ** (bits - 1)) + symmetric, 2 ** (bits - 1) - 1
    below, above = (jnp.clip(f(position) + zero, smallest, largest) for f in (jnp.floor, jnp.ceil))
    assert np.all((np.asarray(codes) == np.asarray(below)) | (np.asarray(codes) == np.asarray(above)))


def test_pruned_weights_and_others_on_the_grid_stay(key):
    weight = gaussian(16, 6).at[::2].set(0).at[1].set(jnp.arange(-3.0, 3.0) * 0.25)
    inputs, scale, zero = correlated(64, 16), per_output(0.25), per_output(1)
    codes = adaround(weight, dense, inputs, 3 * dense(weight, inputs), scale, zero, 4, False, key=key, **QUICK)
    assert bool(jnp.all(codes[::2] == 1)) and codes[1].tolist() == [-2, -1, 0, 1, 2, 3]


def test_the_same_key_gives_the_same_codes_and_another_may_not():
    weight, inputs, targets = gaussian(16, 6), correlated(64, 16), gaussian(64, 6)
    arguments = (weight, dense, inputs, targets, per_output(0.4), per_output(0), 3, True)
    first, again, *others = (adaround(*arguments, key=jax.random.key(seed), **QUICK) for seed in (0, 0, 1, 2, 3))
    np.testing.assert_array_equal(first, again)
    assert any(np.any(first != other) for other in others)


def test_fewer_examples_than_a_batch_are_all_taken(key):
    weight, inputs = gaussian(16, 6), correlated(5, 16)
    arguments = (weight, dense, inputs, dense(weight, inputs), jnp.float32(0.4), jnp.float32(0), 3, True)
    codes = adaround(*arguments, key=key, steps=30, batch=32)
    np.testing.assert_array_equal(codes, adaround(*arguments, key=jax.random.key(9), steps=30, batch=5))


def test_half_precision_layers_are_optimised_in_float32(key):
    weight, inputs = gaussian(16, 6).astype(jnp.bfloat16), correlated(64, 16).astype(jnp.bfloat16)
    scale, zero = affine.weight_range(weight.astype(jnp.float32), 4, (0,), True)
    codes = adaround(weight, dense, inputs, dense(weight, inputs), scale, zero, 4, True, key=key, **QUICK)
    assert bool(jnp.all(jnp.abs(reals(codes, scale, zero) - weight.astype(jnp.float32)) < scale))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=8, max_size=8))
def test_the_rectified_sigmoid_stays_between_zero_and_one(logits):
    h = np.asarray(rectified_sigmoid(jnp.array(logits, jnp.float32)))
    assert np.all((h >= 0) & (h <= 1))


def test_the_rectified_sigmoid_by_hand():
    # sigmoid(log 11) = 11 / 12, of which 1.2 times less 0.1 is 1; so both ends are reached at a finite logit.
    logits = jnp.array([-3.0, -np.log(11), 0.0, np.log(3), np.log(11), 3.0], jnp.float32)
    np.testing.assert_allclose(rectified_sigmoid(logits), [0, 0, 0.5, 0.8, 1, 1], atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.booleans())
def test_the_first_logits_give_the_weight_itself(seed, bits, symmetric):
    weight = gaussian(8, 3, seed=seed)
    scale, zero = affine.weight_range(weight, bits, (0,), symmetric)
    # A zero point that was rounded may leave half a code of the range beyond its ends.
    inside = (weight / scale + zero >= -(2.0 ** (bits - 1)) + symmetric) & (
        weight / scale + zero <= 2.0 ** (bits - 1) - 1
    )
    soft = soft_round(initial_logits(weight, scale), weight, scale, zero, bits, symmetric)
    np.testing.assert_allclose(np.asarray(soft)[inside], np.asarray(weight)[inside], atol=1e-6 * 2**bits)


def test_a_weight_on_the_grid_is_not_raised_and_one_beyond_the_range_is_cut():
    weight = jnp.array([0.0, 0.5, 0.6, -9.0])
    soft = soft_round(jnp.full(4, 3.0), weight, jnp.float32(0.5), jnp.float32(0), 4, True)
    assert soft.tolist() == [0, 0.5, 1, -3.5]


@pytest.mark.parametrize(
    ("time", "beta", "counts"), [(0.0, 20, 0), (0.1, 20, 0), (0.2, 20, 1), (0.6, 11, 1), (1.0, 2, 1)]
)
def test_annealing_by_hand(time, beta, counts):
    falling, strength = annealed(jnp.float32(time), (20.0, 2.0), 0.2)
    assert strength == counts
    np.testing.assert_allclose(falling, beta, rtol=1e-5)


def test_the_objective_by_hand():
    weight, logits = jnp.array([[0.25], [1.5]]), jnp.array([[0.0], [3.0]])  # h = 0.5 and 1: reals 0.5 and 2
    inputs, targets = jnp.array([[1.0, 1.0], [2.0, 0.0]]), jnp.array([[2.0], [0.0]])
    arguments = (logits, weight, dense, inputs, targets, jnp.float32(1), jnp.float32(0), 4, True)
    # Errors 0.5 and 1; of the two weights one is undecided.
    assert objective(*arguments, 2.0, 0.0) == (0.25 + 1) / 2
    np.testing.assert_allclose(objective(*arguments, 2.0, 0.5), (0.25 + 1) / 2 + 0.5, rtol=1e-6)


def test_the_regulariser_decides_every_weight(key):
    # Outputs alone would leave every h where it is, near one half.
    weight, inputs = jnp.array([[0.45], [0.55]]), gaussian(40, 2)
    arguments = (weight, dense, inputs, dense(weight, inputs), jnp.float32(1), jnp.float32(0), 4, True)
    assert adaround(*arguments, key=key, regularization=1.0, **QUICK).tolist() == [[0], [1]]


def two_outputs(weights, inputs):
    return jnp.concatenate([inputs @ weights["a"], jax.nn.relu(inputs @ weights["b"])], axis=-1)


def test_weights_that_share_no_output_get_jointly_the_gradients_that_they_get_alone():
    # Gradients, not codes: hundreds of steps of Adam make another order of a sum another code.
    weights, inputs = {"a": gaussian(16, 6), "b": gaussian(16, 4, seed=3)}, correlated(32, 16)
    scales = {name: affine.weight_range(weight, 3, (0,), True)[0] for name, weight in weights.items()}
    zeros, bits = jax.tree.map(jnp.zeros_like, scales), {"a": 3, "b": 3}
    targets = two_outputs(weights, inputs)
    for seed in range(8):
        logits = {"a": gaussian(16, 6, seed=10 + seed), "b": gaussian(16, 4, seed=20 + seed)}
        shared = (inputs, targets, scales, zeros, bits, True, 4.0, 0.01)
        joint = jax.grad(objective)(logits, weights, two_outputs, *shared)
        for name, apply, columns in (("a", dense, slice(0, 6)), ("b", dense_relu, slice(6, 10))):
            one = (inputs, targets[:, columns], scales[name], zeros[name], 3, True, 4.0, 0.01)
            alone = jax.grad(objective)(logits[name], weights[name], apply, *one)
            np.testing.assert_allclose(joint[name], alone, rtol=1e-4, atol=1e-5)


def two_layers(weights, inputs):
    return jax.nn.relu(inputs @ weights["a"]) @ weights["b"]


def test_layers_rounded_jointly_are_nearer_than_by_rounding_to_nearest(key):
    ours = theirs = 0.0
    for seed in (0, 2, 4):
        weights, inputs = {"a": gaussian(8, 6, seed=seed), "b": gaussian(6, 3, seed=100 + seed)}, correlated(64, 8)
        scales = {name: affine.weight_range(weight, 3, (0,), True)[0] for name, weight in weights.items()}
        zeros, bits = jax.tree.map(jnp.zeros_like, scales), {"a": 3, "b": 3}
        targets = two_layers(weights, inputs)
        options = {**QUICK, "learning_rate": 0.03, "regularization": 0.1, "key": key}
        codes = adaround(weights, two_layers, inputs, targets, scales, zeros, bits, True, **options)
        nearest = {name: affine.quantize(weights[name], scales[name], zeros[name], 3, True) for name in weights}
        errors = [
            float(jnp.mean((two_layers(jax.tree.map(reals, c, scales, zeros), inputs) - targets) ** 2))
            for c in (codes, nearest)
        ]
        ours, theirs = ours + errors[0], theirs + errors[1]
    assert ours < 0.7 * theirs


def test_importance_weighs_the_squares_by_hand():
    weight, logits = jnp.array([[0.25, 1.5]]), jnp.array([[0.0, 3.0]])  # reals 0.5 and 2
    inputs, targets = jnp.array([[1.0], [2.0]]), jnp.array([[0.0, 0.0], [0.0, 1.0]])
    arguments = (logits, weight, dense, inputs, targets, jnp.float32(1), jnp.float32(0), 4, True, 2.0, 0.0)
    importance = jnp.array([[4.0, 0.0], [1.0, 0.5]])
    assert objective(*arguments) == (0.25 + 4 + 1 + 9) / 2
    assert objective(*arguments, importance) == (4 * 0.25 + 0 + 1 + 0.5 * 9) / 2


def test_only_errors_of_importance_count(key):
    # The two outputs ask for opposite sums; that of importance gets its own.
    weight, inputs = jnp.array([[0.45], [0.45]]), gaussian(40, 1) * jnp.ones((1, 2))
    apply = lambda weight, inputs: jnp.tile(inputs @ weight, (1, 2))
    targets = jnp.concatenate([jnp.zeros((40, 1)), 2 * inputs[:, :1]], axis=1)
    arguments = (weight, apply, inputs, targets, jnp.float32(1), jnp.float32(0), 4, True)
    for column, code in ((0, 0), (1, 1)):
        importance = jnp.zeros((40, 2)).at[:, column].set(1)
        assert adaround(*arguments, importance=importance, key=key, **QUICK).tolist() == [[code], [code]]


def sound():
    weight, inputs = gaussian(16, 6), gaussian(64, 16)
    return {
        "weight": weight,
        "apply": dense,
        "inputs": inputs,
        "targets": dense(weight, inputs),
        "scale": per_output(1),
        "zero_point": per_output(0),
        "bits": 4,
        "symmetric": True,
        "key": jax.random.key(0),
        **QUICK,
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weight": gaussian(16, 6).at[0, 0].set(jnp.nan)}, r"weight of shape \(16, 6\) holds NaN"),
        ({"weight": jnp.ones((16, 6), int)}, "dtype int32 is empty or not floating-point"),
        ({"inputs": gaussian(64, 16).at[0, 0].set(jnp.inf)}, "inputs .* infinity"),
        ({"inputs": jnp.zeros((0, 16))}, "hold no example"),
        ({"targets": gaussian(9, 6)}, r"targets of shape \(9, 6\) are not of shape \(64, 6\)"),
        ({"targets": gaussian(64, 6).at[0, 0].set(jnp.nan)}, "targets .* NaN"),
        ({"bits": 1}, "bits 1 of weight is not an integer from 2 to 8"),
        ({"bits": 9}, "bits 9"),
        ({"scale": jnp.ones(6)}, r"scale of shape \(6,\) is neither \(\) nor"),
        ({"scale": jnp.ones((1, 2))}, r"scale of shape \(1, 2\)"),
        ({"scale": jnp.ones((1, 6)).at[0, 1].set(-1)}, "holds -1.0; all its entries must be positive"),
        ({"zero_point": jnp.ones((2, 6))}, r"zero_point of shape \(2, 6\)"),
        ({"scale": {"a": per_output(1)}}, "are not trees of the structure of weight"),
        ({"weight": {"a": gaussian(16, 6)}}, "are not trees of the structure of weight"),
        ({"importance": jnp.ones((64, 5))}, r"importance of shape \(64, 5\) are not of shape \(64, 6\)"),
        ({"importance": -jnp.ones((64, 6))}, "importance holds -1.0; none of its entries may be negative"),
        ({"importance": jnp.full((64, 6), jnp.nan)}, "importance .* NaN"),
        ({"steps": 0}, "steps 0"),
        ({"batch": 0}, "batch 0"),
        ({"warm_start": 1.5}, "warm_start 1.5"),
        ({"beta": (20.0, 0.5)}, "above 1"),
    ],
)
def test_what_cannot_be_rounded_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        adaround(**{**sound(), **changed})


def test_what_the_refusals_change_is_sound():
    assert adaround(**sound()).shape == (16, 6)
