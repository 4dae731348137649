"""Checks the masks against tables worked by hand and a stable sort in numpy: ties, denormals and infinities too."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.numerics.masks import keep_largest, keep_largest_of_each, kept_count
from tests.traces import Compiled

SIZE = 24
# dtype, the unsigned integer of its width, and the bits of its infinity: the non-negative floats are 0..infinity.
FORMATS = {
    "float32": (np.float32, np.uint32, 0x7F800000),
    "bfloat16": (ml_dtypes.bfloat16, np.uint16, 0x7F80),
    "float16": (np.float16, np.uint16, 0x7C00),
}
keep = jax.jit(keep_largest)
keep_each = jax.jit(jax.vmap(lambda scores, count: keep_largest([scores], count)[0], (None, 0)))


def reference(scores: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Sorts stably from the largest down, so that among equals the earlier entry comes first, and keeps the first."""
    flat = np.concatenate([s.reshape(-1) for s in scores]).astype(np.float64)
    mask = np.zeros(flat.size, bool)
    mask[np.argsort(-flat, kind="stable")[:count]] = True
    ends = np.cumsum([s.size for s in scores])[:-1]
    return [part.reshape(s.shape) for part, s in zip(np.split(mask, ends), scores, strict=True)]


@st.composite
def score_arrays(draw) -> np.ndarray:
    """Draws SIZE scores of any format and sign by their bits, from a small pool so that many are tied."""
    dtype, bits, infinity = FORMATS[draw(st.sampled_from(sorted(FORMATS)))]
    edges = [0, 1, 2, infinity - 1, infinity]
    pool = draw(st.lists(st.sampled_from(edges) | st.integers(0, infinity), min_size=1, max_size=SIZE))
    sign = 1 << 8 * np.dtype(bits).itemsize - 1
    pool = [entry | sign * draw(st.booleans()) for entry in pool]
    picks = draw(st.lists(st.integers(0, len(pool) - 1), min_size=SIZE, max_size=SIZE))
    return np.array([pool[i] for i in picks], bits).view(dtype)


COUNTS = st.integers(0, SIZE) | st.sampled_from([0, SIZE])


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, [[0, 0, 0], [0, 0, 0]]),
        (1, [[0, 1, 0], [0, 0, 0]]),  # of the two fives the earlier stays
        (2, [[0, 1, 0], [1, 0, 0]]),
        (3, [[0, 1, 0], [1, 0, 1]]),
        (4, [[1, 1, 0], [1, 0, 1]]),  # of the two ones the earlier stays
        (5, [[1, 1, 0], [1, 1, 1]]),
        (6, [[1, 1, 1], [1, 1, 1]]),
    ],
)
def test_keep_largest_by_hand(count, expected):
    (mask,) = keep_largest([jnp.array([[1.0, 5.0, 0.0], [5.0, 1.0, 3.0]])], count)
    np.testing.assert_array_equal(mask, np.array(expected, bool))


def test_among_equals_the_earlier_array_wins():
    masks = keep_largest([jnp.array([1.0, 2.0]), jnp.array([[2.0], [2.0]]), jnp.array(2.0)], 2)
    np.testing.assert_array_equal(masks[0], [False, True])
    np.testing.assert_array_equal(masks[1], [[True], [False]])
    np.testing.assert_array_equal(masks[2], False)


def test_of_all_zeros_the_first_stay():
    (mask,) = keep_largest([jnp.zeros(5)], 2)
    np.testing.assert_array_equal(mask, [True, True, False, False, False])


def test_denormals_are_told_apart():
    tiny = np.array([1, 3, 2, 0], np.uint32).view(np.float32)  # multiples of the smallest float, 2**-149
    (mask,) = keep([jnp.asarray(tiny)], 2)
    np.testing.assert_array_equal(mask, [False, True, True, False])


def test_infinity_outranks_the_largest_finite_score():
    (mask,) = keep([jnp.array([np.finfo(np.float32).max, np.inf, 1.0], jnp.float32)], 1)
    np.testing.assert_array_equal(mask, [False, True, False])


def test_negative_zero_ties_with_zero():
    (mask,) = keep([jnp.array([-0.0, 0.0])], 1)
    np.testing.assert_array_equal(mask, [True, False])


def test_negative_scores_by_hand():
    scores = jnp.array([-1.0, 2.0, -3.0, 0.0, -0.0, -2e-38, 1e-45])
    ranks = [1, 6, 3, 4, 5, 0, 2]  # places from the highest down
    for count in range(8):
        mask = np.zeros(7, bool)
        mask[ranks[:count]] = True
        np.testing.assert_array_equal(keep([scores], count)[0], mask)


def test_runs_by_hand():
    scores = jnp.array([[3.0, 0.0, 1.0, 2.0], [1.0, 1.0, -1.0, -2.0]])
    np.testing.assert_array_equal(keep_largest_of_each(scores, 1, 2, 1), [[1, 0, 0, 1], [1, 0, 1, 0]])
    np.testing.assert_array_equal(keep_largest_of_each(scores, 2, 4, -1), [[1, 0, 0, 1], [1, 1, 0, 0]])
    np.testing.assert_array_equal(keep_largest_of_each(scores, 1, 2, 0), [[1, 0, 1, 1], [0, 1, 0, 0]])


