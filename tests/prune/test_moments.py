"""Checks that the optimiser's state follows the masks, for Adam, momentum and what wraps them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import chain, combine, densify, partition, quantize
from jaxcompress.arrays import Masked
from jaxcompress.prune import magnitude, mask_moments, rigl

KERNELS = r"(fc1|deep/fc1)/kernel"


def params():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    return {
        "fc1": {"kernel": draw(4, 3), "bias": draw(3)},
        "deep": {"fc1": {"kernel": draw(4, 3)}},
        "kernel": draw(4, 3),
    }


OPTIMISERS = {
    "adam": optax.adam(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "clipped_adamw": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)),
    "two": optax.multi_transform(
        {"a": optax.adam(0.1), "b": optax.sgd(0.1, momentum=0.9)}, lambda tree: jax.tree.map(lambda _: "a", tree)
    ),
}


def filled(state):
    """A state as after many steps: moments of one everywhere."""
    return jax.tree.map(lambda s: jnp.ones_like(s) if s.ndim else s, state)


@pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)
def test_moments_of_removed_weights_and_no_others_become_zero(optimiser):
    tree = magnitude(KERNELS, 0.5).init(params())
    state = filled(optimiser.init(partition(tree)[0]))
    after = jax.jit(mask_moments)(state, tree)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    moments = 0
    for keys, value in jax.tree_util.tree_flatten_with_path(after)[0]:
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        if path.endswith("deep/fc1/kernel/weight"):
            expected = tree["deep"]["fc1"]["kernel"].mask
        elif path.endswith("fc1/kernel/weight"):
            expected = tree["fc1"]["kernel"].mask
        elif value.ndim:
            expected = jnp.ones(value.shape)
        else:
            continue
        moments += 1
        np.testing.assert_array_equal(value, expected.astype(jnp.float32), err_msg=path)
    assert moments >= 4


def test_masks_within_and_around_other_leaves_count_together():
    tree = chain(
        magnitude("kernel", 0.5, name="inner"), quantize.lsq("kernel", 4), magnitude("kernel", 0.75, name="outer")
    ).init({"kernel": params()["kernel"]})
    state = filled(optax.adam(0.1).init(partition(tree)[0]))
    after = mask_moments(state, tree)[0].mu["kernel"].weight
    leaf = tree["kernel"]
    np.testing.assert_array_equal(after.weight.weight, (leaf.mask & leaf.weight.weight.mask).astype(jnp.float32))
    assert np.all(after.step == 1)


def test_what_rigl_grows_starts_with_moments_of_zero():
    loss = lambda tree, x: jnp.mean((x @ densify(tree)["w"] - 1) ** 2)
    transform = rigl("w", 0.5, loss, key=jax.random.key(0), end=100, every=1, fraction=0.5)
    tree = transform.init({"w": jnp.ones((6, 4))})
    optimiser = optax.sgd(0.1, momentum=0.9)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 6)), jnp.float32)

    @jax.jit
    def step(tree, state, i):
        trained, fixed = partition(tree)
        grads = jax.grad(lambda trained: loss(combine(trained, fixed), x))(trained)
        updates, state = optimiser.update(grads, state, trained)
        tree = transform.update(combine(optax.apply_updates(trained, updates), fixed), i, batch=x)
        return tree, mask_moments(state, tree)

    state, grown = optimiser.init(partition(tree)[0]), 0
    for i in range(1, 5):
        before = tree
        tree, state = step(tree, state, i)
        trace = np.asarray(state[0].trace["w"].weight)
        fresh = np.asarray(tree["w"].mask & ~before["w"].mask)
        grown += fresh.sum()
        assert not trace[fresh].any() and not trace[~np.asarray(tree["w"].mask)].any() and trace.any()
        assert not np.asarray(tree["w"].weight)[fresh].any()
    assert grown > 0


def test_a_weight_of_a_longer_path_keeps_its_moments():
    kernel = jnp.arange(1.0, 5.0)
    params = {"fc": Masked(kernel, jnp.array([True, False, True, False])), "block": {"fc": kernel}}
    state = {"fc": {"weight": kernel}, "block": {"fc": kernel}}
    found = mask_moments(state, params)
    assert found["fc"]["weight"].tolist() == [1, 0, 3, 0] and found["block"]["fc"].tolist() == [1, 2, 3, 4]
