"""The packed file: restored bit for bit, and safe to read whatever its bytes are."""

import gc
import json
import struct
import time
import tracemalloc
import zlib

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
    LowRank,
    Masked,
    PackedFloat8,
    Quantized,
    Scaled,
    ScaledBinary,
    Ternary,
)
from jaxcompress.export import load, save
from jaxcompress.export.packed import default_limit, encode, from_bytes, overhead, to_bytes
from jaxcompress.ledger import ledger
from jaxcompress.paths import flatten
from tests.arrays.test_contract import EVERY_LEAF, LEAVES, assert_same_leaf

LIMIT = 2**20  # bytes of weights that hostile files may ask for here
PREFIX = struct.Struct("<4sBII")

MASK = np.array([[True, False, True], [False, False, True]])
CODES = jnp.array([[0, 1, 2], [2, 1, 0]], jnp.uint8)


def assert_same_tree(a, b):
    assert sorted(a) == sorted(b)
    for key, leaf in a.items():
        assert_same_tree(leaf, b[key]) if isinstance(leaf, dict) else assert_same_leaf(leaf, b[key])


def small_tree():
    """One leaf of every kind that a file can hold, and of every coding that fits in a few bytes."""
    clustered = Clustered(CODES, jnp.array([1.0, 2.0, 3.0]))
    return {
        "a": {"kernel": Masked(jnp.arange(1.0, 7.0).reshape(2, 3), jnp.asarray(MASK)), "bias": jnp.array([True])},
        "b": Masked(clustered, jnp.asarray(MASK)),
        "c": LowRank(jnp.ones((2, 1)), jnp.ones((1, 3))),
        "d": Quantized(CODES.astype(jnp.int8), jnp.full((1, 3), 0.5), jnp.ones((1, 3), jnp.int8), 3),
        "e": clustered,
        "f": Scaled(jnp.ones((1, 2)), jnp.full((1, 1), 0.5)),
        "g": PackedFloat8(CODES, jnp.ones((1, 1)), "e4m3"),
        "h": Quantized(jnp.ones((4, 1), jnp.int8), jnp.ones((2, 1)), jnp.ones((2, 1), jnp.int8), 3),
    }


def header_of(data):
    size = PREFIX.unpack_from(data)[3]
    return json.loads(zlib.decompress(data[PREFIX.size : PREFIX.size + size])), data[PREFIX.size + size :]


def file_of(header, body=b""):
    """Writes a file whose prefix and checksum are right, whatever its header says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return file_of_stored(zlib.compress(text), body)


def file_of_stored(stored, body=b""):
    rest = struct.pack("<I", len(stored)) + stored + body
    return b"JCPK\x01" + struct.pack("<I", zlib.crc32(rest)) + rest


def with_checksum(data):
    return data[:5] + struct.pack("<I", zlib.crc32(data[9:])) + data[9:]


def array(shape, dtype="float32", size=None):
    size = 4 * int(np.prod(shape)) if size is None else size
    return ["array", {"dtype": dtype, "shape": shape}, [["values", "raw", size]], {}]


def read_or_refuse(data, limit=LIMIT):
    """Reads strangers' bytes: only ValueError may escape, and what is read can be written and read again."""
    try:
        tree = from_bytes(data, limit=limit)
    except ValueError:
        return None
    if tree:
        assert_same_tree(from_bytes(to_bytes(tree)), pack(tree))
    return tree


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


# What is not a packed file.


def test_error_of_load_names_the_file(tmp_path):
    path = tmp_path / "broken.jcpk"
    path.write_bytes(to_bytes({"a": jnp.ones(2)})[:-1])
    with pytest.raises(ValueError, match=r"broken\.jcpk: .*truncated or corrupted"):
        load(path)


def test_missing_file_raises_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.jcpk")


