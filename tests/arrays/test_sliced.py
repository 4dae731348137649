"""Checks leaves of which slices are removed by hand, and that what is done to a leaf is done to what is left."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcompress as jc
from jaxcompress import arrays, prune, quantize
from jaxcompress.arrays import Clustered, FakeQuantized, LowRank, Masked, Quantized, Sliced, decode, encode, sliced
from jaxcompress.arrays.sliced import expand, shrunk, take
from jaxcompress.arrays.structure import describe, rebuild
from jaxcompress.export import packed
from jaxcompress.paths import flatten, names, rewrite

TABLE = jnp.arange(12.0).reshape(3, 4)


def test_what_is_left_by_hand():
    leaf = sliced(TABLE, [[0, 2], [1, 3]])
    np.testing.assert_array_equal(leaf.weight, [[1, 3], [9, 11]])
    np.testing.assert_array_equal(leaf.dense(), [[0, 1, 0, 3], [0, 0, 0, 0], [0, 9, 0, 11]])
    assert (leaf.shape, leaf.full_shape, leaf.keep) == ((3, 4), (3, 4), ((0, 2), (1, 3)))


def test_a_fill_stands_for_what_is_removed():
    leaf = Sliced(jnp.ones((1, 2)), (2, 3), ((1,), (0, 2)), 7.0)
    np.testing.assert_array_equal(leaf.dense(), [[7, 7, 7], [1, 7, 1]])


def test_an_axis_that_is_whole_is_none():
    assert sliced(TABLE, [None, range(4)]) is TABLE
    assert sliced(TABLE, [[1], range(4)]).keep == ((1,), None)


def test_more_is_removed_from_what_is_left():
    leaf = sliced(sliced(TABLE, [None, [0, 1, 3]]), [[0, 1], [1, 2, 3]])
    assert leaf.keep == ((0, 1), (1, 3))
    np.testing.assert_array_equal(leaf.weight, [[1, 3], [5, 7]])
    with pytest.raises(ValueError, match=r"nothing of axis 1 of \(3, 4\) would be left: \(0, 1, 3\) are"):
        sliced(sliced(TABLE, [None, [0, 1, 3]]), [None, [2]])


@pytest.mark.parametrize("entries", [[], [1, 0], [0, 0], [-1, 2], [2, 4]])
def test_what_are_no_ascending_entries_is_refused(entries):
    with pytest.raises(ValueError, match=r"are not ascending entries, one or more, of axis 1 of \(3, 4\)"):
        sliced(TABLE, [None, entries])


def test_another_number_of_axes_is_refused():
    with pytest.raises(ValueError, match=r"a shape \(3, 4\) has 2 axes; 1 are given"):
        sliced(TABLE, [None])


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_expanding_takes_back_what_taking_left(data):
    size = data.draw(st.integers(1, 7))
    entries = tuple(sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1))))
    array = np.arange(2.0 * size, dtype=np.float32).reshape(2, size)
    left = take(jnp.asarray(array), entries, 1)
    np.testing.assert_array_equal(left, array[:, list(entries)])
    expected = np.full_like(array, -3)
    expected[:, list(entries)] = array[:, list(entries)]
    keep = (None, entries if len(entries) < size else None)
    np.testing.assert_array_equal(expand(left, (2, size), keep, -3.0), expected)
    by_row = np.float32([[-3], [-4]])
    expected = np.where(expected == -3, by_row, expected)
    np.testing.assert_array_equal(expand(left, (2, size), keep, jnp.asarray(by_row)), expected)


# Leaves inside


def test_compressed_leaves_are_cut_inside():
    mask = TABLE % 2 == 0
    np.testing.assert_array_equal(sliced(Masked(TABLE, mask), [[0], None]).weight.mask, mask[:1])
    quantized = Quantized(jnp.ones((3, 4), jnp.int8), jnp.arange(4.0)[None], jnp.zeros((1, 4), jnp.int8), 4, "float32")
    left = sliced(quantized, [[2], [1, 3]]).weight
    assert left.codes.shape == (1, 2)
    np.testing.assert_array_equal(left.scale, [[1, 3]])
    factors = LowRank(TABLE, jnp.arange(20.0).reshape(4, 5))
    left = sliced(factors, [[0, 2], [1]])
    assert isinstance(left.weight, LowRank) and (left.weight.u.shape, left.weight.v.shape) == ((2, 4), (4, 1))
    np.testing.assert_array_equal(left.weight.dense(), factors.dense()[jnp.array([0, 2])][:, 1:2])
    shared = Clustered(jnp.int32([[0, 1, 2]] * 3), jnp.float32([5, 6, 7]))
    np.testing.assert_array_equal(sliced(shared, [[1], [2]]).weight.dense(), [[7]])


def test_stacks_of_factors_are_cut_by_layer():
    factors = LowRank(jnp.ones((3, 4, 2)), jnp.ones((3, 2, 5)))
    left = sliced(factors, [None, [0, 1], [2, 3]]).weight
    assert (left.u.shape, left.v.shape) == ((3, 2, 2), (3, 2, 2))


def test_scales_by_group_are_not_cut():
    leaf = FakeQuantized(TABLE, jnp.int32(4), (-2,), True, "q", 3)
    with pytest.raises(ValueError, match="FakeQuantized with scales by group of 3 inputs cannot be cut"):
        sliced(leaf, [[0], None])
    packed_leaf = leaf.pack()
    wide = dataclasses.replace(
        packed_leaf, codes=jnp.concatenate([packed_leaf.codes] * 2), scale=packed_leaf.scale[jnp.array([0, 0])]
    )
    with pytest.raises(ValueError, match=r"Quantized of shape \(6, 4\) cannot be cut: its scale has shape \(2, 4\)"):
        sliced(wide, [[0], None])


def tree():
    return {"fc": {"kernel": sliced(jax.random.normal(jax.random.key(0), (6, 8)), [[0, 2, 3, 5], [1, 2, 4, 6, 7]])}}


def test_a_path_is_that_of_what_is_left():
    params = tree()
    assert names(params) == ["fc/kernel"]
    seen = []
    changed = rewrite(params, "fc/kernel", lambda path, leaf: seen.append((path, leaf.shape)) or Masked(leaf, leaf > 0))
    assert seen == [("fc/kernel", (4, 5))]
    leaf = changed["fc"]["kernel"]
    assert isinstance(leaf, Sliced) and isinstance(leaf.weight, Masked) and leaf.shape == (6, 8)


def test_transforms_work_on_what_is_left():
    recipe = jc.chain(
        prune.magnitude("fc/kernel", sparsity=0.5), quantize.weights("fc/kernel", bits=4, granularity="channel")
    )
    params = recipe.init(tree())
    leaf = recipe.update(params, 1)["fc"]["kernel"]
    assert (
        isinstance(leaf, Sliced) and isinstance(leaf.weight, FakeQuantized) and isinstance(leaf.weight.weight, Masked)
    )
    assert int(leaf.weight.weight.mask.sum()) == 10
    alone = recipe.update(recipe.init(shrunk(tree())), 1)["fc"]["kernel"]
    np.testing.assert_array_equal(leaf.weight.dense(), alone.dense())
    trained, fixed = jc.partition(params)
    assert [a.shape for a in jax.tree.leaves(trained)] == [(4, 5)]
    assert jax.tree.structure(jc.combine(trained, fixed)) == jax.tree.structure(params)
    factors = jc.factorize.svd("fc/kernel", rank=2).init(tree())["fc"]["kernel"]
    assert isinstance(factors.weight, LowRank) and factors.weight.u.shape == (4, 2)


# Storage


def test_a_file_holds_what_is_left_and_a_bit_for_each_entry_of_a_cut_axis():
    leaf = sliced(jnp.ones((16, 24)), [range(0, 16, 3), None])
    assert leaf.storage_bits() <= 32 * 6 * 24 + 16
    params = jc.pack({"fc": {"kernel": leaf}, "bias": jnp.ones(3)})
    restored = packed.from_bytes(packed.to_bytes(params))
    assert restored["fc"]["kernel"].keep == leaf.keep
    np.testing.assert_array_equal(restored["fc"]["kernel"].dense(), leaf.dense())


def test_the_ledger_counts_what_is_left():
    params = tree()
    (entry,) = jc.ledger(None, params).entries
    assert (entry.kind, entry.parameters, entry.nonzero, entry.dense_bytes) == ("Sliced(float32)", 48, 20, 192)
    assert entry.packed_bytes == 80 + 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c._replace(streams=c.streams[:1]), "is not what is left"),
        (lambda c: c._replace(streams=()), "do not describe what is left"),
        (lambda c: c._replace(streams=(c.streams[0]._replace(role="keep2"), c.streams[1])), "do not describe"),
        (lambda c: c._replace(streams=(c.streams[0]._replace(data=b"\x00"), c.streams[1])), "keeps 0 of them|bit"),
        (lambda c: c._replace(streams=(c.streams[0]._replace(data=b"\x2d\x00"), c.streams[1])), "bytes?"),
        (lambda c: c._replace(attributes=c.attributes | {"fill": float("nan")}), "fill nan"),
        (lambda c: c._replace(attributes=c.attributes | {"fill": "0"}), "no attribute 'fill'"),
        (lambda c: c._replace(attributes=c.attributes | {"shape": [6, 9]}), "bytes?"),
    ],
)
def test_what_is_no_sliced_leaf_is_not_read(change, message):
    coded = encode(tree()["fc"]["kernel"].pack())
    assert [stream.role for stream in coded.streams] == ["keep0", "keep1"]
    with pytest.raises(ValueError, match=message):
        decode(change(coded))


def test_a_stack_of_leaves_comes_back_from_a_file(tmp_path):
    stack = Sliced(jnp.arange(24.0).reshape(2, 3, 4), (3, 6), (None, (0, 2, 3, 5)))
    packed.save(tmp_path / "stack.jcpk", {"a": stack})
    found = packed.load(tmp_path / "stack.jcpk")["a"]
    assert found.shape == (2, 3, 6)
    np.testing.assert_array_equal(found.dense(), stack.dense())


def test_its_structure_is_written_down_in_json():
    params = tree()
    description = json.loads(json.dumps(describe(params)))
    restored = rebuild(description, jax.tree.leaves(params))
    assert jax.tree.structure(restored) == jax.tree.structure(params)


# Stacks


def test_a_scan_takes_its_layers():
    whole = jax.random.normal(jax.random.key(1), (3, 4, 4))
    leaf = sliced(whole, [None, [0, 2], [1, 3]])
    layers = leaf.stacked()
    assert layers is not None and layers.shape == (3, 4, 4)
    for i in range(3):
        layer = jax.tree.map(lambda a, i=i: a[i], layers)
        assert layer.shape == (4, 4)
        np.testing.assert_array_equal(layer.dense(), leaf.dense()[i])
    np.testing.assert_array_equal(layers.dense(), leaf.dense())
    assert sliced(whole, [[0, 2], None, [1]]).stacked() is None


def test_flattening_lists_it_as_one_leaf():
    params = tree()
    assert list(flatten(params)) == ["fc/kernel"] and arrays.is_compressed(flatten(params)["fc/kernel"])


def test_false_in_a_mask_stands_for_the_leaf():
    leaf = sliced(jnp.ones((2, 4)), (None, [0, 2]))
    tree = {"a": leaf, "b": jnp.ones(3)}
    assert jax.tree.map(lambda w: w.ndim < 2, tree) == {"a": False, "b": True}
    kept = jax.tree.map(lambda w: w.ndim > 1, tree)["a"]
    assert isinstance(kept, Sliced) and kept.weight is True and kept.keep == leaf.keep
    assert jax.tree.unflatten(jax.tree.structure(leaf), [np.zeros(())]).keep == leaf.keep
    keys = [jax.tree_util.keystr(keys) for keys, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    assert keys == ["['a'].weight", "['b']"]
