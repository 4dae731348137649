"""Packed files are safe to read whatever their bytes are."""

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
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import pack
from jaxcompress.export import load, save
from jaxcompress.export.packed import default_limit, from_bytes, to_bytes
from tests.export.packed_files import (
    array,
    assert_same_tree,
    file_of,
    file_of_stored,
    header_of,
    small_tree,
    with_checksum,
)

LIMIT = 2**20  # bytes of weights that hostile files may ask for here


def read_or_refuse(data, limit=LIMIT):
    """Reads strangers' bytes: only ValueError may escape, and what is read can be written and read again."""
    try:
        tree = from_bytes(data, limit=limit)
    except ValueError:
        return None
    if tree:
        assert_same_tree(from_bytes(to_bytes(tree)), pack(tree))
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
