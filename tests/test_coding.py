import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.arrays import Clustered, FakeQuantized, LowRank, Masked, Quantized, decode, encode
from jaxcompress.coding import (
    DTYPES,
    Coded,
    Stream,
    columns,
    decode_array,
    decode_codes,
    decode_mask,
    encode_array,
    encode_codes,
    encode_mask,
)

KEPT = np.array([True, False, True, True, False, False])
WEIGHT = jnp.arange(1.0, 7.0).reshape(2, 3)
CODES = jnp.uint8([[0, 1, 2], [2, 1, 0]])


def array(value):
    return encode(jnp.asarray(value))


def clustered():
    return encode(Clustered(CODES, jnp.float32([1.0, 2.0, 3.0])))


def low_rank():
    return encode(LowRank(jnp.ones((2, 1)), jnp.ones((1, 3))))


def masked():
    return encode(Masked(jnp.where(KEPT.reshape(2, 3), WEIGHT, 0.0), jnp.asarray(KEPT.reshape(2, 3))))


def quantized(zero=0):
    codes = jnp.int8([[1, -2, 3], [3, 0, -4]])
    return encode(Quantized(codes, jnp.full((1, 3), 0.5), jnp.full((1, 3), zero, jnp.int8), 3))


def with_attributes(coded, **attributes):
    return coded._replace(attributes={**coded.attributes, **attributes})


def without_attribute(coded, name):
    return coded._replace(attributes={key: value for key, value in coded.attributes.items() if key != name})


def with_part(coded, **parts):
    return coded._replace(parts={**coded.parts, **parts})


def with_data(coded, change):
    return coded._replace(streams=tuple(s._replace(data=change(s.data)) for s in coded.streams))