@settings(deadline=None, max_examples=40)
@given(score_arrays(), st.integers(0, 4), st.sampled_from([0, 1, 2, -1]))
def test_every_run_has_its_count_and_the_ranks_of_a_stable_sort(scores, count, axis):
    scores = np.concatenate([scores, scores[:8]]).reshape(4, 4, 2).swapaxes(2, axis)
    scores = np.concatenate([scores, scores], axis=axis) if scores.shape[axis] == 2 else scores
    mask = np.moveaxis(np.asarray(keep_largest_of_each(jnp.asarray(scores), count, 4, axis)), axis, -1)
    runs = np.moveaxis(scores, axis, -1).reshape(-1, 4)
    np.testing.assert_array_equal(mask.reshape(-1, 4), [reference([run], count)[0] for run in runs])


@pytest.mark.parametrize(("count", "kept"), [(-3, 0), (99, 4)])
def test_counts_are_clipped_to_what_there_is(count, kept):
    (mask,) = keep([jnp.array([4.0, 3.0, 2.0, 1.0])], count)
    assert int(mask.sum()) == kept


@settings(deadline=None, max_examples=150)
@given(score_arrays(), COUNTS)
def test_exact_count_and_the_ranks_of_a_stable_sort(scores, count):
    (mask,) = keep([jnp.asarray(scores)], count)
    assert mask.dtype == bool and int(mask.sum()) == count
    np.testing.assert_array_equal(mask, reference([scores], count)[0])


@settings(deadline=None, max_examples=60)
@given(score_arrays(), COUNTS)
def test_arrays_ranked_together_are_one_concatenated_array(scores, count):
    parts = [scores[:10].reshape(2, 5), scores[10:11].reshape(()), scores[11:]]
    masks = keep([jnp.asarray(part) for part in parts], count)
    (whole,) = keep([jnp.asarray(scores)], count)
    np.testing.assert_array_equal(np.concatenate([np.asarray(mask).reshape(-1) for mask in masks]), whole)
    assert [mask.shape for mask in masks] == [part.shape for part in parts]


@settings(deadline=None, max_examples=40)
@given(score_arrays(), COUNTS)
def test_masking_twice_changes_nothing(scores, count):
    (once,) = keep([jnp.asarray(scores)], count)
    (twice,) = keep([jnp.where(once, jnp.asarray(scores), jnp.asarray(-np.inf, scores.dtype))], count)
    np.testing.assert_array_equal(once, twice)


@settings(deadline=None, max_examples=40)
@given(score_arrays(), COUNTS)
def test_a_larger_count_keeps_what_a_smaller_one_kept(scores, count):
    (fewer,), (more,) = keep([jnp.asarray(scores)], count), keep([jnp.asarray(scores)], count + 1)
    assert np.all(np.asarray(more)[np.asarray(fewer)])


@settings(deadline=None, max_examples=25)
@given(score_arrays())
def test_vmap_over_counts_is_one_mask_a_count(scores):
    counts = jnp.arange(SIZE + 1)
    batch = keep_each(jnp.asarray(scores), counts)
    np.testing.assert_array_equal(batch.sum(1), counts)
    np.testing.assert_array_equal(batch, [reference([scores], int(count))[0] for count in counts])


def test_vmap_over_scores_ranks_each_row():
    rows = np.random.default_rng(0).integers(0, 4, (5, 9)).astype(np.float32)
    masks = jax.vmap(lambda row: keep_largest([row], 4)[0])(jnp.asarray(rows))
    np.testing.assert_array_equal(masks, [reference([row], 4)[0] for row in rows])


def test_formats_mixed_in_one_group_rank_by_value():
    half, single = np.array([1.5, 0.25], ml_dtypes.bfloat16), np.array([1.25, 1.5], np.float32)
    masks = keep_largest([jnp.asarray(half), jnp.asarray(single)], 2)
    np.testing.assert_array_equal(np.concatenate(masks), [True, False, False, True])


def test_a_traced_count_is_one_trace():
    keep_fresh = Compiled(lambda scores, count: keep_largest([scores], count)[0])
    sums = [int(keep_fresh(jnp.arange(7.0), count).sum()) for count in range(8)]
    assert sums == list(range(8))
    assert keep_fresh.calls == 1


@pytest.mark.parametrize(
    ("size", "sparsity", "expected"),
    [
        (10, 0.0, 10),
        (10, 1.0, 0),
        (10, 0.9, 1),
        (10, 0.24, 8),
        (10, 0.26, 7),
        (10, 0.25, 8),  # 2.5 removed, half to even: 2
        (10, 0.75, 2),  # 7.5 removed, half to even: 8
        (3, 0.5, 1),  # 1.5 removed, half to even: 2
        (1, 0.5, 1),
        (0, 0.5, 0),
    ],
)
def test_kept_count_by_hand(size, sparsity, expected):
    assert int(kept_count(size, sparsity)) == expected


@given(st.integers(0, 100_000), st.floats(0, 1, width=32))
@settings(deadline=None, max_examples=100)
def test_kept_count_is_the_nearest_integer(size, sparsity):
    removed = size - int(kept_count(size, sparsity))
    assert 0 <= removed <= size
    assert abs(removed - sparsity * size) <= 0.5 + size * 2.0**-23  # the product is rounded to float32


@pytest.mark.parametrize("size", [2**24 + 1, 10**8 + 1, 2**31 - 1])
def test_kept_count_of_large_groups_goes_from_all_to_nothing(size):
    # 2**24 + 1 is the first size that float32 cannot hold.
    assert int(kept_count(size, 0.0)) == size
    assert int(kept_count(size, 1.0)) == 0


def test_kept_count_takes_a_traced_sparsity():
    counts = jax.jit(jax.vmap(lambda sparsity: kept_count(8, sparsity)))(jnp.linspace(0, 1, 5))
    assert counts.dtype == jnp.int32 and counts.tolist() == [8, 6, 4, 2, 0]
