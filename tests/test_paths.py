import jax
import jax.numpy as jnp
import pytest

from jaxcompress.arrays import LowRank, Masked, Zeros
from jaxcompress.paths import did_you_mean, flatten, named_key, names, path_text, replaced, rewrite, select


def tree():
    low_rank = LowRank(jnp.ones((3, 1)), Masked(jnp.ones((1, 2)), jnp.ones((1, 2), bool)))
    return {
        "conv1": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
        "fc1": {"kernel": low_rank, "bias": jnp.ones(2)},
    }


def test_flatten_lists_a_compressed_leaf_once():
    assert list(flatten(tree())) == ["conv1/bias", "conv1/kernel", "fc1/bias", "fc1/kernel"]
    assert isinstance(flatten(tree())["fc1/kernel"], LowRank)


def test_names_go_on_inside_compressed_leaves():
    inside = ["fc1/kernel", "fc1/kernel/u", "fc1/kernel/v", "fc1/kernel/v/weight"]
    assert names(tree()) == ["conv1/bias", "conv1/kernel", "fc1/bias", *inside]


def test_path_text_joins_keys_of_every_kind():
    assert list(flatten({"a": [jnp.ones(1), (jnp.ones(1), {"b": jnp.ones(1)})]})) == ["a/0", "a/1/0", "a/1/1/b"]
    assert path_text(()) == ""


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("conv1/kernel", ["conv1/kernel"]),
        (".*bias", ["conv1/bias", "fc1/bias"]),
        ("(conv1|fc1)/bias", ["conv1/bias", "fc1/bias"]),
        ("fc1/kernel/u", ["fc1/kernel/u"]),
        ("fc1/kernel/[uv]", ["fc1/kernel/u", "fc1/kernel/v"]),
        ("fc1/kernel/v/weight", ["fc1/kernel/v/weight"]),
        ("fc1/.*", ["fc1/bias", "fc1/kernel"]),
        (".*", ["conv1/bias", "conv1/kernel", "fc1/bias", "fc1/kernel"]),
    ],
)
def test_pattern_selects_whole_paths_and_the_outermost_wins(pattern, expected):
    assert list(select(tree(), pattern)) == expected


@pytest.mark.parametrize("pattern", ["kernel", "conv1", "conv1/kern", "onv1/kernel", "fc1/kernel/", ""])
def test_pattern_must_match_the_whole_path(pattern):
    with pytest.raises(ValueError, match="matches no parameter"):
        select(tree(), pattern)


def test_rewrite_replaces_matches_and_keeps_the_rest():
    params = tree()
    out = rewrite(params, "fc1/kernel/u", lambda path, leaf: leaf * 0)
    assert not out["fc1"]["kernel"].u.any()
    assert out["fc1"]["kernel"].v.weight is params["fc1"]["kernel"].v.weight
    assert out["conv1"]["kernel"] is params["conv1"]["kernel"]
    assert params["fc1"]["kernel"].u.all()


def test_rewritten_leaf_is_not_searched_again():
    seen = []

    def wrap(path, leaf):
        seen.append(path)
        return Masked(leaf, jnp.ones(leaf.shape, bool))

    out = rewrite(tree(), "fc1/kernel(/weight|/u)?", wrap)
    assert seen == ["fc1/kernel"]
    assert isinstance(out["fc1"]["kernel"].weight, LowRank)


def test_unmatched_pattern_lists_the_paths_and_suggests_one():
    with pytest.raises(ValueError) as error:
        rewrite(tree(), "conv1/kernal", lambda path, leaf: leaf)
    message = str(error.value)
    assert "'conv1/kernal' matches no parameter (did you mean 'conv1/kernel'?)" in message
    for path in names(tree()):
        assert f"\n  {path}" in message


def test_unmatched_pattern_on_an_empty_tree():
    with pytest.raises(ValueError, match="the tree is empty"):
        rewrite({}, ".*", lambda path, leaf: leaf)


def test_bad_regular_expression_is_named():
    with pytest.raises(ValueError, match=r"pattern '\(fc1' is not a regular expression"):
        rewrite(tree(), "(fc1", lambda path, leaf: leaf)


def test_did_you_mean_is_silent_when_nothing_is_close():
    assert did_you_mean("zzz", ["conv1/kernel"]) == ""
    assert did_you_mean("masc", ["mask", "codes"]) == " (did you mean 'mask'?)"


def test_leaves_are_replaced_by_path():
    params = tree()
    made = replaced(params, {"fc1/kernel": jnp.zeros(1), "conv1/bias": params["fc1"]["kernel"]})
    assert made["conv1"]["kernel"] is params["conv1"]["kernel"] and made["fc1"]["kernel"].shape == (1,)
    assert isinstance(made["conv1"]["bias"], LowRank)
    with pytest.raises(ValueError, match=r"there is no parameter 'fc1/biaz' \(did you mean 'fc1/bias'\?\)"):
        replaced(params, {"fc1/biaz": jnp.zeros(1)})


def test_weights_that_are_gone_are_selected_by_no_pattern():
    params = {"a": Zeros(jnp.float32(0), (2, 3)), "b": jnp.ones(2)}
    assert names(params) == ["b"] and list(select(params, ".*")) == ["b"]
    with pytest.raises(ValueError, match="pattern 'a' matches no parameter"):
        select(params, "a")


def test_the_key_of_a_name_is_its_own_and_the_same_every_time():
    key = jax.random.key(0)
    assert named_key(key, "a") == jax.random.fold_in(key, 0xE8B7BE43)  # the CRC-32 of "a"
    assert len({jax.random.bits(named_key(key, name)).item() for name in ("fc1/kernel", "fc2/kernel", "")}) == 3


def test_the_box_around_an_array_is_no_part_of_its_path():
    attribute, key = jax.tree_util.GetAttrKey("value"), jax.tree_util.DictKey
    assert path_text((key("layers"), key(0), key("bias"), attribute)) == "layers/0/bias"
    assert path_text((key("value"), attribute)) == "value"