BROKEN = {
    "unknown_kind": lambda: Coded("Pruned", {}),
    "array_without_dtype": lambda: without_attribute(array([1.0]), "dtype"),
    "array_of_unknown_dtype": lambda: with_attributes(array([1.0]), dtype="complex64"),
    "array_of_object_dtype": lambda: with_attributes(array([1.0]), dtype="object"),
    "array_of_dtype_that_is_no_text": lambda: with_attributes(array([1.0]), dtype=32),
    "array_without_shape": lambda: without_attribute(array([1.0]), "shape"),
    "array_of_negative_shape": lambda: with_attributes(array([1.0]), shape=[-1]),
    "array_of_float_shape": lambda: with_attributes(array([1.0]), shape=[1.0]),
    "array_of_bool_shape": lambda: with_attributes(array([1.0]), shape=[True]),
    "array_of_shape_that_is_no_list": lambda: with_attributes(array([1.0]), shape=1),
    "array_too_large_for_its_bytes": lambda: with_attributes(array([1.0]), shape=[2]),
    "array_far_too_large_for_its_bytes": lambda: with_attributes(array([1.0]), shape=[10**9, 10**9]),
    "array_cut_short": lambda: with_data(array([1.0, 2.0]), lambda data: data[:-1]),
    "array_with_bytes_left_over": lambda: with_data(array([1.0, 2.0]), lambda data: data + b"\0"),
    "array_without_values": lambda: array([1.0])._replace(streams=()),
    "bool_that_is_two": lambda: with_data(array([True]), lambda data: b"\2"),
    "clustered_without_centroids": lambda: clustered()._replace(parts={}),
    "clustered_without_codes": lambda: clustered()._replace(streams=()),
    "clustered_with_a_matrix_of_centroids": lambda: with_part(clustered(), centroids=array([[1.0, 2.0, 3.0]])),
    "clustered_with_integer_centroids": lambda: with_part(clustered(), centroids=array(jnp.int32([1, 2, 3]))),
    "clustered_with_no_centroids": lambda: with_part(clustered(), centroids=array(jnp.zeros(0))),
    "clustered_with_too_few_centroids": lambda: with_part(clustered(), centroids=array([1.0, 2.0])),
    "clustered_of_another_shape": lambda: with_attributes(clustered(), shape=[3, 30]),
    "clustered_in_an_unknown_coding": lambda: clustered()._replace(streams=(Stream("codes", "zip", b""),)),
    "low_rank_without_u": lambda: low_rank()._replace(parts={"v": low_rank().parts["v"]}),
    "low_rank_without_v": lambda: low_rank()._replace(parts={"u": low_rank().parts["u"]}),
    "low_rank_without_inputs": lambda: without_attribute(low_rank(), "inputs"),
    "low_rank_of_true_outputs": lambda: with_attributes(low_rank(), outputs=True),
    "low_rank_of_no_inputs": lambda: with_attributes(low_rank(), inputs=0),
    "low_rank_of_negative_inputs": lambda: with_attributes(low_rank(), inputs=-1),
    "low_rank_of_no_outputs": lambda: with_attributes(low_rank(), outputs=0),
    "low_rank_of_too_many_inputs": lambda: with_attributes(low_rank(), inputs=2),
    "low_rank_of_too_many_outputs": lambda: with_attributes(low_rank(), outputs=2),
    "low_rank_of_two_ranks": lambda: with_part(low_rank(), v=array(jnp.ones((2, 3)))),
    "low_rank_of_two_dtypes": lambda: with_part(low_rank(), v=array(jnp.ones((1, 3), jnp.bfloat16))),
    "low_rank_of_a_scalar": lambda: with_part(low_rank(), u=array(1.0)),
    "low_rank_of_two_stacks": lambda: with_part(low_rank(), u=array(jnp.ones((2, 2, 1))), v=array(jnp.ones((3, 1, 3)))),
    "masked_without_mask": lambda: masked()._replace(streams=()),
    "masked_without_weight": lambda: masked()._replace(parts={}),
    "masked_without_shape": lambda: without_attribute(masked(), "shape"),
    "masked_of_another_shape": lambda: with_attributes(masked(), shape=[3, 2]),
    "masked_of_more_entries": lambda: with_attributes(masked(), shape=[20, 30]),
    "masked_of_fewer_entries": lambda: with_attributes(masked(), shape=[1, 2]),
    "masked_with_values_missing": lambda: with_part(
        masked(), weight=with_data(masked().parts["weight"], lambda d: d[4:])
    ),
    "masked_weight_of_more_entries": lambda: with_part(
        masked(), weight=with_attributes(masked().parts["weight"], shape=[4, 3])
    ),
    "masked_codes_of_more_entries": lambda: with_part(masked(), weight=with_attributes(clustered(), shape=[4, 3])),
    "masked_low_rank_of_another_shape": lambda: with_part(
        masked(), weight=encode(LowRank(jnp.ones((3, 1)), jnp.ones((1, 2))))
    ),
    "quantized_without_bits": lambda: without_attribute(quantized(), "bits"),
    "quantized_of_1_bit": lambda: with_attributes(quantized(), bits=1),
    "quantized_of_9_bits": lambda: with_attributes(quantized(), bits=9),
    "quantized_of_true_bits": lambda: with_attributes(quantized(), bits=True),
    "quantized_of_float_bits": lambda: with_attributes(quantized(), bits=3.0),
    "quantized_of_dtype_int8": lambda: with_attributes(quantized(), dtype="int8"),
    "quantized_of_dtype_float64": lambda: with_attributes(quantized(), dtype="float64"),
    "quantized_of_another_shape": lambda: with_attributes(quantized(), shape=[20, 3]),
    "quantized_without_codes": lambda: quantized()._replace(streams=()),
    "quantized_without_scale": lambda: quantized()._replace(parts={}),
    "quantized_with_half_scale": lambda: with_part(quantized(), scale=array(jnp.ones((1, 3), jnp.float16))),
    "quantized_with_flat_scale": lambda: with_part(quantized(), scale=array(jnp.ones(3))),
    "quantized_with_scale_that_does_not_broadcast": lambda: with_part(quantized(), scale=array(jnp.ones((1, 2)))),
    "quantized_with_float_zero_point": lambda: with_part(quantized(1), zero_point=array(jnp.ones((1, 3)))),
    "quantized_with_zero_point_of_another_shape": lambda: with_part(
        quantized(1), zero_point=array(jnp.ones((1, 1), jnp.int8))
    ),
    "fake_quantized": lambda: Coded("FakeQuantized", {}),
}


