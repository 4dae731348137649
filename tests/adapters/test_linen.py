import jax
import numpy as np
import pytest

from jaxcompress import adapters, densify, quantize
from jaxcompress.paths import flatten
from tests.adapters.statistics import check_statistics_are_cut
from tests.nets import LinenMLP, LinenResNet, data


def test_params_are_the_collection_and_apply_is_the_model():
    module, x = LinenMLP(), data(3, 9)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    apply, params = adapters.linen.functional(module, variables)
    assert params is variables["params"]
    assert list(flatten(params))[:2] == ["fc1/bias", "fc1/kernel"]
    np.testing.assert_array_equal(apply(params, x), module.apply(variables, x))


def test_apply_takes_compressed_leaves():
    module, x = LinenMLP(), data(3, 9)
    apply, params = adapters.linen.functional(module, jax.jit(module.init)(jax.random.key(0), x))
    tree = quantize.weights(".*kernel", 4).init(params)
    np.testing.assert_array_equal(apply(tree, x), apply(densify(tree), x))


def test_batch_statistics_are_closed_over():
    module, x = LinenResNet(), data(2, 8, 8, 3)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    shifted = {**variables, "batch_stats": jax.tree.map(lambda a: a + 1, variables["batch_stats"])}
    apply, params = adapters.linen.functional(module, shifted)
    assert not any("mean" in path for path in flatten(params))
    out = jax.jit(apply)(params, x)
    np.testing.assert_allclose(out, jax.jit(module.apply)(shifted, x), rtol=1e-6)
    assert not np.allclose(out, jax.jit(module.apply)(variables, x))


def test_closed_over_statistics_are_cut_with_their_channels():
    module, x = LinenResNet(), data(2, 8, 8, 3)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    moved = jax.tree.map(lambda a: a * 1.5 + 0.25, variables["batch_stats"])
    apply, params = adapters.linen.functional(module, {**variables, "batch_stats": moved})
    check_statistics_are_cut(apply, params, x)


def test_variables_without_params_are_refused():
    with pytest.raises(ValueError, match=r"no collection 'params'; there are \['batch_stats'\]"):
        adapters.linen.functional(LinenMLP(), {"batch_stats": {}})
