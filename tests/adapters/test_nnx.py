import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcompress import adapters, chain, channels, densify, lift, prune, quantize
from jaxcompress.paths import flatten, names, select
from tests.adapters.statistics import check_statistics_are_cut
from tests.nets import NNXMLP, NNXResNet, NNXScan, data


def text_keys(tree):
    return all(isinstance(k, str) and text_keys(v) for k, v in tree.items()) if isinstance(tree, dict) else True


@pytest.mark.parametrize("make", [NNXMLP, NNXResNet, NNXScan])
def test_trees_have_text_keys_and_arrays(make):
    _, params = adapters.nnx.functional(make(nnx.Rngs(0)))
    assert text_keys(params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))


def test_lists_of_layers_are_named_by_their_places():
    module, x = NNXMLP(nnx.Rngs(0)), data(3, 9)
    apply, params = adapters.nnx.functional(module)
    assert list(flatten(params)) == [f"layers/{i}/{name}" for i in range(3) for name in ("bias", "kernel")]
    np.testing.assert_array_equal(apply(params, x), module(x))


def test_more_than_ten_layers_keep_their_order():
    module, x = NNXMLP(nnx.Rngs(0), widths=(9,) * 12), data(3, 9)
    apply, params = adapters.nnx.functional(module)
    moved = jax.tree.map(lambda a: a + 0.1, params)
    for i, layer in enumerate(module.layers):
        layer.kernel[...] = moved["layers"][str(i)]["kernel"]
        layer.bias[...] = moved["layers"][str(i)]["bias"]
    np.testing.assert_array_equal(apply(moved, x), module(x))


def test_apply_takes_compressed_leaves():
    x = data(3, 9)
    apply, params = adapters.nnx.functional(NNXMLP(nnx.Rngs(0)))
    tree = quantize.weights(".*kernel", 4).init(params)
    np.testing.assert_array_equal(apply(tree, x), apply(densify(tree), x))


def test_batch_statistics_are_closed_over():
    module, x = NNXResNet(nnx.Rngs(0)), data(2, 8, 8, 3)
    apply, params = adapters.nnx.functional(module)
    assert not any("mean" in path or "var" in path for path in flatten(params))
    np.testing.assert_allclose(jax.jit(apply)(params, x), module(x), rtol=1e-5, atol=1e-6)


def test_closed_over_statistics_are_cut_with_their_channels():
    module, x = NNXResNet(nnx.Rngs(0)), data(2, 8, 8, 3)
    statistics = nnx.state(module, nnx.BatchStat)
    nnx.update(module, jax.tree.map(lambda a: a * 1.5 + 0.25, statistics))
    apply, params = adapters.nnx.functional(module)
    check_statistics_are_cut(apply, params, x)


def test_what_a_call_changes_in_the_state_is_not_kept():
    module, x = nnx.BatchNorm(3, rngs=nnx.Rngs(0)), data(4, 3)
    apply, params = adapters.nnx.functional(module)
    apply(params, x)
    evaluate = lambda: apply(params, x, use_running_average=True)
    np.testing.assert_array_equal(evaluate(), nnx.BatchNorm(3, rngs=nnx.Rngs(0))(x, use_running_average=True))
    np.testing.assert_array_equal(module.mean[...], np.zeros(3))


@pytest.mark.parametrize("transform", [jax.jit, jax.checkpoint], ids=["jit", "remat"])
def test_model_that_changes_its_state_can_be_traced(transform):
    apply, params = adapters.nnx.functional(nnx.Dropout(0.5, rngs=nnx.Rngs(0)))
    first = transform(apply)(params, jnp.ones((4, 8)))
    np.testing.assert_array_equal(transform(apply)(params, jnp.ones((4, 8))), first)
    assert {float(v) for v in first.reshape(-1)} == {0.0, 2.0}


