"""Checks branches that are dropped from residual networks, and what they were worth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from experiments import models
from jaxcompress.arrays import Zeros
from jaxcompress.prune import depth
from tests.prune.coupled import drawn, variables_of


def net(params, x):
    for i in range(2):
        x = x + jax.nn.relu(x @ params[f"a{i}"] + params[f"bias{i}"][None]) @ params[f"b{i}"]
    return x @ params["head"]


def small():
    params = {"head": drawn(4, 2, seed=9)}
    for i in range(2):
        params |= {f"a{i}": drawn(4, 6, seed=i), f"b{i}": drawn(6, 4, seed=5 + i), f"bias{i}": drawn(6, seed=3)}
    x = drawn(8, 4, seed=20)
    return params, x, depth.branches(net, params, x)


def test_a_network_without_a_branch_by_hand():
    params, x, found = small()
    assert [branch.parameters for branch in found] == [("a0", "b0", "bias0"), ("a1", "b1", "bias1")]
    left = depth.drop(params, found, ["a0"])
    assert all(isinstance(left[name], Zeros) for name in found[0].parameters)
    wanted = (x + jax.nn.relu(x @ params["a1"] + params["bias1"][None]) @ params["b1"]) @ params["head"]
    np.testing.assert_array_equal(jax.jit(jc.lift(net))(left, x), jax.jit(lambda: wanted)())
    lifted = jc.lift(net)
    assert jc.macs(lifted, left, x) == 8 * (4 * 6 * 2 + 4 * 2) == jc.macs(net, params, x) - 8 * 4 * 6 * 2
    assert jc.macs(lifted, depth.drop(params, found, ["a0", "a1"]), x) == 8 * 4 * 2


def test_a_residual_net_in_the_ledger():
    model, x = models.ResNet(depth=14, width=4), drawn(1, 8, 8, 3)
    variables = variables_of(model, x)
    found = depth.branches(model.apply, variables, x)
    left = depth.drop(variables, found, [found[1].name])
    apply = jc.lift(model.apply)
    whole = jax.tree.map(jnp.zeros_like, variables["params"]["stack1_block2"])
    wanted = variables | {"params": variables["params"] | {"stack1_block2": whole}}
    wanted["batch_stats"] = variables["batch_stats"] | {
        "stack1_block2": jax.tree.map(jnp.zeros_like, variables["batch_stats"]["stack1_block2"])
    }
    np.testing.assert_allclose(apply(left, x), model.apply(wanted, x), rtol=1e-5, atol=1e-6)
    before, after = jc.ledger(apply, variables, x), jc.ledger(apply, left, x)
    assert before.macs - after.macs == 2 * 64 * 9 * 4 * 4
    graph, weights = jc.read(model.apply, left, x)
    assert not [node.name for node in graph.nodes if "stack1_block2" in node.name]
    assert not [name for name in weights if "stack1_block2" in name]
    np.testing.assert_allclose(graph(weights, x), model.apply(wanted, x), rtol=1e-4, atol=1e-5)
    entries = {entry.path: (entry.kind, entry.packed_bytes) for entry in after.entries}
    assert {path: entries[path] for path in found[1].parameters} == dict.fromkeys(found[1].parameters, ("Zeros", 4))
    assert before.packed_bytes - after.packed_bytes > 4 * 2 * 9 * 4 * 4


def test_a_file_holds_what_is_left(tmp_path):
    params, x, found = small()
    left = depth.drop(params, found, ["a0"])
    jc.export.save(tmp_path / "model.jaxc", left)
    loaded = jc.export.load(tmp_path / "model.jaxc")
    assert jax.tree.structure(loaded) == jax.tree.structure(jc.pack(left))
    np.testing.assert_array_equal(jc.lift(net)(loaded, x), jc.lift(net)(left, x))


def test_channels_and_branches_go_together():
    params, x, found = small()
    channels = jc.channels(net, params, x)
    kept = {group.name: np.arange(group.channels) % 2 == 0 for group in channels.groups}
    masked = jc.densify(jc.prune.mask(params, channels, kept))
    both = [
        jc.prune.remove(depth.drop(params, found, ["a1"]), channels, kept),
        depth.drop(jc.prune.remove(params, channels, kept), found, ["a1"]),
    ]
    wanted = net(masked | {name: jnp.zeros_like(params[name]) for name in found[1].parameters}, x)
    for left in both:
        np.testing.assert_allclose(jc.lift(net)(left, x), wanted, rtol=1e-4, atol=1e-5)
        assert jc.macs(jc.lift(net), left, x) == 8 * (2 * 4 * 3 + 4 * 2)


def test_norms_of_branches_by_hand():
    params, x, found = small()
    norms = depth.relative_norms(net, params, found, [x[:5], x[5:]])
    one = jax.nn.relu(x @ params["a0"] + params["bias0"][None]) @ params["b0"]
    y = x + one
    two = jax.nn.relu(y @ params["a1"] + params["bias1"][None]) @ params["b1"]
    wanted = [np.linalg.norm(one) / np.linalg.norm(x), np.linalg.norm(two) / np.linalg.norm(y)]
    assert list(norms) == ["a0", "a1"]
    np.testing.assert_allclose(list(norms.values()), wanted, rtol=1e-5)


def test_a_branch_that_adds_nothing_has_no_norm_and_changes_no_loss():
    params, x, found = small()
    params["b0"] = jnp.zeros_like(params["b0"])
    assert depth.relative_norms(net, params, found, [x])["a0"] == 0
    assert set(depth.relative_norms(net, params, found, [jnp.zeros_like(x)]).values()) == {0.0, float("inf")}
    apply = jc.lift(net)
    loss = lambda params, batch: jnp.mean(jnp.square(apply(params, batch[0]) - batch[1]))
    batches = [(x, net(params, x)), (2 * x, net(params, 2 * x))]
    changes = depth.loss_changes(loss, params, found, batches)
    without = [loss(depth.drop(params, found, ["a1"]), batch) for batch in batches]
    assert changes["a0"] == 0
    np.testing.assert_allclose(changes["a1"], np.mean(without), rtol=1e-5)


def test_training_goes_on_without_a_branch():
    params, x, found = small()
    left = depth.drop(params, found, ["a1"])
    trained, fixed = jc.partition(left)
    grads = jax.grad(lambda t: jnp.sum(jnp.square(jc.lift(net)(jc.combine(t, fixed), x))))(trained)
    assert {jax.tree_util.keystr(path, simple=True) for path, _ in jax.tree_util.tree_leaves_with_path(grads)} == {
        *("head", "a0", "b0", "bias0")
    }


def test_bad_input_is_refused():
    params, x, found = small()
    with pytest.raises(ValueError, match=r"there is no branch 'a2' \(did you mean 'a1'\?\); there are a0, a1"):
        depth.drop(params, found, ["a2"])
    with pytest.raises(ValueError, match="there are no batches"):
        depth.relative_norms(net, params, found, [])
    with pytest.raises(ValueError, match="there are no batches"):
        depth.loss_changes(lambda params, batch: jnp.float32(0), params, found, [])
    with pytest.raises(ValueError, match="the branch a0, or what it is added to, is not finite"):
        depth.relative_norms(net, params, found, [jnp.full_like(x, jnp.inf)])