def test_limit_bounds_the_weights(tmp_path):
    save(tmp_path / "model.jcpk", {"a": jnp.ones(100), "b": jnp.ones(100)})
    load(tmp_path / "model.jcpk", limit=800)
    with pytest.raises(ValueError, match="above the limit of 799"):
        load(tmp_path / "model.jcpk", limit=799)


DATA = to_bytes({"a": jnp.ones(2)})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "too few"),
        (DATA[:12], "too few"),
        (b"JCPX" + DATA[4:], "begins with b'JCPX'"),
        (DATA[:4] + b"\x02" + DATA[5:], "version 2; this program reads version 1"),
        (DATA[:4] + b"\x00" + DATA[5:], "version 0"),
        (DATA + b"\x00", "checksum"),
        (with_checksum(DATA + b"\x00"), "1 bytes follow the last stream"),
        (with_checksum(DATA[:-1]), "does not fit"),
        (with_checksum(DATA[:9] + struct.pack("<I", 2**32 - 1) + DATA[13:]), "header of 4294967295 bytes"),
        (file_of_stored(b"no zlib"), "header cannot be read"),
        (file_of_stored(zlib.compress(b"[]") + b"more"), "not one zlib stream"),
        (file_of_stored(zlib.compress(b"[]" * 99)[:-3]), "not one zlib stream"),
        (file_of(b"[1"), "header cannot be read"),
        (file_of(b"\xff\xfe[]"), "header cannot be read"),
        (file_of({}), "where a list belongs"),
        (file_of([[["a"]]]), "where a list belongs"),
        (file_of([[["a"], array([1]), 3]], bytes(4)), "where a list belongs"),
        (file_of([[["a"], ["array", {}, []]]]), "where a list belongs"),
        (file_of([["a", array([1])]], bytes(4)), "where a list belongs"),
        (file_of([[[1], array([1])]], bytes(4)), "where a str belongs"),
        (file_of([[[], array([1])]], bytes(4)), "no path"),
        (file_of([[["a"], array([1], size=-4)]], bytes(4)), "-4 bytes does not fit"),
        (file_of([[["a"], array([1], size=True)]], bytes(4)), "does not fit"),
        (file_of([[["a"], array([1], size=4.0)]], bytes(4)), "does not fit"),
        (file_of([[["a"], array([1], dtype="object")]], bytes(4)), "not an array this version reads"),
        (file_of([[["a"], array([1])], [["a"], array([1])]], bytes(8)), "given twice"),
        (file_of([[["a"], array([1])], [["a", "b"], array([1])]], bytes(8)), "goes through a leaf"),
        (file_of([[["a", "b"], array([1])], [["a"], array([1])]], bytes(8)), "given twice"),
        (file_of([[["a"], ["FakeQuantized", {}, [], {}]]]), "FakeQuantized"),
        (file_of([[["a"], ["Pruned", {}, [], {}]]]), "leaf kind 'Pruned' is not one of"),
    ],
)
def test_broken_files_are_refused_with_the_reason(data, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        from_bytes(data, limit=LIMIT)


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused(noise, behind_prefix):
    with pytest.raises(ValueError):
        from_bytes(file_of_stored(noise) if behind_prefix else noise, limit=LIMIT)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats() | st.sampled_from(["array", "Masked", "shape"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["shape", "u", "dtype"]), inner),
    max_leaves=8,
)


@given(JSON, JSON, JSON, st.binary(max_size=16))
@settings(max_examples=200, deadline=None)
def test_random_headers_are_refused_with_value_errors_alone(attributes, streams, parts, body):
    read_or_refuse(file_of([attributes, streams, parts], body))
    read_or_refuse(file_of([[["a"], ["array", attributes, streams, parts]]], body))
    read_or_refuse(
        file_of([[["a"], ["Masked", {"shape": attributes}, [["mask", "full", 0]], {"weight": parts}]]], body)
    )


def test_every_truncation_is_refused():
    data = to_bytes(small_tree())
    for size in range(len(data)):
        with pytest.raises(ValueError):
            from_bytes(data[:size], limit=LIMIT)
        with pytest.raises(ValueError):
            from_bytes(with_checksum(data[:size]) if size >= 9 else data[:size], limit=LIMIT)


