"""Checks the numbers of channels that stay, and which, against a reading in plain Python."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcompress
from jaxcompress.interpreters.channels import Channels, Group, Member
from jaxcompress.prune import activity, importance, macs_left, select, select_within
from tests.prune.coupled import drawn, two_groups, two_layers

KEY = jax.random.key(0)


def groups(*counts):
    """Groups ``a:0``, ``b:0`` ... of so many channels each, with a second member ``a/next:1``."""

    def group(name, count):
        indices = np.arange(count)[:, None]
        return Group((Member(name, 0, indices), Member(f"{name}/next", 1, indices)))

    return Channels(tuple(group("abcdefgh"[i], count) for i, count in enumerate(counts)), {})


def names(counts):
    return [f"{'abcdefgh'[i]}:0" for i in range(len(counts))]


def kept_of(result):
    return {name: mask.tolist() for name, mask in result.items()}


def by_hand(scores, counts, round_to, at_least):
    """The largest of each group, earlier ones first among equals."""
    kept = {}
    for name, score in scores.items():
        count = min(len(score), round_to * int(np.ceil(max(counts[name], at_least) / round_to)))
        order = sorted(range(len(score)), key=lambda i: (-score[i], i))
        kept[name] = [i in order[:count] for i in range(len(score))]
    return kept


# Few values, so that ties are common; quarters are exact in float32.
values = st.integers(0, 4).map(lambda n: n / 4)
shapes = st.sampled_from([(4,), (3, 7), (1, 4, 7)])  # few, since each is compiled
scored = shapes.flatmap(lambda shape: st.tuples(*(st.lists(values, min_size=n, max_size=n) for n in shape)))
sparsities = st.floats(0, 0.999)
bounds = {"round_to": st.integers(1, 5), "at_least": st.integers(1, 4)}


@settings(deadline=None, max_examples=60)
@given(scores=scored, sparsity=sparsities, **bounds)
def test_a_layer_keeps_an_exact_number(scores, sparsity, round_to, at_least):
    made = dict(zip(names(scores), scores, strict=True))
    result = select(made, groups(*map(len, scores)), sparsity, round_to=round_to, at_least=at_least)
    counts = {name: len(score) - round(sparsity * len(score)) for name, score in made.items()}
    assert kept_of(result) == by_hand(made, counts, round_to, at_least)
    assert all(mask.dtype == bool and mask.any() for mask in result.values())


@settings(deadline=None, max_examples=60)
@given(scores=scored, sparsity=sparsities, **bounds)
def test_all_groups_keep_an_exact_number_together(scores, sparsity, round_to, at_least):
    made = dict(zip(names(scores), scores, strict=True))
    options = {"scope": "global", "normalize": "none", "round_to": round_to, "at_least": at_least}
    result = select(made, groups(*map(len, scores)), sparsity, **options)
    ranked = sorted(((-s, g, i) for g, score in enumerate(scores) for i, s in enumerate(score)))
    total = len(ranked)
    stay = ranked[: total - round(sparsity * total)]
    counts = {name: sum(g == index for _, g, _ in stay) for index, name in enumerate(made)}
    assert kept_of(result) == by_hand(made, counts, round_to, at_least)


def test_a_group_is_ranked_by_hand():
    result = select({"a:0": [0.2, 0.5, 0.1, 0.5]}, groups(4), 0.5)
    assert kept_of(result) == {"a:0": [False, True, False, True]}


def test_groups_are_compared_by_their_mean():
    scores = {"a:0": [1.0, 2.0, 3.0], "b:0": [100.0, 200.0, 300.0]}  # alike but for a factor
    result = select(scores, groups(3, 3), 1 / 3, scope="global")
    assert kept_of(result) == {"a:0": [False, True, True], "b:0": [False, True, True]}
    plain = select(scores, groups(3, 3), 0.5, scope="global", normalize="none")
    assert kept_of(plain) == {"a:0": [False, False, True], "b:0": [True, True, True]}  # one of `a` stays in any case


def test_groups_are_compared_by_their_norm():
    # Norms 5 and 13: 0.6, 0.8 against 5/13, 12/13.
    result = select({"a:0": [3.0, 4.0], "b:0": [5.0, 12.0]}, groups(2, 2), 0.25, scope="global", normalize="l2")
    assert kept_of(result) == {"a:0": [True, True], "b:0": [False, True]}


@pytest.mark.parametrize("normalize", ["mean", "l2"])
def test_a_group_of_zeros_goes_first(normalize):
    result = select({"a:0": [0.0, 0.0], "b:0": [1.0, 2.0]}, groups(2, 2), 0.5, scope="global", normalize=normalize)
    assert kept_of(result) == {"a:0": [True, False], "b:0": [True, True]}


def test_a_sparsity_by_pattern_takes_the_first_match():
    scores = {name: [1.0, 2.0, 3.0, 4.0] for name in ("a:0", "b:0", "c:0")}
    result = select(scores, groups(4, 4, 4), {"a/next:1": 0.5, "[ab]:0": 0.25})
    assert [int(mask.sum()) for mask in result.values()] == [2, 3, 4]


def test_a_group_without_scores_stays_whole():
    result = select({"b:0": [1.0, 2.0]}, groups(3, 2), 0.5, scope="global")
    assert kept_of(result) == {"a:0": [True, True, True], "b:0": [False, True]}


# Within a budget


@settings(deadline=None, max_examples=30)
@given(scores=scored, fraction=st.floats(0, 1), **bounds)
def test_the_most_channels_within_a_budget_stay(scores, fraction, round_to, at_least):
    made, there = dict(zip(names(scores), scores, strict=True)), groups(*map(len, scores))
    options = {"normalize": "none", "round_to": round_to, "at_least": at_least}

    def cost(kept):  # each layer's channels times those of the next
        counts = [1, *(int(mask.sum()) for mask in kept.values()), 1]
        return sum(a * b for a, b in zip(counts, counts[1:], strict=False))

    total = sum(map(len, scores))
    every = [select(made, there, (total - n) / total, scope="global", **options) for n in range(1, total + 1)]
    costs = [cost(kept) for kept in every]
    budget = costs[0] + fraction * (costs[-1] - costs[0])
    best = max(range(total), key=lambda i: (costs[i] <= budget, i))
    assert kept_of(select_within(made, there, cost, budget, **options)) == kept_of(every[best])


def test_multiply_adds_are_those_of_the_model_that_is_left():
    params, channels = two_groups()  # 4 inputs, 3 and 5 channels, 2 outputs
    cost = macs_left(two_layers, params, channels, jax.ShapeDtypeStruct((1, 4), jax.numpy.float32))
    kept = {"a:1": np.array([True, False, True]), "b:1": np.arange(5) > 1}
    assert cost({}) == 4 * 3 + 3 * 5 + 5 * 2 and cost(kept) == 4 * 2 + 2 * 3 + 3 * 2
    scores = importance.l1(params, channels)
    half = select_within(scores, channels, cost, 0.5 * cost({}))
    assert cost(half) <= 18
    total = sum(len(score) for score in scores.values())
    wider = [select(scores, channels, n / total, scope="global") for n in range(total)]
    most = max(sum(map(sum, k.values())) for k in wider if cost(k) <= 18)
    assert sum(map(sum, half.values())) == most


def test_a_budget_that_no_choice_meets_is_refused():
    with pytest.raises(ValueError, match="a budget of 1 does not suffice; the fewest channels cost 2"):
        select_within({"a:0": [1.0], "b:0": [1.0]}, groups(1, 1), lambda kept: sum(map(sum, kept.values())), 1)


# Channels that were removed before

GONE = np.array([True, False, True, False, True, True])


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("normalize", ["mean", "l2", "none"])
def test_what_is_gone_stays_so_and_counts(scope, normalize):
    """Six channels, the two of the highest scores gone: at a third none of the others goes, at a half one does."""
    there = groups(6, 4)
    there = there._replace(groups=(there.groups[0]._replace(left=GONE), there.groups[1]))
    scores = {"a:0": [3.0, 9.0, 1.0, 9.0, 2.0, 4.0]}
    options = {"scope": scope, "normalize": normalize}
    for sparsity, kept in ((0, [0, 2, 4, 5]), (1 / 3, [0, 2, 4, 5]), (0.5, [0, 4, 5]), (0.8, [5])):
        found = select(scores, there, sparsity, **options)
        assert np.flatnonzero(found["a:0"]).tolist() == kept and found["b:0"].all()
    rounded = select(scores, there, 0.5, round_to=6, **options)
    assert rounded["a:0"].tolist() == GONE.tolist()
    assert kept_of(select({"b:0": [1.0] * 4}, there, 0))["a:0"] == GONE.tolist()  # a group without scores


def test_a_budget_is_met_by_channels_that_are_left():
    there = groups(6)
    there = there._replace(groups=(there.groups[0]._replace(left=GONE),))
    scores = {"a:0": [3.0, 9.0, 1.0, 9.0, 2.0, 4.0]}
    for budget, kept in ((6, [0, 2, 4, 5]), (2, [0, 5])):
        found = select_within(scores, there, lambda kept: int(kept["a:0"].sum()), budget)
        assert np.flatnonzero(found["a:0"]).tolist() == kept


@pytest.mark.parametrize("score", [importance.fpgm, lambda params, channels: importance.random(KEY, channels)])
def test_iterations_come_to_the_sparsity_of_the_last(score):
    """Also by scores of which the removed channels may have the largest."""
    params, channels = two_groups(8, 12)
    for sparsity, counts in ((0.25, [6, 9]), (0.5, [4, 6]), (0.75, [2, 3])):
        channels = jaxcompress.channels(two_layers, params, jax.ShapeDtypeStruct((1, 4), jax.numpy.float32))
        params = jaxcompress.prune.remove(params, channels, select(score(params, channels), channels, sparsity))
        again = jaxcompress.channels(two_layers, params, jax.ShapeDtypeStruct((1, 4), jax.numpy.float32))
        assert [int(group.left.sum()) for group in again.groups] == counts
        assert (params["a"].weight.shape, params["b"].weight.shape) == ((4, counts[0]), tuple(counts))


# Bad input

TWO = {"a:0": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("scores", "sparsity", "options", "message"),
    [
        (TWO, 1.0, {}, r"sparsity 1.0 of every group is not a fraction in \[0, 1\); at 1 no channel is left"),
        (TWO, -0.1, {"scope": "global"}, "sparsity -0.1 of all groups"),
        (TWO, float("nan"), {}, "sparsity nan"),
        (TWO, {"a:0": 1.5}, {}, "sparsity 1.5 of 'a:0'"),
        (TWO, {"z:0": 0.5}, {}, r"pattern 'z:0' matches no member of a group.*there are:\n  a:0"),
        (TWO, {"b:0": 0.5}, {}, "pattern 'b:0' matches b:0, which has no scores"),
        (TWO, {"(": 0.5}, {}, "is not a regular expression"),
        (TWO, {"a:0": 0.5}, {"scope": "global"}, "a global sparsity is one number"),
        (TWO, 0.5, {"scope": "model"}, "scope 'model' is not one of layer, global"),
        (TWO, 0.5, {"normalize": "max"}, "normalize 'max' is not one of mean, l2, none"),
        (TWO, 0.5, {"round_to": 0}, "round_to=0 must be at least 1"),
        (TWO, 0.5, {"at_least": 0}, "at_least=0 must be at least 1"),
        ({}, 0.5, {}, "there are no scores of any group"),
        ({"a:1": [1.0, 2.0]}, 0.5, {}, r"there is no group 'a:1' \(did you mean 'a:0'\?\); there are a:0, b:0"),
        ({"a:0": [1.0]}, 0.5, {}, r"the scores of a:0 have the shape \(1,\); it has 2 channels"),
        ({"a:0": [1.0, -1.0]}, 0.5, {}, "the scores of a:0 are not all finite and at least zero"),
        ({"a:0": [1.0, np.nan]}, 0.5, {}, "the scores of a:0 are not all finite"),
    ],
)
def test_bad_input_is_refused_by_name(scores, sparsity, options, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        select(scores, groups(2, 2), sparsity, **options)


def test_scores_of_any_float_type_are_taken():
    result = select({"a:0": jax.numpy.asarray([1.0, 2.0], jax.numpy.bfloat16)}, groups(2), 0.5)
    assert kept_of(result) == {"a:0": [False, True]}


def test_groups_of_one_name_are_told_apart_by_their_index():
    def apply(params, x):
        left, right = jax.numpy.split(x @ params["a"], [2], axis=-1)
        return left @ params["b"] + right @ params["c"]

    params = {"a": drawn(4, 5), "b": drawn(2, 3, seed=1), "c": drawn(3, 3, seed=2)}
    x = drawn(6, 4, seed=3)
    channels = jaxcompress.channels(apply, params, x)
    assert [(group.name, group.channels) for group in channels.groups] == [("a:1", 2), ("a:1", 3)]
    for scores in (importance.l1(params, channels), activity.mean_activation(apply, params, channels, [x])):
        assert {key: len(score) for key, score in scores.items()} == {0: 2, 1: 3}
        kept = select(scores, channels, {"c:0": 0.5})
        assert {key: int(mask.sum()) for key, mask in kept.items()} == {0: 2, 1: 1}
        assert jaxcompress.prune.remove(params, channels, kept)["c"].weight.shape == (1, 3)
