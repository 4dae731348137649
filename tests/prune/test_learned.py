"""Checks masks that follow training: counts, what comes back, phases, and what is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import chain, combine, densify, factorize, pack, partition, quantize, schedules
from jaxcompress.arrays import Masked
from jaxcompress.prune import Blocks, Runs, ac_dc, magnitude, movement, sr_ste, straight_through
from tests.traces import Compiled

W = jnp.array([[4.0, -1.0], [-3.0, 2.0], [2.0, -3.0], [1.0, 4.0]])


def train(transform, params, loss, rate=0.1, steps=3):
    @Compiled
    def step(params, i):
        trained, fixed = partition(params)
        grads = jax.grad(lambda trained: loss(densify(combine(trained, fixed))))(trained)
        moved = jax.tree.map(lambda w, g: w - rate * g, trained, grads)
        return transform.update(combine(moved, fixed), i)

    seen = [transform.init(params)]
    for i in range(1, steps + 1):
        seen.append(step(seen[-1], jnp.int32(i)))
    assert step.calls == 1
    return seen


def test_sr_ste_follows_a_loop_in_numpy():
    # L = sum(d**2) / 2 - sum(t * d): the gradient by the array in use is d - t.
    rng = np.random.default_rng(0)
    weight, target = rng.standard_normal((8, 3)).astype(np.float32), rng.standard_normal((8, 3)).astype(np.float32)
    loss = lambda tree: jnp.sum(tree["w"] ** 2) / 2 - jnp.sum(target * tree["w"])
    seen = train(sr_ste("w", 2, 4, decay=0.3), {"w": jnp.asarray(weight)}, loss, steps=5)
    changed = 0
    for before, after in zip(seen, seen[1:], strict=False):
        mask = np.asarray(before["w"].mask)
        np.testing.assert_allclose(before["w"].weight, weight, rtol=1e-5)
        weight = weight - 0.1 * (np.where(mask, weight, 0) - target + 0.3 * np.where(mask, 0, weight))
        runs = np.abs(weight).T.reshape(3, 2, 4)
        expected = runs >= np.sort(runs, axis=-1)[..., 2:3]
        np.testing.assert_array_equal(after["w"].mask, expected.reshape(3, 8).T)
        changed += (np.asarray(after["w"].mask) != mask).sum()
    assert changed > 0


def test_straight_through_ranks_anew_at_every_update():
    transform = straight_through("w", 0.5, every=2)
    tree = transform.init({"w": W})
    moved = {"w": jax.tree.map(lambda a: a if a.dtype == bool or not a.ndim else -a[::-1] * 1.0 + 5, tree["w"])}
    assert int(tree["w"].mask.sum()) == 4
    odd, even = transform.update(moved, 1), transform.update(moved, 2)
    np.testing.assert_array_equal(odd["w"].mask, tree["w"].mask)
    # Magnitudes are 4 1, 3 8, 8 3, 1 6: the six largest would tie at 3.
    np.testing.assert_array_equal(even["w"].mask, [[True, False], [False, True], [True, False], [False, True]])


@pytest.mark.parametrize("structure", [Blocks(2, 2), Runs(4)])
def test_straight_through_takes_structures(structure):
    tree = straight_through("w", 0.5, structure=structure).init({"w": W})
    assert int(tree["w"].mask.sum()) == 4
    assert isinstance(pack(tree)["w"], Masked)


def test_movement_keeps_what_grows_not_what_is_large():
    # The loss pulls the first column towards zero and the second away from it.
    loss = lambda tree: jnp.sum(tree["w"] ** 2 * jnp.array([[1.0, -1.0]]))
    seen = train(movement("w", schedules.one_shot(0.5, at=2)), {"w": W}, loss, rate=0.01)
    first = np.asarray(W) * np.asarray(2 * W * jnp.array([[1.0, -1.0]]))  # gradient times weight
    np.testing.assert_allclose(seen[1]["w"].scores, -0.01 * first, rtol=1e-5)
    assert int(seen[1]["w"].mask.sum()) == 8
    np.testing.assert_array_equal(seen[2]["w"].mask, [[False, True]] * 4)
    # Scores of removed weights go on, and the weights stand still.
    np.testing.assert_array_equal(seen[3]["w"].weight[:, 0], seen[2]["w"].weight[:, 0])


def test_movement_of_all_layers_together_and_below_a_quantizer():
    tree = chain(movement("a|b", 0.5, allocation="global"), quantize.weights("a", 8)).init({"a": W, "b": W[:1]})
    assert int(tree["a"].weight.mask.sum()) == 5 and int(tree["b"].mask.sum()) == 0
    optimiser = optax.sgd(0.1)
    assert optimiser.init(partition(tree)[0]) is not None


def test_ac_dc_takes_turns_and_removed_weights_start_from_zero():
    transform = ac_dc("a|b", 0.5, begin=2, end=9, compressed_steps=2, dense_steps=3)
    params = {"a": W, "b": jnp.full((4,), 10.0)}
    tree, update, counts = transform.init(params), Compiled(transform.update), []
    for step in range(12):
        tree = update(tree, jnp.int32(step))
        counts.append(int(tree["a"].mask.sum()) + int(tree["b"].mask.sum()))
        if step == 2:
            smaller = tree
    # Dense, compressed at 2 and 3, dense at 4 to 6, compressed at 7 and 8, and at the end.
    assert counts == [12, 12, 6, 6, 12, 12, 12, 6, 6, 6, 6, 6]
    assert update.calls == 1
    np.testing.assert_array_equal(smaller["a"].weight, [[4, 0], [0, 0], [0, 0], [0, 4]])
    back = transform.update(smaller, 4)
    np.testing.assert_array_equal(back["a"].dense(), smaller["a"].weight)
    raised = back["a"].weight.at[0, 1].set(5.0)
    moved = {**back, "a": replace(back["a"], weight=raised)}
    np.testing.assert_array_equal(
        transform.update(moved, 7)["a"].mask, [[True, True], [False, False], [False, False], [False, False]]
    )


@pytest.mark.parametrize(
    "inner", [magnitude("w/weight", 0.25), quantize.weights("w/weight", 4)], ids=["magnitude", "weights"]
)
def test_ac_dc_keeps_what_later_transforms_wrap(inner):
    transform = chain(ac_dc("w", 0.5, begin=0, end=9, compressed_steps=2, dense_steps=2), inner)
    params = transform.init({"w": jax.random.normal(jax.random.key(0), (8, 6))})
    updated = transform.update(params, 1)
    assert jax.tree.structure(transform.init(params)) == jax.tree.structure(updated) == jax.tree.structure(params)
    latent = updated["w"].weight.weight
    np.testing.assert_array_equal(latent == 0, ~updated["w"].mask)


def test_ac_dc_refuses_factors_that_came_later():
    transform = chain(ac_dc("w", 0.5, begin=0, end=9, compressed_steps=2, dense_steps=2), factorize.svd("w/weight", 2))
    params = transform.init({"w": jax.random.normal(jax.random.key(0), (8, 6))})
    with pytest.raises(ValueError, match="cannot in the LowRank that was made of them since"):
        transform.update(params, 1)


def test_a_second_init_keeps_masks():
    for make in (
        sr_ste("w", 1, 2),
        movement("w", 0.5),
        ac_dc("w", 0.5, begin=0, end=1, compressed_steps=1, dense_steps=1),
    ):
        tree = make.init({"w": W})
        again = make.init(tree)
        assert jax.tree.structure(again) == jax.tree.structure(tree)
        np.testing.assert_array_equal(again["w"].mask, tree["w"].mask)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: straight_through("w", 1.1), "sparsity 1.1 for pattern 'w'"),
        (lambda: straight_through("w", 0.5, decay=-1.0), "decay -1.0 for pattern 'w'"),
        (lambda: straight_through("w", 0.5, structure=Runs(2), allocation="erk"), "not for Runs"),
        (lambda: straight_through("w", 0.5).init({"w": jnp.arange(4)}), "w of dtype int32"),
        (lambda: straight_through("v", 0.5).init({"w": W}), "'v' matches no parameter"),
        (lambda: sr_ste("w", 4, 2), "4:2 for pattern 'w'"),
        (lambda: sr_ste("w", 1, 3).init({"w": W}), "runs of 3 do not divide axis -2 of w"),
        (lambda: movement("w", 0.5, allocation="lamp"), "'lamp' .* either sign"),
        (lambda: movement("w", 0.5).init({"w": jnp.arange(4)}), "w of dtype int32"),
        (lambda: ac_dc("w", 0.5, begin=5, end=4, compressed_steps=1, dense_steps=1), "ends at step 4"),
        (lambda: ac_dc("w", 0.5, begin=5, end=9, compressed_steps=0, dense_steps=1), "phases of 0 and 1"),
        (lambda: ac_dc("w", 1.5, begin=5, end=9, compressed_steps=1, dense_steps=1), "sparsity 1.5"),
        (
            lambda: ac_dc("w", 0.5, begin=5, end=9, compressed_steps=1, dense_steps=1).init(
                quantize.weights("w", 4).init({"w": W})
            ),
            "w is already FakeQuantized",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