def test_every_flipped_byte_is_refused():
    data = to_bytes(small_tree())
    for i in range(len(data)):
        for change in (1, 0x80, 0xFF):
            with pytest.raises(ValueError):
                from_bytes(data[:i] + bytes([data[i] ^ change]) + data[i + 1 :], limit=LIMIT)


@pytest.mark.slow
def test_flipped_bytes_under_a_right_checksum_raise_value_errors_alone():
    data = to_bytes(small_tree())
    restored = 0
    for i in range(9, len(data)):
        for change in (1, 0x80, 0xFF):
            flipped = with_checksum(data[:i] + bytes([data[i] ^ change]) + data[i + 1 :])
            restored += read_or_refuse(flipped) is not None
    assert restored > 0  # values may be any floats: the checks behind the checksum were reached


@pytest.mark.slow
def test_changed_header_characters_raise_value_errors_alone():
    header, body = header_of(to_bytes(small_tree()))
    text = json.dumps(header, separators=(",", ":")).encode()
    for i in range(len(text)):
        for other in b'0"':
            read_or_refuse(file_of(text[:i] + bytes([other]) + text[i + 1 :], body))


def numbers_in(header):
    """Lists how to reach every number of a header."""
    found = []

    def visit(value, way):
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            visit(inner, (*way, key))
        if isinstance(value, int):
            found.append(way)

    visit(header, ())
    return found


@pytest.mark.parametrize("number", [0, 1, 7, 2**16, 2**31, 2**62, 2**64, 10**40, -1, 0.5, True, None, "1", [], {}])
def test_changed_header_numbers_raise_value_errors_alone(number):
    data = to_bytes(small_tree())
    for way in numbers_in(header_of(data)[0]):
        header, body = header_of(data)
        place = header
        for key in way[:-1]:
            place = place[key]
        place[way[-1]] = number
        read_or_refuse(file_of(header, body))


# Bombs: small files that ask for much.


def peak_of(data, limit=LIMIT):
    gc.collect()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            from_bytes(data, limit=limit)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_zlib_bomb_is_refused_within_bounded_memory():
    bomb = file_of(b" " * 2**27)
    assert len(bomb) < 2**18
    assert peak_of(bomb) < 2**26


@pytest.mark.parametrize("depth", [10, 100, 300, 450, 480, 1000, 100_000])
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deeply_nested_json_is_refused(depth, opening):
    closing = b"]" if opening == b"[" else b"}"
    with pytest.raises(ValueError):
        from_bytes(file_of(opening * depth + b"1" + closing * depth), limit=LIMIT)


def escaping(data):
    """Returns the name of what escapes besides ValueError: pytest cannot print the traceback of a RecursionError."""
    try:
        from_bytes(data, limit=LIMIT)
    except ValueError:
        return None
    except Exception as error:
        return type(error).__name__
    return None


def test_deeply_nested_leaves_raise_value_errors_alone():
    start = '["Masked",{"shape":[1]},[["mask","full",0]],{"weight":'
    escaped = {}
    for depth in (10, 100, 200, *range(400, 500), 1000, 5000):  # where json gives up depends on the stack below
        leaf = start * depth + json.dumps(array([1])) + "}]" * depth
        escaped[depth] = escaping(file_of(f'[[["a"],{leaf}]]'.encode(), bytes(4)))
    assert set(escaped.values()) == {None}, {depth: name for depth, name in escaped.items() if name}


@pytest.mark.parametrize("depth", [100, 900, 5000])
def test_deep_path_raises_value_errors_alone(depth):
    assert escaping(file_of([[["a"] * depth, array([1])]], bytes(4))) is None


HUGE = int("7" * 4200)


