"""Checks choices within a budget: by hand, by trying every choice, and against a plain table over all costs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import factorize, quantize
from jaxcompress.arrays import Quantized, densify
from jaxcompress.budget import allocate, layer_bytes, leaf_errors, leaf_losses, levels_within, mixed_precision
from jaxcompress.interpreters.graph import Graph, Node
from tests.graphs import DEPTHWISE, chain, inputs, layers


def total(table, chosen):
    return sum(levels[j] for levels, j in zip(table, chosen, strict=True))


def test_a_choice_by_hand():
    costs, damages = [[1, 4, 6], [2, 3], [5]], [[9.0, 3.0, 0.0], [4.0, 1.0], [7.0]]
    assert allocate(costs, damages, 8) == [0, 0, 0]
    assert allocate(costs, damages, 9) == [0, 1, 0]
    assert allocate(costs, damages, 11) == [1, 0, 0]  # 3 + 4 beats 9 + 1
    assert allocate(costs, damages, 12) == [1, 1, 0]
    assert allocate(costs, damages, 14) == allocate(costs, damages, 10**30) == [2, 1, 0]


def test_a_dearer_level_that_does_more_damage_is_never_taken():
    assert allocate([[3, 5, 9]], [[1.0, 1.0, 2.0]], 100) == [0]


def test_no_items_cost_nothing():
    assert allocate([], [], 0) == []


tables = st.lists(
    st.lists(st.tuples(st.integers(0, 12), st.integers(-20, 20)), min_size=1, max_size=4), min_size=1, max_size=5
)


@settings(deadline=None, max_examples=300)
@given(tables, st.integers(0, 40))
def test_the_choice_is_the_best_of_all(table, above):
    costs, damages = ([[level[k] for level in item] for item in table] for k in (0, 1))
    budget = sum(map(min, costs)) + above
    every = itertools.product(*(range(len(item)) for item in table))
    # The least damage, and of those that do as little the least cost.
    best = min((total(damages, c), total(costs, c)) for c in every if total(costs, c) <= budget)
    chosen = allocate(costs, damages, budget)
    assert (total(damages, chosen), total(costs, chosen)) == best


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_many_items_are_as_good_as_a_table_over_all_costs(seed, part):
    rng = np.random.default_rng(seed)
    costs, damages = rng.integers(0, 30, (40, 3)), rng.normal(size=(40, 3))
    least, most = costs.min(1).sum(), costs.max(1).sum()
    budget = int(least + part * (most - least))
    table = np.full(budget + 1, 0.0)  # the least damage for at most so much
    for cost, damage in zip(costs, damages, strict=True):
        shifted = [
            np.concatenate([np.full(min(c, budget + 1), np.inf), table[: max(0, budget + 1 - c)]]) + d
            for c, d in zip(cost, damage, strict=True)
        ]
        table = np.min(shifted, axis=0)
    chosen = allocate(costs, damages, budget)
    assert total(costs, chosen) <= budget
    np.testing.assert_allclose(total(damages, chosen), table[budget], rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-5e-324, 1e300), min_size=2, max_size=2))
def test_damages_of_any_size_are_compared_exactly(damages):
    assert allocate([[1, 1]], [damages], 1) == [int(damages[1] < damages[0])]


@pytest.mark.parametrize(
    ("costs", "damages", "budget", "message"),
    [
        ([[3, 5], [4, 9]], [[1, 0], [1, 0]], 6, "a budget of 6 does not suffice; the cheapest levels cost 7"),
        ([[3]], [[1.0]], 3.5, "a budget of 3.5"),
        ([[3]], [[1.0], [2.0]], 9, "costs of 1 items and damages of 2"),
        ([[3], []], [[1.0], []], 9, r"item 1 has costs of shape \(0,\)"),
        ([[3, 4]], [[1.0]], 9, r"shape \(2,\) and damages of shape \(1,\)"),
        ([[3, -1]], [[1.0, 2.0]], 9, r"costs \[3, -1\] of item 0 are not integers of at least 0"),
        ([[3.0, 1.0]], [[1.0, 2.0]], 9, r"costs \[3.0, 1.0\]"),
        ([[3, 1]], [[1.0, np.nan]], 9, r"damages \[1.0, nan\] of item 0 are not finite"),
        ([[3, 1]], [[1.0, np.inf]], 9, "not finite"),
    ],
)
def test_tables_and_budgets_that_make_no_sense_are_refused(costs, damages, budget, message):
    with pytest.raises(ValueError, match=message):
        allocate(costs, damages, budget)


# Bits of layers

GROUPED = Node("depthwise", "convolution", ("input",), (1, 8, 8, 4), window=DEPTHWISE)
DENSE = Node("fc", "dense", ("input",), (1, 5))
KERNELS = layers({"depthwise": (3, 3, 1, 4), "fc": (7, 5)})


@pytest.mark.parametrize(
    ("bits", "granularity", "stored", "expected"),
    [
        (8, "channel", "exact", 35 + 4 * 10),
        (4, "channel", "exact", 18 + 4 * 10),  # 140 bits
        (3, "channel", "exact", 14 + 4 * 10),  # 105 bits
        (3, "tensor", "exact", 14 + 4 * 6),
        (3, "channel", "litert", 18 + 4 * 10),
        (5, "channel", "litert", 35 + 4 * 10),
    ],
)
def test_bytes_of_a_layer_by_hand(bits, granularity, stored, expected):
    assert layer_bytes(DENSE, KERNELS["fc"], bits, granularity, stored) == expected


def test_grouped_kernels_have_eight_bits_on_the_device():
    sizes = [layer_bytes(GROUPED, KERNELS["depthwise"], 4, stored=stored) for stored in ("exact", "litert")]
    assert sizes == [18 + 32, 36 + 32]


def damages_of(*of_four):
    return {f"fc{i + 1}": {4: damage, 8: 0.0} for i, damage in enumerate(of_four)}


def test_layers_that_suffer_most_for_their_size_keep_their_bits():
    graph, weights = chain(8, 6, 4, 2)  # 48, 24 and 8 weights, biases and scales 96 bytes
    table = damages_of(1.2, 0.9, 0.1)
    assert set(mixed_precision(graph, weights, table, 80 + 96).values()) == {8}
    assert set(mixed_precision(graph, weights, table, 40 + 96).values()) == {4}
    # 24 bytes more are the first layer's, or 16 the other two's.
    assert mixed_precision(graph, weights, table, 63 + 96) == {"fc1": 4, "fc2": 8, "fc3": 8}
    assert mixed_precision(graph, weights, table, 64 + 96) == {"fc1": 8, "fc2": 4, "fc3": 4}


def test_the_bits_found_are_what_post_training_takes():
    graph, weights = chain(8, 6, 4, 2)
    batches = [inputs(graph)]
    table = quantize.sensitivity(graph, weights, batches, bits=(2, 4, 8))
    found = mixed_precision(graph, weights, table, 130, (2, 4, 8))
    grids = quantize.calibrate(graph, weights, batches)
    rounded = quantize.post_training(graph, weights, grids, batches, bits=found)
    sizes = 0
    for name, layer in rounded.items():
        leaf = layer["kernel"]
        assert isinstance(leaf, Quantized) and leaf.bits == found[name]
        assert int(jnp.abs(leaf.codes).max()) < 2 ** (found[name] - 1)
        sizes += -(-leaf.bits * leaf.size // 8) + leaf.scale.nbytes + layer["bias"].nbytes
    assert 116 <= sizes <= 130 and len(set(found.values())) > 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"budget_bytes": 100}, "a budget of 100 does not suffice; the cheapest levels cost 136"),
        ({"bits": (2, 4)}, "no sensitivity for 2 bits of fc1, fc2, fc3"),
        ({"bits": (4, 16)}, "bits 16 is not an integer from 2 to 8"),
        ({"sensitivities": damages_of(1.0, 2.0)}, "no sensitivity for fc3; every layer needs one: fc1, fc2, fc3"),
        ({"sensitivities": damages_of(1.0, 2.0, 3.0, 4.0)}, r"'fc4', which is no layer \(did you mean 'fc[123]'"),
        ({"sensitivities": damages_of(1.0, np.nan, 3.0)}, "are not finite"),
        ({"granularity": "row"}, "granularity 'row' is not one of tensor, channel"),
        ({"stored": "zip"}, "stored 'zip' is not one of exact, litert"),
    ],
)
def test_what_cannot_be_allocated_is_refused(changed, message):
    graph, weights = chain(8, 6, 4, 2)
    arguments = {"sensitivities": damages_of(1.0, 2.0, 3.0), "budget_bytes": 200}
    with pytest.raises(ValueError, match=message):
        mixed_precision(graph, weights, **{**arguments, **changed})


def test_layers_of_a_graph_without_weights_have_no_bits():
    graph = Graph((Node("relu", "relu", ("input",), (1, 3)),), (1, 3), "relu")
    assert mixed_precision(graph, {}, {}, 0) == {}


DRAW = np.random.default_rng(0).standard_normal
WEIGHTS = {"a": jnp.float32(DRAW((12, 12))), "b": jnp.float32(DRAW((12, 3)) @ DRAW((3, 20))), "c": jnp.ones(4)}


def low_rank(ranks=(1, 2, 3, 4)):
    """Returns the factors of every rank, by path; a rank costs 24 weights of `a` and 32 of `b`."""
    made = {r: factorize.svd("a|b", r).init(WEIGHTS) for r in ranks}
    return {path: {r: made[r][path] for r in ranks} for path in "ab"}


def weights_of(params):
    return sum(part.size for part in jax.tree.leaves(params))


def test_error_curves_fall_to_zero_at_the_rank_of_a_matrix():
    errors = leaf_errors(WEIGHTS, low_rank())
    squared = np.linalg.svd(np.asarray(WEIGHTS["a"], np.float64), compute_uv=False) ** 2
    expected = [float(squared[r:].sum() / squared.sum()) for r in (1, 2, 3, 4)]
    assert list(errors["a"].values()) == pytest.approx(expected, rel=1e-4)
    assert errors["b"][2] > 1e-2 and errors["b"][3] < 1e-9


def test_losses_are_those_with_one_leaf_in_its_place():
    loss = lambda params: jnp.sum((jnp.ones((1, 12)) @ densify(params)["a"]) ** 2)
    losses = leaf_losses(WEIGHTS, low_rank(), loss)
    alone = float(loss({**WEIGHTS, "a": low_rank()["a"][2]})) - float(loss(WEIGHTS))
    assert losses["a"][2] == pytest.approx(alone) and set(losses["b"].values()) == {0.0}


@pytest.mark.parametrize("search", ["exact", "greedy"])
def test_a_layer_of_low_rank_gives_way_first(search):
    leaves = low_rank()
    errors = leaf_errors(WEIGHTS, leaves)
    assert weights_of(WEIGHTS) == 144 + 240 + 4
    found = levels_within(WEIGHTS, leaves, errors, weights_of, 388, search=search)
    assert found["a"] is None
    assert levels_within(WEIGHTS, leaves, errors, weights_of, 144 + 96 + 4, search=search) == {"a": None, "b": 3}


def test_the_exact_choice_is_the_best_of_all_and_the_greedy_one_no_better():
    leaves = low_rank()
    errors = leaf_errors(WEIGHTS, leaves)
    size = {"a": {None: 144, **{r: 24 * r for r in leaves["a"]}}, "b": {None: 240, **{r: 32 * r for r in leaves["b"]}}}
    harm = {path: {None: 0.0, **errors[path]} for path in "ab"}
    for budget in range(60, 400, 20):
        pairs = [(r, s) for r in size["a"] for s in size["b"] if size["a"][r] + size["b"][s] + 4 <= budget]
        best = min(harm["a"][r] + harm["b"][s] for r, s in pairs)
        chosen = levels_within(WEIGHTS, leaves, errors, weights_of, budget)
        greedy = levels_within(WEIGHTS, leaves, errors, weights_of, budget, search="greedy")
        assert sum(harm[path][chosen[path]] for path in "ab") == pytest.approx(best, abs=1e-9)
        assert sum(harm[path][greedy[path]] for path in "ab") >= best - 1e-9
        assert sum(size[path][greedy[path]] for path in "ab") + 4 <= budget


def test_bad_tables_of_levels_are_named():
    leaves = low_rank()
    with pytest.raises(ValueError, match=r"there is no damage for \[4\] of b"):
        levels_within(WEIGHTS, leaves, {**leaf_errors(WEIGHTS, low_rank((1, 2, 3))), "a": leaves["a"]}, weights_of, 388)
    with pytest.raises(ValueError, match="a budget of 59 does not suffice; the cheapest levels cost 60"):
        levels_within(WEIGHTS, leaves, leaf_errors(WEIGHTS, leaves), weights_of, 59)