@pytest.mark.parametrize("whole", [array([1.0]), clustered(), low_rank(), masked(), quantized(), quantized(1)])
def test_the_coded_leaves_that_are_broken_below_are_whole(whole):
    decode(whole)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_leaf_is_refused(name):
    with pytest.raises(ValueError):
        decode(BROKEN[name]())


def test_unknown_kind_lists_the_known_ones():
    with pytest.raises(ValueError, match="leaf kind 'Pruned' is not one of array, .*Clustered, .*FakeQuantized"):
        decode(Coded("Pruned", {}))


@pytest.mark.parametrize("name", [n for n in DTYPES if n != "float64"])
def test_array_of_every_dtype_is_restored_bit_for_bit(name):
    value = jnp.asarray([[0, 1, 1], [1, 0, 3]]).astype(name)
    restored = decode_array(encode_array(value))
    assert (restored.dtype, restored.shape) == (value.dtype, value.shape)
    assert np.asarray(restored).tobytes() == np.asarray(value).tobytes()


def test_special_floats_are_restored_bit_for_bit():
    value = jnp.float32([jnp.nan, -0.0, jnp.inf, 1e-40])
    assert np.asarray(decode_array(encode_array(value))).tobytes() == np.asarray(value).tobytes()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)])
def test_shapes_without_axes_or_entries_are_restored(shape):
    assert decode_array(encode_array(jnp.ones(shape))).shape == shape


def test_kept_entries_alone_are_stored():
    coded = encode_array(WEIGHT, KEPT)
    assert len(coded.stream("values").data) == 3 * 4
    np.testing.assert_array_equal(decode_array(coded, KEPT), [[1.0, 0.0, 3.0], [4.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match="does not fit"):
        decode_array(coded, KEPT[:5])
    with pytest.raises(ValueError, match="values of float32 need"):
        decode_array(coded, ~KEPT | KEPT)


def test_kept_codes_of_another_size_are_refused():
    with pytest.raises(ValueError, match="does not fit"):
        decode(clustered(), KEPT[:5])


def test_array_of_a_dtype_without_a_name_in_the_format_is_refused():
    with pytest.raises(ValueError, match="dtype complex64 cannot be stored"):
        encode_array(jnp.complex64(1))


def test_fake_quantized_is_stored_packed():
    leaf = FakeQuantized(WEIGHT, jnp.int32(4), (-2,))
    assert encode(leaf) == encode(leaf.pack())


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3)])
def test_mask_and_codes_round_trip(shape):
    mask = KEPT.reshape(shape)
    coded = Coded("x", {"shape": list(shape)}, (encode_mask(mask), encode_codes(mask.astype(np.int32), 5)))
    np.testing.assert_array_equal(decode_mask(coded), KEPT)
    np.testing.assert_array_equal(decode_codes(coded, 5, 6), KEPT.astype(np.int32))


def test_columns_are_the_last_axis():
    assert (columns(()), columns((7,)), columns((2, 3))) == (1, 7, 3)


def test_bytes_by_coding_counts_nested_leaves_and_equals_the_storage():
    leaf = Masked(Clustered(CODES, jnp.float32([1.0, 2.0, 3.0])), jnp.asarray(KEPT.reshape(2, 3))).pack()
    counts = encode(leaf).bytes_by_coding()
    assert counts["values:raw"] == 12
    assert {name.split(":")[0] for name in counts} == {"mask", "codes", "values"}
    assert 8 * sum(counts.values()) == leaf.storage_bits()


def test_missing_stream_part_and_attribute_are_named():
    coded = Coded("Masked", {"shape": [math.inf]})
    with pytest.raises(ValueError, match="Masked has no stream 'mask'"):
        coded.stream("mask")
    with pytest.raises(ValueError, match="Masked has no part 'weight'"):
        coded.part("weight")
    with pytest.raises(ValueError, match="Masked has no attribute 'bits' of type int"):
        coded.attribute("bits", int)
    with pytest.raises(ValueError, match="Masked has the shape"):
        coded.shape()