@pytest.mark.parametrize(
    "shape",
    [[2**63], [2**63, 0], [0, 2**70], [2**32, 2**32], [2**32, 2**32, 0], [1] * 65, [HUGE] * 900],
    ids=lambda shape: str(shape)[:30],
)
def test_shapes_that_no_array_has_are_refused_at_once(shape):
    for leaf in (
        array(shape, size=0),
        ["Clustered", {"shape": shape}, [["codes", "fixed", 0]], {"centroids": array([1], size=0)}],
        ["Masked", {"shape": shape}, [["mask", "full", 0]], {"weight": array([1], size=0)}],
        ["Zeros", {"shape": shape}, [], {"zero": array([], size=0)}],
        ["Quantized", {"shape": shape, "bits": 4, "dtype": "float32"}, [["codes", "fixed", 0]], {}],
        ["Sliced", {"shape": shape, "fill": 0.0}, [["keep0", "full", 0]], {"weight": array([1], size=0)}],
    ):
        data = file_of([[["a"], leaf]])
        start = time.process_time()
        with pytest.raises(ValueError, match="has the shape|above the limit"):
            from_bytes(data)
        assert time.process_time() - start < 1


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1.0, 0.0, -0.0])
def test_scales_that_are_not_finite_and_positive_are_refused(scale):
    body = np.float32(scale).tobytes()
    quantized = ["Quantized", {"shape": [2], "bits": 4, "dtype": "float32"}, [["codes", "fixed", 1]], {}]
    float8 = ["PackedFloat8", {"shape": [2], "format": "e4m3", "dtype": "float32"}, [["codes", "fixed", 2]], {}]
    for leaf, codes in ((quantized, b"\x88"), (float8, b"\1\1")):
        leaf[3]["scale"] = array([1])
        from_bytes(file_of([[["a"], leaf]], codes + np.float32(1.5).tobytes()))
        with pytest.raises(ValueError, match="a: a scale of .* is not finite and positive"):
            from_bytes(file_of([[["a"], leaf]], codes + body))
    scaled = ["Scaled", {}, [], {"weight": array([1]), "factor": array([1])}]
    if not np.isfinite(scale):
        with pytest.raises(ValueError, match="a: a factor is not finite"):
            from_bytes(file_of([[["a"], scaled]], bytes(4) + body))


def test_a_negative_zero_is_not_what_is_gone():
    zeros = ["Zeros", {"shape": [3]}, [], {"zero": array([])}]
    from_bytes(file_of([[["a"], zeros]], np.float32(0.0).tobytes()))
    with pytest.raises(ValueError, match="weights that are gone are zero"):
        from_bytes(file_of([[["a"], zeros]], np.float32(-0.0).tobytes()))


@pytest.mark.parametrize(
    "text", [b'[[["a"],["array",{"dtype":"int8","dtype":"bool","shape":[]},[],{}]]]', b'[{"a":1,"a":1}]']
)
def test_keys_that_are_given_twice_are_refused(text):
    with pytest.raises(ValueError, match="gives one twice"):
        from_bytes(file_of(text))


@pytest.mark.parametrize("word", [b"NaN", b"Infinity", b"-Infinity"])
def test_numbers_that_json_does_not_know_are_refused(word):
    with pytest.raises(ValueError, match="is no number of JSON"):
        from_bytes(file_of(b"[" + word + b"]"))


def test_what_a_file_may_ask_for_follows_from_its_size():
    assert default_limit(0) == default_limit(2**16) == 2**26 and default_limit(2**20) == 2**30
    single = ["Clustered", {"shape": [2**24 + 1]}, [["codes", "fixed", 0]], {"centroids": array([1])}]
    small = file_of([[["a"], single]], bytes(4))
    with pytest.raises(ValueError, match="a: the weights need 67108872 bytes or more, above the limit of 67108864"):
        from_bytes(small)
    assert from_bytes(small, limit=2**27)["a"].size == 2**24 + 1
    noise = np.random.default_rng(0).bytes(2**17)
    large = file_of([[["a"], single], [["b"], array([len(noise)], "uint8", len(noise))]], bytes(4) + noise)
    assert from_bytes(large)["a"].size == 2**24 + 1


