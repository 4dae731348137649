"""The packed file: restored bit for bit, and what it cannot hold is refused by its path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import pack, prune, quantize
from jaxcompress.arrays import (
    Clustered,
    DoReFa,
    FakeQuantized,
    LearnedStep,
    Masked,
    ScaledBinary,
    Ternary,
)
from jaxcompress.export import load, save
from jaxcompress.export.packed import encode, from_bytes, overhead, to_bytes
from jaxcompress.ledger import ledger
from jaxcompress.paths import flatten
from tests.arrays.test_contract import EVERY_LEAF, LEAVES, assert_same_leaf
from tests.export.packed_files import array, assert_same_tree, file_of, header_of, small_tree

# Round trip.


@EVERY_LEAF
def test_every_leaf_is_restored_bit_for_bit_from_a_file_of_the_promised_size(name, tmp_path):
    params = {"layer": {"kernel": LEAVES[name]()}}
    size = save(tmp_path / "model.jcpk", params)
    assert_same_tree(load(tmp_path / "model.jcpk"), pack(params))
    assert size == (tmp_path / "model.jcpk").stat().st_size
    assert size == len(to_bytes(params)) == ledger(None, params).packed_bytes


def test_nested_trees_of_all_leaves_are_restored_bit_for_bit():
    params = {"a": {"b": {name: make() for name, make in LEAVES.items()}}, "c": jnp.arange(3), "ä/ö": jnp.ones(2)}
    assert_same_tree(from_bytes(to_bytes(params)), pack(params))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "int32", "uint32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3)])
def test_arrays_of_every_dtype_and_shape_are_restored(dtype, shape):
    params = {"x": jnp.ones(shape, dtype)}
    assert_same_tree(from_bytes(to_bytes(params)), params)


def test_special_floats_keep_their_bits():
    params = {"x": jnp.array([jnp.nan, -0.0, jnp.inf, 1e-40])}
    assert_same_tree(from_bytes(to_bytes(params)), params)


def test_numpy_arrays_and_python_numbers_are_stored_as_arrays():
    restored = from_bytes(to_bytes({"x": np.float32([1, 2]), "y": 1.5}))
    np.testing.assert_array_equal(restored["x"], [1.0, 2.0])
    assert float(restored["y"]) == 1.5


def test_empty_tree_is_restored():
    assert from_bytes(to_bytes({})) == {}


def test_empty_masked_and_clustered_leaves_are_restored():
    params = {
        "m": Masked(jnp.zeros((0, 3)), jnp.zeros((0, 3), bool)),
        "c": Clustered(jnp.zeros((2, 0), jnp.uint8), jnp.ones(2)),
        "n": Masked(jnp.zeros((3, 0)), jnp.zeros((3, 0), bool)),
    }
    assert_same_tree(from_bytes(to_bytes(params)), params)


def test_equal_trees_give_equal_bytes():
    assert to_bytes(small_tree()) == to_bytes(from_bytes(to_bytes(small_tree())))


def test_order_of_keys_does_not_matter():
    a, b = jnp.ones(2), jnp.zeros(3)
    assert to_bytes({"a": a, "b": b}) == to_bytes({"b": b, "a": a})


def test_overhead_and_streams_add_up_to_the_file():
    leaves = encode(small_tree())
    data = to_bytes(small_tree())
    header, body = header_of(data)
    assert [path for path, _ in header] == [list(path) for path, _ in leaves]
    assert overhead(len(data), leaves) == len(data) - len(body)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=3).filter(lambda s: s.isprintable()),
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2**31)),
        max_size=4,
    )
)
@settings(max_examples=20, deadline=None)
def test_random_sparse_trees_are_restored(spec):
    params = {}
    for name, (rows, columns, seed) in spec.items():
        draw = np.random.default_rng(seed)
        weight = jnp.asarray(draw.normal(size=(rows, columns)), jnp.float32)
        params[name] = Masked(weight, jnp.asarray(draw.random((rows, columns)) < 0.3))
    assert_same_tree(from_bytes(to_bytes(params)), pack(params))


# What cannot be stored.


@pytest.mark.parametrize(
    "params", [[jnp.ones(2)], {"a": (jnp.ones(2),)}, {3: jnp.ones(2)}, jnp.ones(2), {"a": {"b": [jnp.ones(1)]}}]
)
def test_trees_that_are_not_nested_dicts_are_refused(params, tmp_path):
    with pytest.raises(ValueError, match="a packed tree is nested dicts with text keys"):
        save(tmp_path / "model.jcpk", params)
    assert not list(tmp_path.iterdir())


def test_dtype_without_a_place_in_the_format_is_refused():
    with pytest.raises(ValueError, match="complex64 cannot be stored"):
        to_bytes({"a": jnp.ones(2, jnp.complex64)})


@pytest.mark.parametrize(
    "leaf, told",
    [
        (np.arange(3) + 2**40, "a/b of dtype int64 holds values that int32 does not"),
        (np.float64([0.1]), "a/b of dtype float64 holds values that float32 does not"),
        (np.float64([1e300]), "a/b of dtype float64 holds values that float32 does not"),
        (np.uint64([2**63]), "a/b of dtype uint64"),
        (0.1, "a/b of dtype float64 holds values that float32 does not"),
        (2**40, "a/b: a int is no array of numbers"),
        ("text", "a/b: a str is no array of numbers"),
        (np.array([None]), "a/b: a ndarray is no array of numbers"),
        (jax.random.key(0), r"a/b: an array of dtype key<fry> cannot be stored; allowed are bool"),
        (jnp.ones(2, jnp.float8_e4m3fn), "a/b: an array of dtype float8_e4m3fn cannot be stored"),
        (FakeQuantized(np.float64([[0.1]]), jnp.int32(4), (-2, -1)), "a/b/weight of dtype float64 holds values"),
        (jnp.ones((2, 2)).astype(jnp.complex64), "a/b: an array of dtype complex64 cannot be stored"),
    ],
)
def test_what_would_not_be_restored_is_refused_by_its_path(leaf, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        save(tmp_path / "model.jcpk", {"a": {"b": leaf}})
    assert not list(tmp_path.iterdir())


def test_numbers_that_the_narrower_type_holds_are_stored_in_it():
    tree = {"a": np.arange(3), "b": np.float64([0.5, -0.0, np.nan]), "c": np.int64(7), "d": True}
    restored = from_bytes(to_bytes(tree))
    assert [str(leaf.dtype) for leaf in restored.values()] == ["int32", "float32", "int32", "bool"]
    for name, leaf in tree.items():
        np.testing.assert_array_equal(restored[name], leaf)


def test_wide_numbers_are_stored_whole_where_jax_has_them(tmp_path):
    with jax.enable_x64(True):
        params = {"a": jnp.float64([0.1]), "q": FakeQuantized(jnp.ones((2, 2)) / 3, jnp.int32(4), (-2, -1))}
        assert params["q"].dtype == jnp.float64
        save(tmp_path / "model.jcpk", params)
        assert_same_tree(load(tmp_path / "model.jcpk"), pack(params))
    with pytest.raises(ValueError, match="a: .*float64 array can only be read with jax_enable_x64"):
        load(tmp_path / "model.jcpk")


TRANSFORMS = {
    "weights": lambda: quantize.weights("k", 4),
    "groups": lambda: quantize.weights("k", 4, granularity="group", group=2, symmetric=False),
    "codebook": lambda: quantize.codebook("k", 2),
    "binary": lambda: quantize.binary("k"),
    "xnor": lambda: quantize.binary("k", "xnor"),
    "twn": lambda: quantize.ternary("k"),
    "ttq": lambda: quantize.ternary("k", "ttq"),
    "float8": lambda: quantize.float8("k"),
    "lsq": lambda: quantize.lsq("k", 4),
    "dorefa": lambda: quantize.dorefa("k", 4),
    "magnitude": lambda: prune.magnitude("k", 0.5),
    "threshold": lambda: prune.threshold("k", 0.5),
    "movement": lambda: prune.movement("k", 0.5),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_a_transform_makes_of_a_float64_array_is_read_as_it_was_saved(name, tmp_path):
    kernel = np.random.default_rng(0).normal(size=(8, 8))
    params = TRANSFORMS[name]().init({"k": kernel})
    save(tmp_path / "model.jcpk", params)
    restored = load(tmp_path / "model.jcpk")
    assert restored["k"].dtype == jnp.float32
    assert_same_tree(restored, pack(TRANSFORMS[name]().init({"k": jnp.asarray(kernel)})))


@pytest.mark.parametrize(
    "leaf",
    [
        ScaledBinary(jnp.zeros((2, 3)), (-2,)),
        Ternary(jnp.zeros((2, 3)), jnp.float32(0.7), (-2, -1)),
        DoReFa(jnp.zeros((2, 3)), jnp.int32(1), (-2, -1)),
    ],
)
def test_all_zero_weights_have_a_scale_that_is_read(leaf, tmp_path):
    save(tmp_path / "model.jcpk", {"k": leaf})
    assert not load(tmp_path / "model.jcpk")["k"].dense().any()


def test_a_leaf_that_training_broke_is_refused_by_save_as_by_load(tmp_path):
    step = LearnedStep(jnp.ones((2, 2)), jnp.full((1, 1), jnp.inf), jnp.int32(4), 4)
    with pytest.raises(ValueError, match="a/k: a scale of Quantized is not finite and positive"):
        save(tmp_path / "model.jcpk", {"a": {"k": step}})
    assert not list(tmp_path.iterdir())


def test_an_nnx_state_is_saved_by_the_paths_of_its_variables(tmp_path):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(4, 3, rngs=rngs), nnx.Linear(3, 2, use_bias=False, rngs=rngs)])
            self.norm = nnx.BatchNorm(3, rngs=rngs)

    model = Model(nnx.Rngs(0))
    state = nnx.state(model)
    save(tmp_path / "model.jcpk", state)
    restored = load(tmp_path / "model.jcpk")
    assert list(flatten(restored)) == [
        *("layers/0/bias", "layers/0/kernel", "layers/1/kernel"),
        *("norm/bias", "norm/mean", "norm/scale", "norm/var"),
    ]
    assert_same_leaf(restored["layers"]["1"]["kernel"], model.layers[1].kernel[...])
    assert ledger(None, state).packed_bytes == (tmp_path / "model.jcpk").stat().st_size
    # An optimiser of NNX and its kin take it back by these paths.
    again = nnx.state(Model(nnx.Rngs(1)))
    nnx.replace_by_pure_dict(again, restored)
    assert_same_leaf(again["layers"][0]["kernel"][...], model.layers[0].kernel[...])


def test_a_compressed_nnx_state_is_saved_as_a_dict_is(tmp_path):
    _, params, _ = nnx.split(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.Param, ...)
    pruned = prune.magnitude("kernel.*", 0.5).init(params)
    save(tmp_path / "state.jcpk", pruned)
    plain = prune.magnitude("kernel", 0.5).init(nnx.to_pure_dict(params))
    assert (tmp_path / "state.jcpk").read_bytes() == to_bytes(plain)


def test_ten_layers_of_a_list_keep_their_numbers():
    state = nnx.State({"layers": {i: nnx.Param(jnp.full(1, i)) for i in range(12)}})
    restored = from_bytes(to_bytes(state))["layers"]
    assert {int(key): int(leaf[0]) for key, leaf in restored.items()} == {i: i for i in range(12)}


def test_two_keys_of_one_text_are_refused():
    with pytest.raises(ValueError, match="a/1: two keys of a mapping are the same text"):
        to_bytes(FrozenDict({"a": FrozenDict({1: jnp.ones(1), "1": jnp.ones(2)})}))


@pytest.mark.parametrize("key", ["a\x1b[2J", "a\nb", "\ud800", "\x00", "a\u2028b", "\x9b"])
def test_keys_that_would_change_the_screen_are_refused_by_both(key):
    with pytest.raises(ValueError, match="holds a control character or half of a surrogate pair"):
        to_bytes({"layer": {key: jnp.ones(1)}})
    with pytest.raises(ValueError, match="holds a control character or half of a surrogate pair"):
        from_bytes(file_of([[["layer", key], array([1])]], bytes(4)))


def test_paths_of_64_keys_are_the_longest():
    def nested(depth):
        return {"a": nested(depth - 1)} if depth else jnp.ones(1)

    assert_same_tree(from_bytes(to_bytes(nested(64))), nested(64))
    for depth in (65, 1000):
        with pytest.raises(ValueError, match="has more than 64 keys"):
            to_bytes(nested(depth)) if depth < 900 else to_bytes(deep(depth))
        with pytest.raises(ValueError, match="has more than 64 keys"):
            from_bytes(file_of([[["a"] * depth, array([1])]], bytes(4)))


def deep(depth):
    tree = leaf = {}
    for _ in range(depth):
        leaf["a"] = {}
        leaf = leaf["a"]
    leaf["w"] = np.ones(2, np.float32)
    return tree
