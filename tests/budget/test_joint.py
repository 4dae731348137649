"""Sparsity, bits and rank at once: what each level makes of a kernel, and the best of all choices."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.arrays import FakeQuantized, LowRank, Masked, SpatialLowRank, dense
from jaxcompress.budget import (
    Level,
    chosen,
    excess_memory,
    forms,
    grid,
    leaf_errors,
    levels_within,
    packed_bytes,
    recipe,
)
from jaxcompress.export import packed

KEYS = jax.random.split(jax.random.key(0), 3)
PARAMS = {
    "conv": {"kernel": jax.random.normal(KEYS[0], (3, 3, 8, 8)), "bias": jnp.ones(8)},
    "fc": {"kernel": jax.random.normal(KEYS[1], (16, 12)), "bias": jnp.zeros(12)},
}
KERNELS = ".*/kernel"


def test_every_combination_but_the_kernel_as_it_is():
    assert grid(bits=(4,)) == [Level(bits=4)]
    found = grid((0.5,), (0.5, 0.9), (2, 4, 8))
    assert len(found) == len(set(found)) == 2 * 3 * 4 - 1
    assert Level() not in found and Level(0.5, 0.9, 2) in found


def test_a_level_is_factored_then_pruned_then_rounded():
    made = recipe({"fc/kernel": Level(0.5, 0.75, 4)}).init(PARAMS)
    leaf = made["fc"]["kernel"]
    assert isinstance(leaf, LowRank) and leaf.u.shape == (16, 3)  # 3 * 28 of 192 weights are the most within a half
    for part in (leaf.u, leaf.v):
        assert isinstance(part, FakeQuantized) and isinstance(part.weight, Masked)
        values = np.asarray(dense(part))
        assert np.count_nonzero(values) <= 0.25 * values.size
        for column in values.T:
            assert len(set(np.abs(column).tolist())) <= 8  # 4 bits of either sign
    np.testing.assert_array_equal(made["conv"]["kernel"], PARAMS["conv"]["kernel"])


def test_masks_may_be_around_what_is_rounded():
    leaf = recipe({"fc/kernel": Level(None, 0.5, 4)}, order=("rank", "bits", "sparsity")).init(PARAMS)["fc"]["kernel"]
    assert isinstance(leaf, Masked) and isinstance(leaf.weight, FakeQuantized)


def test_a_split_is_that_of_convolutions():
    levels = {"conv/kernel": Level(0.5), "fc/kernel": Level(0.5)}
    made = recipe(levels, split="spatial").init(PARAMS)
    assert isinstance(made["conv"]["kernel"], SpatialLowRank) and isinstance(made["fc"]["kernel"], LowRank)


def test_masks_stand_in_training():
    transform = recipe({"fc/kernel": Level(None, 0.5)})
    made = transform.init(PARAMS)
    leaf = made["fc"]["kernel"]
    turned = {**made, "fc": {**made["fc"], "kernel": leaf.map_arrays(lambda _, a: a if a.dtype == bool else a[::-1])}}
    updated = transform.update(turned, 10)
    np.testing.assert_array_equal(updated["fc"]["kernel"].mask, leaf.mask)


def test_none_leaves_a_kernel_as_it_is():
    assert recipe({"fc/kernel": None, "conv/kernel": None}).init(PARAMS) is PARAMS


@pytest.mark.parametrize(
    "order", [("sparsity", "rank", "bits"), ("rank", "bits"), ("rank", "bits", "bits"), ("bits", "sparsity", "rank")]
)
def test_no_other_order_is_taken(order):
    with pytest.raises(ValueError, match="is not 'rank' and, after it"):
        recipe({"fc/kernel": Level(0.5)}, order=order)


@pytest.mark.parametrize(
    ("level", "message"),
    [
        (Level(rank=1.5), r"ratio 1\.5 is not a fraction"),
        (Level(sparsity=1.2), "sparsity 1.2 for pattern 'fc/kernel'"),
        (Level(bits=9), "bits 9 for pattern 'fc/kernel'"),
    ],
)
def test_levels_out_of_range_are_refused(level, message):
    with pytest.raises(ValueError, match=message):
        recipe({"fc/kernel": level})


def test_a_path_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="fc/kernal"):
        recipe({"fc/kernal": Level(bits=4)}).init(PARAMS)


def test_forms_are_what_the_recipe_makes_of_all_kernels():
    levels = grid((0.5,), (0.5,), (4,))
    leaves = forms(PARAMS, KERNELS, levels)
    assert leaves.keys() == {"conv/kernel", "fc/kernel"} and all(list(of) == levels for of in leaves.values())
    made = recipe({"conv/kernel": levels[-1], "fc/kernel": levels[2]}).init(PARAMS)
    np.testing.assert_array_equal(dense(made["conv"]["kernel"]), dense(leaves["conv/kernel"][levels[-1]]))
    np.testing.assert_array_equal(dense(made["fc"]["kernel"]), dense(leaves["fc/kernel"][levels[2]]))


def test_bytes_are_those_of_the_file_without_its_header():
    made = recipe({"conv/kernel": Level(0.5, 0.5, 4), "fc/kernel": Level(None, 0.9, 3)}).init(PARAMS)
    data = packed.to_bytes(made)
    assert packed_bytes(made) == len(data) - packed.overhead(len(data), packed.encode(made))
    assert packed_bytes(PARAMS) == 4 * (576 + 8 + 192 + 12)


LEVELS = grid((0.4, 0.7), (0.5, 0.9), (2, 4, 8))


@pytest.fixture(scope="module")
def table():
    leaves = forms(PARAMS, KERNELS, LEVELS)
    return leaves, leaf_errors(PARAMS, leaves)


@pytest.mark.parametrize("budget", [400, 600, 1000])
def test_the_choice_is_the_best_of_all_pairs(table, budget):
    leaves, errors = table
    picked = levels_within(PARAMS, leaves, errors, packed_bytes, budget)
    made = recipe(picked).init(PARAMS)
    assert packed_bytes(made) <= budget

    def of(path, level):
        return (
            (0.0, PARAMS[path[: -len("/kernel")]]["kernel"])
            if level is None
            else (errors[path][level], leaves[path][level])
        )

    biases = packed_bytes({"conv": PARAMS["conv"]["bias"], "fc": PARAMS["fc"]["bias"]})
    places = [[(path, level) for level in (None, *LEVELS)] for path in leaves]
    size = {place: packed_bytes({"kernel": of(*place)[1]}) for place in itertools.chain(*places)}
    pairs = [pair for pair in itertools.product(*places) if biases + sum(map(size.get, pair)) <= budget]
    best = min(sum(of(*place)[0] for place in pair) for pair in pairs)
    assert sum(of(*place)[0] for place in picked.items()) == pytest.approx(best, abs=1e-12)


def test_all_together_does_less_damage_than_each_alone(table):
    leaves, errors = table
    joint = levels_within(PARAMS, leaves, errors, packed_bytes, 700)
    harm = sum(errors[path][level] for path, level in joint.items() if level is not None)
    for alone in (grid(ranks=(0.1, 0.2)), grid(sparsities=(0.8, 0.9)), grid(bits=(2, 4, 8))):
        of = forms(PARAMS, KERNELS, alone)
        damages = leaf_errors(PARAMS, of)
        picked = levels_within(PARAMS, of, damages, packed_bytes, 700)
        assert harm <= sum(damages[path][level] for path, level in picked.items() if level is not None)


EXAMPLE = jax.ShapeDtypeStruct((1, 4, 4, 8), jnp.float32)


def network(params, x):
    x = jax.lax.conv_general_dilated(
        x, params["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return x.reshape(-1, 16) @ params["fc"]["kernel"]


def test_bytes_and_multiply_adds_at_once(table):
    leaves, errors = table
    cost = jc.factorize.multiply_adds(network, EXAMPLE)
    dense_macs = 16 * 576 + 8 * 192
    assert cost(PARAMS) == dense_macs
    bytes_alone = levels_within(PARAMS, leaves, errors, packed_bytes, 900)
    both = levels_within(PARAMS, leaves, errors, packed_bytes, 900, also=[(cost, int(0.75 * dense_macs))])
    made = recipe(both).init(PARAMS)
    assert packed_bytes(made) <= 900 and cost(made) <= 0.75 * dense_macs < cost(recipe(bytes_alone).init(PARAMS))
    alike = levels_within(PARAMS, leaves, errors, packed_bytes, 900, also=[(cost, dense_macs)])
    harm = lambda picked: sum(errors[path][level] for path, level in picked.items() if level is not None)
    assert harm(alike) == pytest.approx(harm(bytes_alone), rel=1e-9) and harm(both) > harm(alike)
    with pytest.raises(ValueError, match="greedy search is within one budget"):
        levels_within(PARAMS, leaves, errors, packed_bytes, 900, also=[(cost, dense_macs)], search="greedy")


def test_the_peak_of_memory_is_a_budget_too():
    apply, leaves = jc.lift(network), forms(PARAMS, KERNELS, grid((0.3, 0.6), (), (4,)))
    errors = leaf_errors(PARAMS, leaves)
    choices = [dict(zip(leaves, c, strict=True)) for c in itertools.product(*([None, *of] for of in leaves.values()))]
    peaks = [jc.peak_memory(apply, chosen(PARAMS, leaves, choice), EXAMPLE) for choice in choices]
    harms = [sum(errors[path][level] for path, level in choice.items() if level is not None) for choice in choices]
    assert min(peaks) < jc.peak_memory(apply, PARAMS, EXAMPLE)  # in two steps less is alive at once
    whole = packed_bytes(PARAMS)
    for allowed in sorted({*peaks}):
        over = excess_memory(apply, EXAMPLE, allowed)
        found = levels_within(PARAMS, leaves, errors, packed_bytes, whole, also=[(over, 0)])
        best = min(harm for harm, peak in zip(harms, peaks, strict=True) if peak <= allowed)
        assert peaks[choices.index(found)] <= allowed
        assert harms[choices.index(found)] == pytest.approx(best, abs=1e-9)
    with pytest.raises(ValueError, match="a budget of 0 does not suffice"):
        tight = excess_memory(apply, EXAMPLE, min(peaks) - 1)
        levels_within(PARAMS, leaves, errors, packed_bytes, whole, also=[(tight, 0)])


def test_kernels_of_one_loop_do_not_hide_each_other():
    kernels = {"a": jnp.ones((8, 8)), "b": jnp.ones((8, 8))}

    def loop(params, x):
        turn = lambda x, _: (jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]), None)
        return jax.lax.scan(turn, x, None, length=3)[0]

    factored = {rank: LowRank(jnp.ones((8, rank)), jnp.ones((rank, 8))) for rank in (1, 40)}
    leaves = {path: {"thin": factored[1], "wide": factored[40]} for path in kernels}
    damages = {path: {"thin": 1.0, "wide": -1.0} for path in kernels}
    apply, x = jc.lift(loop), jax.ShapeDtypeStruct((1, 8), jnp.float32)
    allowed = jc.peak_memory(apply, kernels, x)
    also = [(excess_memory(apply, x, allowed), 0)]
    found = levels_within(kernels, leaves, damages, packed_bytes, 10**6, also=also)
    assert found == {"a": None, "b": None}  # wide ones would be better, and beyond the memory
    assert jc.peak_memory(apply, chosen(kernels, leaves, {"a": "wide", "b": None}), x) > allowed