def test_the_entries_that_a_slice_keeps_count_as_memory():
    size = 2**15
    sliced = [
        "Sliced",
        {"shape": [size], "fill": 0.0},
        [["keep0", "bitmask", size // 8]],
        {"weight": array([size - 8])},
    ]
    data = file_of([[["a"], sliced]], b"\xff" * (size // 8 - 1) + b"\0" + bytes(4 * (size - 8)))
    with pytest.raises(ValueError, match="above the limit"):
        from_bytes(data, limit=12 * size)
    assert from_bytes(data, limit=48 * size)["a"].size == size


MASKED = ["Masked", {"shape": [2**40]}, [["mask", "full", 0]], {"weight": array([2**40], size=0)}]
SINGLE = ["Clustered", {"shape": [2**40]}, [["codes", "fixed", 0]], {"centroids": array([1])}]
QUANTIZED = [
    "Quantized",
    {"shape": [2**20, 2**20], "bits": 4, "dtype": "float32"},
    [["codes", "huffman", 1]],  # two bits for one symbol, four for which: it stands for any number of codes
    {"scale": array([1, 1])},
]


@pytest.mark.parametrize(
    ("leaf", "body"),
    [
        (MASKED, b""),
        (SINGLE, bytes(4)),
        (QUANTIZED, bytes(5)),
        (array([2**40], size=0), b""),
        (["LowRank", {"inputs": 1, "outputs": 1}, [], {"u": SINGLE, "v": SINGLE}], bytes(8)),
    ],
)
@pytest.mark.parametrize("limit", [LIMIT, None])
def test_huge_shapes_in_codings_of_no_bits_are_refused_within_bounded_memory(leaf, body, limit):
    assert peak_of(file_of([[["a"], leaf]], body), limit) < 2**20


def test_many_small_leaves_share_the_limit():
    single = ["Clustered", {"shape": [2**17]}, [["codes", "fixed", 0]], {"centroids": array([1])}]
    header = [[[str(i)], single] for i in range(3)]
    with pytest.raises(ValueError, match="above the limit"):
        from_bytes(file_of(header, bytes(12)), limit=LIMIT)
    assert len(from_bytes(file_of(header[:1], bytes(4)), limit=LIMIT)) == 1


@pytest.mark.parametrize(
    "shape", [[0, 2**31], [0, 2**62], [2**63, 0], [10**30, 0], [1] * 40 + [0], [1] * 70, [0] * 300, [1] * 64]
)
def test_odd_shapes_are_read_or_refused(shape):
    entries = 0 if 0 in shape else 1
    read_or_refuse(file_of([[["a"], array(shape, size=4 * entries)]], bytes(4 * entries)))
    clustered = ["Clustered", {"shape": shape}, [["codes", "fixed", 0]], {"centroids": array([1])}]
    read_or_refuse(file_of([[["a"], clustered]], bytes(4)))
    coding = "bitmask" if entries == 0 else "full"
    weight = array(shape, size=4 * entries)
    masked = ["Masked", {"shape": shape}, [["mask", coding, 0]], {"weight": weight}]
    read_or_refuse(file_of([[["a"], masked]], bytes(4 * entries)))


def test_stored_float64_is_never_shortened_in_silence():
    data = file_of([[["a"], array([1], "float64", 8)]], struct.pack("<d", 0.1))
    try:
        restored = from_bytes(data, limit=LIMIT)["a"]
    except ValueError:
        return
    assert (restored.dtype, np.asarray(restored).tobytes()) == (np.dtype("float64"), struct.pack("<d", 0.1))


def test_limit_counts_the_bytes_of_wide_dtypes():
    with jax.enable_x64(True):
        data = to_bytes({"a": jnp.ones(100, jnp.float64)})
        with pytest.raises(ValueError, match="above the limit"):
            from_bytes(data, limit=799)