def test_the_module_is_not_touched_by_new_parameters():
    module, x = NNXMLP(nnx.Rngs(0)), data(3, 9)
    before = module(x)
    apply, params = adapters.nnx.functional(module)
    assert not np.array_equal(apply(jax.tree.map(lambda a: a + 1, params), x), before)
    np.testing.assert_array_equal(module(x), before)


def test_apply_is_exported_with_the_tree_as_an_argument():
    x = data(3, 9)
    apply, params = adapters.nnx.functional(NNXMLP(nnx.Rngs(0)))
    stored = jax.export.export(jax.jit(apply))(params, x).serialize()
    np.testing.assert_allclose(jax.export.deserialize(stored).call(params, x), apply(params, x), rtol=1e-6, atol=1e-7)


# Both ways in which NNX walks modules, and its states as parameters


@pytest.fixture(params=[True, False], ids=["graph", "tree"])
def graph_mode(request):
    with nnx.set_graph_mode(request.param):
        yield request.param


class Normalized(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs)])
        self.dropout, self.head = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        for layer in self.blocks:
            x = layer(x)
        return self.head(self.dropout(nnx.relu(x)).mean((1, 2)))


PATHS = ["blocks/0/bias", "blocks/0/kernel", "blocks/1/bias", "blocks/1/mean", "blocks/1/scale", "blocks/1/var"]


def test_an_adapted_model_is_the_module_in_both_modes(graph_mode):
    module, x = Normalized(nnx.Rngs(0)), data(2, 5, 5, 3)
    module.eval()
    apply, params = adapters.nnx.functional(module)
    assert [path for path in flatten(params) if "blocks" in path] == [PATHS[i] for i in (0, 1, 2, 4)]
    np.testing.assert_allclose(apply(params, x), module(x), rtol=1e-6, atol=1e-6)
    check_statistics_are_cut(apply, params, x)


def test_a_state_is_a_tree_of_parameters_in_both_modes(graph_mode):
    graph, state = nnx.split(Normalized(nnx.Rngs(0)))
    x = data(2, 5, 5, 3)

    def apply(state, x):
        module = nnx.merge(graph, state)
        return module(x), nnx.state(module)

    assert [path for path in flatten(state) if "blocks" in path] == PATHS
    found = channels(apply, state, x)
    assert [group.name for group in found.groups] == ["blocks/0/bias:0"] and not found.pinned
    kept = {"blocks/0/bias:0": np.arange(4) % 2 == 1}
    tree = chain(prune.magnitude("blocks/0/kernel", sparsity=0.5), quantize.weights(".*kernel", 4)).init(state)
    cut, masked = prune.remove(tree, found, kept), prune.mask(tree, found, kept)
    assert isinstance(cut, nnx.State) and names(cut)[1:3] == ["blocks/0/kernel", "blocks/0/kernel/weight"]
    assert list(select(cut, "blocks/1/.*")) == PATHS[2:]
    step = jax.jit(lift(apply))
    (out, after), (expected, _) = step(cut, x), step(masked, x)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    assert jax.tree.structure(after["blocks"][1]) == jax.tree.structure(cut["blocks"][1])
    module = nnx.merge(graph, densify(after))
    assert module.blocks[1].mean.shape == (4,) and float(jnp.abs(module.blocks[1].mean[...]).sum()) > 0


def test_shared_variables_are_one_parameter_and_no_tree():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.a, self.b = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)
            self.b.kernel = self.a.kernel

        def __call__(self, x):
            return self.b(self.a(x))

    module, x = Tied(nnx.Rngs(0)), data(2, 4)
    with nnx.set_graph_mode(True):
        apply, params = adapters.nnx.functional(module)
        assert list(flatten(params)) == ["a/bias", "a/kernel", "b/bias"]
        np.testing.assert_array_equal(apply(params, x), module(x))
    with nnx.set_graph_mode(False), pytest.raises(ValueError, match=r"(?s)a\.kernel.*b\.kernel.*shared"):
        adapters.nnx.functional(module)
