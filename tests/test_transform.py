"""One contract for every transform, and how transforms combine."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jaxcompress import Transform, chain, combine, every, factorize, pack, partition, prune, quantize, schedules
from jaxcompress.arrays import CompressedArray, FakeQuantized, LowRank, Masked, densify, is_compressed
from jaxcompress.paths import flatten, select
from jaxcompress.transform import identity_update, owned, rewrite_owned, trainable

GRADUAL = schedules.cubic(0.0, 0.8, end=10)

TRANSFORMS = {
    "magnitude_layer": lambda p: prune.magnitude(p, 0.5),
    "magnitude_global": lambda p: prune.magnitude(p, 0.5, scope="global"),
    "magnitude_gradual": lambda p: prune.magnitude(p, GRADUAL),
    "magnitude_gradual_every": lambda p: prune.magnitude(p, GRADUAL, every=2),
    "magnitude_gradual_global": lambda p: prune.magnitude(p, GRADUAL, scope="global"),
    "threshold": lambda p: prune.threshold(p, 0.7),
    "by_score_erk": lambda p: prune.by_score(p, GRADUAL, allocation="erk", every=2),
    "by_score_lamp": lambda p: prune.by_score(p, 0.6, allocation="lamp"),
    "by_score_blocks": lambda p: prune.by_score(p, GRADUAL, structure=prune.Blocks(2, 4), allocation="global"),
    "n_m": lambda p: prune.n_m(p, 1, 2),
    "sparse_evolution": lambda p: prune.sparse_evolution(p, 0.5, key=jax.random.key(0), every=2),
    "straight_through": lambda p: prune.straight_through(p, GRADUAL, decay=0.1, allocation="erk"),
    "sr_ste": lambda p: prune.sr_ste(p, 1, 2, every=2),
    "movement": lambda p: prune.movement(p, GRADUAL, allocation="global"),
    "ac_dc": lambda p: prune.ac_dc(p, 0.5, begin=1, end=4, compressed_steps=1, dense_steps=1),
    "weights_tensor": lambda p: quantize.weights(p, 4, granularity="tensor"),
    "weights_channel": lambda p: quantize.weights(p, 4),
    "weights_offset": lambda p: quantize.weights(p, 8, symmetric=False),
    "weights_groups": lambda p: quantize.weights(p, 4, granularity="group", group=2),
    "weights_gradual": lambda p: quantize.weights(p, schedules.linear(8, 3, end=4)),
    "float8": lambda p: quantize.float8(p),
    "codebook": lambda p: quantize.codebook(p, 2),
    "codebook_random": lambda p: quantize.codebook(p, 2, initial="random", key=jax.random.key(0)),
    "svd_rank": lambda p: factorize.svd(p, 2),
    "svd_energy": lambda p: factorize.svd(p, energy=0.8, always=True),
    "lsq": lambda p: quantize.lsq(p, 3),
    "dorefa": lambda p: quantize.dorefa(p, 2),
    "binary": lambda p: quantize.binary(p),
    "xnor": lambda p: quantize.binary(p, "xnor"),
    "twn": lambda p: quantize.ternary(p),
    "ttq": lambda p: quantize.ternary(p, "ttq"),
}
EVERY_TRANSFORM = pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)


def params():
    a, b, c = jax.random.split(jax.random.key(0), 3)
    return {
        "a": {"kernel": jax.random.normal(a, (6, 8)), "bias": jnp.ones(8)},
        "b": {"kernel": jax.random.normal(b, (8, 4)), "bias": jnp.zeros(4)},
        "conv": {"kernel": jax.random.normal(c, (3, 3, 2, 4))},
        "steps": jnp.int32(3),
    }


def avals(tree):
    return jax.tree.map(lambda a: (a.shape, a.dtype, a.weak_type), tree)


def assert_equal_trees(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@EVERY_TRANSFORM
def test_update_keeps_structure_shapes_and_dtypes(make):
    transform = make(".*kernel")
    before = transform.init(params())
    after = jax.eval_shape(lambda tree: transform.update(tree, jnp.int32(3), grads=None, key=None, batch=None), before)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert avals(after) == avals(before)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(after))


@EVERY_TRANSFORM
def test_dense_shapes_and_the_other_leaves_are_kept(make):
    out = make(".*kernel").init(params())
    assert avals(jax.eval_shape(densify, out)) == avals(params())
    for path, leaf in flatten(out).items():
        assert is_compressed(leaf) == path.endswith("kernel")
        if not is_compressed(leaf):
            np.testing.assert_array_equal(leaf, flatten(params())[path])


@EVERY_TRANSFORM
def test_update_is_traced_once_over_changing_steps(make):
    transform, traces = make(".*kernel"), []

    @jax.jit
    def update(tree, step):
        traces.append(step)
        return transform.update(tree, step)

    tree = transform.init(params())
    for step in range(4):
        tree = update(tree, jnp.int32(step))
    assert len(traces) == 1


@EVERY_TRANSFORM
@pytest.mark.sampled(2)
def test_update_in_scan_equals_update_in_a_loop(make):
    transform = make(".*kernel")
    tree = transform.init(params())

    def step(tree, i):
        return transform.update(tree, i), None

    scanned, _ = lax.scan(step, tree, jnp.arange(5))
    for i in range(5):
        tree = transform.update(tree, i)
    assert_equal_trees(scanned, tree)


@EVERY_TRANSFORM
def test_gradients_through_the_tree_are_finite(make):
    trained, fixed = partition(make(".*kernel").init(params()))

    def loss(trained):
        tree = densify(combine(trained, fixed))
        return sum(jnp.sum(jnp.square(leaf)) for leaf in (tree["a"]["kernel"], tree["b"]["kernel"]))

    grads = jax.grad(loss)(trained)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert any(np.any(g) for g in jax.tree.leaves(grads["a"]["kernel"]))


@EVERY_TRANSFORM
def test_init_on_its_own_output_changes_nothing(make):
    transform = make(".*kernel")
    once = transform.init(params())
    assert_equal_trees(transform.init(once), once)


@EVERY_TRANSFORM
def test_init_of_a_later_stage_keeps_what_training_moved(make):
    transform = make(".*kernel")
    first = transform.init(params())
    trained, fixed = partition(first)
    moved = combine(jax.tree.map(lambda a: a * 1.01, trained), fixed)
    later = transform.init(moved)
    assert jax.tree.structure(later) == jax.tree.structure(first)
    assert_equal_trees(partition(later)[0], partition(moved)[0])


@EVERY_TRANSFORM
def test_pattern_without_a_match_lists_the_paths(make):
    with pytest.raises(ValueError, match=r"(?s)'c/kernel' matches no parameter.*a/kernel.*b/kernel"):
        make("c/kernel").init(params())


@EVERY_TRANSFORM
def test_two_in_a_chain_keep_to_their_own_leaves(make):
    first, second = make("a/kernel"), make("b/kernel")
    tree = chain(first, second).init(params())
    assert_equal_trees(tree["a"], first.init(params())["a"])
    assert_equal_trees(tree["b"], second.init(params())["b"])
    after = first.update(tree, 7)
    assert_equal_trees(after["b"], tree["b"])
    assert_equal_trees(second.update(after, 7)["a"], after["a"])


@EVERY_TRANSFORM
def test_every_leaf_carries_the_name_of_its_transform(make):
    transform = make(".*kernel")
    tree = transform.init(params())
    assert len(owned(tree, transform.names[0])) == 3
    assert owned(tree, "someone else") == []


@EVERY_TRANSFORM
def test_adam_moves_the_trainable_part_only(make):
    transform = make(".*kernel")
    tree = transform.init(params())
    trained, fixed = partition(tree)
    optimiser = optax.adam(0.1)
    with jax.numpy_dtype_promotion("standard"):  # adam raises a float to its int32 count
        updates, _ = optimiser.update(jax.tree.map(jnp.ones_like, trained), optimiser.init(trained), trained)
    after = combine(optax.apply_updates(trained, updates), fixed)
    assert avals(after) == avals(tree)
    for leaf, other, move in zip(*map(jax.tree.leaves, (tree, after, trainable(tree))), strict=True):
        assert np.array_equal(leaf, other) != move


@EVERY_TRANSFORM
def test_packed_tree_has_the_same_values(make):
    tree = make(".*kernel").init(params())
    assert_equal_trees(densify(pack(tree)), densify(tree))


def test_overlapping_patterns_update_only_their_own_leaves():
    weight = jnp.float32([[1.0, -2.0, 3.0], [-4.0, 5.0, -6.0]])
    first = prune.magnitude("w", schedules.one_shot(0.5, at=1), name="first")
    second = prune.magnitude("w", schedules.one_shot(2 / 3, at=2), name="second")
    both = chain(first, second)
    tree = both.init({"w": weight})
    leaf = tree["w"]
    assert (leaf.owner, leaf.weight.owner) == ("second", "first")
    np.testing.assert_array_equal(leaf.dense(), weight)

    tree = both.update(tree, 1)
    np.testing.assert_array_equal(tree["w"].weight.mask, [[False, False, False], [True, True, True]])
    np.testing.assert_array_equal(tree["w"].mask, [[True, True, True], [True, True, True]])
    np.testing.assert_array_equal(tree["w"].dense(), [[0.0, 0.0, 0.0], [-4.0, 5.0, -6.0]])

    tree = both.update(tree, 2)
    np.testing.assert_array_equal(tree["w"].weight.mask, [[False, False, False], [True, True, True]])
    np.testing.assert_array_equal(tree["w"].mask, [[False, False, False], [False, True, True]])
    np.testing.assert_array_equal(tree["w"].dense(), [[0.0, 0.0, 0.0], [0.0, 5.0, -6.0]])


def test_a_later_transform_reads_the_value_that_the_earlier_ones_give():
    weight = jnp.float32([[0.4, -1.4, 3.0], [-2.6, 0.6, -0.2]])
    tree = {"w": weight}
    rounded = [[0.0, -1.0, 3.0], [-3.0, 1.0, 0.0]]  # scale 3 / 3
    quantizer = quantize.weights("w", 3, granularity="tensor")
    pruner = prune.magnitude("w", 0.5)
    np.testing.assert_array_equal(quantizer.init(tree)["w"].dense(), rounded)

    masked_last = chain(quantizer, pruner).init(tree)["w"]
    assert isinstance(masked_last, Masked) and isinstance(masked_last.weight, FakeQuantized)
    # Of the rounded values 3, 3 and the earlier of the two ones are the largest.
    np.testing.assert_array_equal(masked_last.dense(), [[0.0, -1.0, 3.0], [-3.0, 0.0, 0.0]])

    masked_first = chain(pruner, quantizer).init(tree)["w"]
    assert isinstance(masked_first, FakeQuantized) and isinstance(masked_first.weight, Masked)
    np.testing.assert_array_equal(masked_first.dense(), [[0.0, -1.0, 3.0], [-3.0, 0.0, 0.0]])
    np.testing.assert_array_equal(masked_first.weight.dense(), jnp.float32([[0.0, -1.4, 3.0], [-2.6, 0.0, 0.0]]))


def test_factors_are_reached_by_a_later_pattern():
    tree = chain(
        factorize.svd("a/kernel", 2), prune.magnitude("a/kernel/u", 0.5), quantize.weights("a/kernel/[uv]", 4)
    ).init(params())
    leaf = tree["a"]["kernel"]
    assert isinstance(leaf, LowRank) and isinstance(leaf.u, FakeQuantized) and isinstance(leaf.u.weight, Masked)
    assert isinstance(leaf.v, FakeQuantized) and isinstance(leaf.v.weight, jax.Array)
    assert int(jnp.sum(leaf.u.weight.mask)) == 6
    assert list(select(tree, "a/kernel/u/weight/.*")) == ["a/kernel/u/weight/weight"]


def test_svd_of_a_masked_kernel_says_to_factorize_first():
    with pytest.raises(ValueError, match="factorize first, then mask or quantize a/kernel/u"):
        chain(prune.magnitude("a/kernel", 0.5), factorize.svd("a/kernel", 2)).init(params())


def test_chain_of_transforms_with_one_name_is_refused():
    with pytest.raises(ValueError, match=r"both named \['magnitude\[a/kernel\]'\]"):
        chain(prune.magnitude("a/kernel", 0.5), prune.magnitude("a/kernel", 0.7))
    chain(prune.magnitude("a/kernel", 0.5), prune.magnitude("a/kernel", 0.7, name="other"))


def test_names_of_one_transform_in_two_chains_nested_are_found_too():
    inner = chain(prune.magnitude("a/kernel", 0.5), quantize.weights("b/kernel", 4))
    with pytest.raises(ValueError, match="both named"):
        chain(inner, prune.magnitude("a/kernel", 0.7)).init(params())


def test_chain_passes_what_an_update_may_use():
    seen = {}

    def update(tree, step, **extra):
        seen.update(extra, step=step)
        return tree

    chain(Transform("a", lambda p: p, identity_update), Transform("b", lambda p: p, update)).update(
        {}, 3, grads=1, key=2, batch=4
    )
    assert seen == {"step": 3, "grads": 1, "key": 2, "batch": 4}


def test_every_updates_at_multiples_only():
    counter = Transform("count", lambda p: p, lambda p, step, **_: jax.tree.map(lambda a: a + 1, p))
    update = jax.jit(every(3, counter).update)
    tree, seen = {"n": jnp.int32(0)}, []
    for step in range(7):
        tree = update(tree, jnp.int32(step))
        seen.append(int(tree["n"]))
    assert seen == [1, 1, 1, 2, 2, 2, 3]
    assert int(every(3, counter).update({"n": jnp.int32(0)}, 4)["n"]) == 0


def test_every_of_one_step_is_the_transform_itself():
    transform = prune.magnitude("a/kernel", 0.5)
    assert every(1, transform) is transform
    with pytest.raises(ValueError, match="every=0"):
        every(0, transform)


def test_gradual_sparsity_reaches_its_end_exactly():
    transform = prune.magnitude(".*kernel", GRADUAL, scope="global")
    tree = transform.init(params())
    assert sum(int(jnp.sum(leaf.mask)) for leaf in owned(tree, transform.names[0])) == 48 + 32 + 72
    tree = transform.update(tree, 10)
    assert sum(int(jnp.sum(leaf.mask)) for leaf in owned(tree, transform.names[0])) == 152 - round(0.8 * 152)


def test_partition_and_combine_are_inverse():
    tree = chain(
        factorize.svd("a/kernel", 2),
        prune.magnitude("a/kernel/u", 0.5),
        quantize.weights("a/kernel/[uv]", 4),
        prune.magnitude("conv/kernel", 0.5),
        quantize.codebook("conv/kernel", 2),
    ).init(params())
    trained, fixed = partition(tree)
    assert_equal_trees(combine(trained, fixed), tree)
    assert len(jax.tree.leaves(trained)) + len(jax.tree.leaves(fixed)) == len(jax.tree.leaves(tree))
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(trained))


def test_masks_codes_scales_and_bits_are_never_trainable():
    tree = chain(quantize.codebook("a/kernel", 2), quantize.weights("b/kernel", 4), prune.magnitude("b/kernel", 0.5))
    tree = tree.init(params())
    moves = {path: move for path, move in flatten(trainable(tree)).items()}
    assert (moves["a/kernel"].codes, moves["a/kernel"].centroids) == (False, True)
    assert (moves["b/kernel"].mask, moves["b/kernel"].weight.bits, moves["b/kernel"].weight.weight) == (
        *(False, False, True),
    )
    assert (moves["a/bias"], moves["steps"]) == (True, False)
    packed = trainable(pack(quantize.weights(".*kernel", 4).init(params())))
    assert not any(jax.tree.leaves(packed["a"]["kernel"]))  # float scales among them


def test_rewrite_owned_reaches_leaves_however_deep():
    tree = chain(factorize.svd("a/kernel", 2), quantize.weights("a/kernel/v", 4, name="q")).init(params())
    out = rewrite_owned(tree, "q", lambda leaf: leaf.weight)
    assert isinstance(out["a"]["kernel"], CompressedArray)
    assert isinstance(out["a"]["kernel"].v, jax.Array)
    np.testing.assert_array_equal(out["a"]["kernel"].v, tree["a"]["kernel"].v.weight)
