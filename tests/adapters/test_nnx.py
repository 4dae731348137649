import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcompress import adapters, densify, quantize
from jaxcompress.paths import flatten
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
