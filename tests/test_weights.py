"""Checks that every transform takes the same for weights, refuses the rest alike, and never overflows in silence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import additive, lc, prune, quantize
from jaxcompress.arrays import densify
from jaxcompress.weights import checked_weight

KEY = jax.random.key(0)


def every_transform(pattern):
    """Returns each transform of weights that needs no model, by a name."""
    return {
        "threshold": prune.threshold(pattern, 1.0),
        "magnitude": prune.magnitude(pattern, 0.5),
        "global": prune.magnitude(pattern, 0.5, scope="global"),
        "lamp": prune.by_score(pattern, 0.5, allocation="lamp"),
        "erk": prune.by_score(pattern, 0.5, allocation="erk"),
        "n_m": prune.n_m(pattern, 2, 4),
        "straight_through": prune.straight_through(pattern, 0.5),
        "sr_ste": prune.sr_ste(pattern, 2, 4),
        "movement": prune.movement(pattern, 0.5),
        "ac_dc": prune.ac_dc(pattern, 0.5, begin=1, end=9, compressed_steps=2, dense_steps=2),
        "rigl": prune.rigl(pattern, 0.5, lambda params, batch: jnp.float32(0), key=KEY, end=9),
        "set": prune.sparse_evolution(pattern, 0.5, key=KEY),
        "weights": quantize.weights(pattern, 4),
        "asymmetric": quantize.weights(pattern, 4, symmetric=False),
        "tensor": quantize.weights(pattern, 8, granularity="tensor", stochastic=True),
        "group": quantize.weights(pattern, 4, granularity="group", group=4),
        "codebook": quantize.codebook(pattern, 2),
        "density": quantize.codebook(pattern, 2, initial="density"),
        "random": quantize.codebook(pattern, 2, initial="random", key=KEY),
        "one_codebook": quantize.codebook(pattern, 2, scope="global"),
        "binary": quantize.binary(pattern),
        "xnor": quantize.binary(pattern, "xnor"),
        "twn": quantize.ternary(pattern),
        "ttq": quantize.ternary(pattern, "ttq"),
        "float8": quantize.float8(pattern),
        "float8_e5m2": quantize.float8(pattern, "e5m2", granularity="channel"),
        "lsq": quantize.lsq(pattern, 4),
        "lsq_2_bits": quantize.lsq(pattern, 2, granularity="channel"),
        "dorefa": quantize.dorefa(pattern, 4),
        "additive": additive(pattern, prune.magnitude(pattern, 0.5), quantize.codebook(pattern, 1), rounds=2),
    }


NAMES = list(every_transform("k"))
EVERY = pytest.mark.parametrize("name", NAMES)

REFUSED = {
    "nan": (np.full((8, 8), np.nan, np.float32), "k holds 64 entries that are not finite"),
    "one_inf": (np.float32([[1, 2, np.inf, 4]] * 4), "k holds 4 entries that are not finite"),
    "beyond_float32": (np.float64([[1, 2, 3, 1e300]] * 4), "k holds 4 entries that are not finite"),
    "no_rows": (np.zeros((0, 8), np.float32), r"k of shape \(0, 8\) is empty"),
    "no_columns": (np.zeros((8, 0), np.float32), r"k of shape \(8, 0\) is empty"),
    "int32": (np.arange(64).reshape(8, 8).astype(np.int32), "k of dtype int32 cannot be .*floating-point: float16, bf"),
    "int64": (np.arange(64).reshape(8, 8), "k of dtype int64 cannot be"),
    "uint8": (np.ones((8, 8), np.uint8), "k of dtype uint8 cannot be"),
    "bool": (np.ones((8, 8), bool), "k of dtype bool cannot be"),
    "complex64": (np.ones((8, 8), np.complex64), "k of dtype complex64 cannot be"),
    "float8": (np.ones((8, 8), jnp.float8_e4m3fn), "k of dtype float8_e4m3fn cannot be"),
    "float": (1.5, "k is a float, no array, and cannot be .*; weights are floating-point"),
    "int": (3, "k is a int, no array"),
    "text": ("a", "k is a str, no array"),
}


@EVERY
@pytest.mark.parametrize("kind", REFUSED)
def test_what_are_no_weights_is_refused_alike_by_every_transform(name, kind):
    leaf, told = REFUSED[kind]
    leaf = jnp.asarray(leaf) if kind in ("nan", "no_rows", "int32", "bool", "complex64") else leaf
    with pytest.raises(ValueError, match=told):
        every_transform("k")[name].init({"k": leaf, "other": jnp.ones((4, 4))})


def test_a_random_key_is_refused():
    with pytest.raises(ValueError, match="k of dtype key<fry> cannot be quantized"):
        quantize.weights("k", 4).init({"k": jax.random.split(KEY, 8).reshape(4, 2)})


@EVERY
@pytest.mark.parametrize("dtype, fill", [("float16", "mixed"), ("float32", "mixed"), ("float32", "equal")])
@pytest.mark.sampled(3)
def test_weights_near_the_largest_are_refused_or_right(name, dtype, fill):
    largest = float(jnp.finfo(dtype).max)
    values = np.full((8, 8), largest) if fill == "equal" else np.linspace(-1, 1, 64).reshape(8, 8) * largest
    params = {"k": jnp.asarray(values, jnp.float32).astype(dtype)}
    try:
        leaf = densify(every_transform("k")[name].init(params))["k"]
    except ValueError as error:
        assert "k of dtype" in str(error) and "too large to be" in str(error)
        return
    means = np.asarray(leaf, np.float64)
    assert np.isfinite(means).all() and leaf.dtype == dtype
    if name in ("codebook", "density", "random", "one_codebook"):
        assert np.abs(means - np.asarray(params["k"], np.float64)).max() <= 0.75 * largest
    if name in ("weights", "asymmetric", "tensor", "group", "float8", "float8_e5m2"):
        assert np.abs(means - np.asarray(params["k"], np.float64)).max() <= largest / 7
    if name == "threshold" and fill == "mixed":
        kept = np.abs(values) >= np.std(values)
        assert np.array_equal(means != 0, kept)


def test_a_threshold_of_half_precision_is_that_of_float32():
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(32, 32)) * 1000, jnp.float16)  # squares above 65504
    half = prune.threshold("k", 1.0).init({"k": weight})["k"]
    single = prune.threshold("k", 1.0).init({"k": weight.astype(jnp.float32)})["k"]
    np.testing.assert_array_equal(half.mask, single.mask)
    assert 0.2 < float(jnp.mean(half.mask)) < 0.5


def test_codebooks_of_large_weights_are_those_of_small_ones():
    small = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (16, 16)), jnp.float32)
    large = small * 2.0**127
    codes = [quantize.codebook("k", 3).init({"k": weight})["k"] for weight in (small, large)]
    np.testing.assert_array_equal(codes[0].codes, codes[1].codes)
    np.testing.assert_array_equal(codes[0].centroids * 2.0**127, codes[1].centroids)


def test_what_a_mask_removed_need_not_be_finite():
    pruned = prune.magnitude("k", 0.5).init({"k": jnp.arange(1.0, 9.0).reshape(2, 4)})
    leaf = pruned["k"]
    broken = {"k": type(leaf)(jnp.where(leaf.mask, leaf.weight, jnp.nan), leaf.mask, leaf.owner)}
    for name in ("weights", "codebook", "threshold", "lsq"):
        means = densify(every_transform("k")[name].init(broken))["k"]
        np.testing.assert_array_equal(means, densify(every_transform("k")[name].init(pruned))["k"])


FIXED = {
    "mask": lambda: prune.magnitude("k", 0.5).init({"k": jnp.ones((4, 4))}),
    "codes": lambda: quantize.codebook("k", 1).init({"k": jnp.arange(16.0).reshape(4, 4)}),
    "threshold": lambda: quantize.binary("k").init({"k": jnp.ones((4, 4))}),
    "bits": lambda: quantize.weights("k", 4).init({"k": jnp.ones((4, 4))}),
}


@pytest.mark.parametrize("field", FIXED)
@EVERY
def test_no_pattern_reaches_what_training_does_not_move(name, field):
    params = FIXED[field]()
    with pytest.raises(ValueError, match=f"pattern 'k/{field}' matches no parameter"):
        every_transform(f"k/{field}")[name].init(params)


ARRAYS_ALONE = {
    "centroids": lambda: quantize.codebook("k", 2).init({"k": jnp.arange(16.0).reshape(4, 4)}),
    "step": lambda: quantize.lsq("k", 4).init({"k": jnp.ones((4, 4))}),
    "positive": lambda: quantize.ternary("k", "ttq").init({"k": jnp.ones((4, 4))}),
    "scores": lambda: prune.movement("k", 0.5).init({"k": jnp.ones((4, 4))}),
}


@pytest.mark.parametrize("field", ARRAYS_ALONE)
@pytest.mark.parametrize("name", ["magnitude", "tensor", "binary", "dorefa"])
def test_what_stands_as_an_array_in_a_leaf_is_not_compressed_itself(name, field):
    with pytest.raises(ValueError, match=rf"k/{field} stands in a \w+, which takes no \w+ there"):
        every_transform(f"k/{field}")[name].init(ARRAYS_ALONE[field]())


def test_stochastic_rounding_keeps_the_leaf_that_it_draws_for():
    params = quantize.weights("k", 4, stochastic=True).init({"k": jnp.ones((4, 4))})
    with pytest.raises(ValueError, match="k/weight stands in a Dithered, which takes no Masked there"):
        prune.magnitude("k/weight", 0.5).init(params)
    inner = prune.magnitude("k/weight/weight", 0.5).init(params)
    assert int(jnp.count_nonzero(densify(inner)["k"])) == 8


def test_signs_that_a_later_transform_reached_into_are_not_clipped():
    binary = quantize.binary("k")
    params = quantize.codebook("k/weight", 1).init(binary.init({"k": jnp.arange(16.0).reshape(4, 4)}))
    with pytest.raises(ValueError, match="k/weight is Clustered; BinaryConnect clips plain or masked weights only"):
        binary.update(params, 1)


def test_the_lc_algorithm_checks_what_it_constrains():
    recipe = prune.magnitude("k", 0.5)
    with pytest.raises(ValueError, match="k of dtype int32 cannot be"):
        lc.direct(lambda params, _: recipe.init(params), {"k": jnp.arange(4)})


def test_a_weight_in_a_traced_init_is_not_looked_at():
    leaf = jax.jit(lambda k: quantize.weights("k", 4).init({"k": k}))(jnp.full((4, 4), jnp.nan))["k"]
    assert leaf.shape == (4, 4)


@pytest.mark.parametrize("leaf", [np.float64([[0.1]]), np.float32(2), np.ones((2, 2), np.float16)])
def test_numpy_arrays_become_those_that_jax_computes_with(leaf):
    checked = checked_weight("k", leaf, "pruned")
    assert isinstance(checked, jax.Array) and checked.dtype == jax.dtypes.canonicalize_dtype(leaf.dtype)
    np.testing.assert_array_equal(checked, leaf.astype(checked.dtype))
