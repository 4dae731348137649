"""Moments of pre-activations, against NumPy in float64 on all inputs at once."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import quantize
from jaxcompress.interpreters.graph import Graph, Node, Window, operate
from jaxcompress.quantize.moments import Moments, mean_after

SAME = Window((3, 3), (1, 1), ((1, 1), (1, 1)))
SHAPE = (1, 5, 5, 3)


def drawn(*shape, seed=0, scale=1.0):
    return jnp.asarray(np.random.default_rng(seed).normal(0, scale, shape), jnp.float32)


def net():
    nodes = (
        Node("conv", "convolution", ("input",), SHAPE, window=SAME, activation="relu"),
        Node("max", "max_pool", ("conv",), SHAPE, window=SAME),
        Node("add", "add", ("conv", "max"), SHAPE, activation="relu6"),
        Node("sum", "add", ("add", "max"), SHAPE),
        Node("cut", "relu6", ("sum",), SHAPE),
        Node("mean", "mean", ("cut",), (1, 3), axes=(1, 2)),
        Node("fc", "dense", ("mean",), (1, 2)),
    )
    weights = {
        "conv": {"kernel": drawn(3, 3, 3, 3), "bias": drawn(3, seed=1)},
        "fc": {"kernel": drawn(3, 2, seed=2), "bias": drawn(2, seed=3)},
    }
    return Graph(nodes, SHAPE, "fc"), weights


def test_moments_are_those_of_what_stands_before_activations():
    graph, weights = net()
    batches = [drawn(4, *SHAPE[1:], seed=5), drawn(3, *SHAPE[1:], seed=6) + 1]
    found = quantize.moments(graph, weights, batches)
    x = jnp.concatenate(batches)
    values = graph.values(lambda node, inputs: operate(node, weights.get(node.name, {}), inputs), x)
    sums = operate(Node("conv", "convolution", ("input",), SHAPE, window=SAME), weights["conv"], [x])
    added, fc = values["conv"] + values["max"], values["fc"]
    expected = {"input": x, "conv": sums, "max": values["max"], "add": added, "cut": values["sum"], "fc": fc}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        rows = np.asarray(tensor, np.float64).reshape(-1, tensor.shape[-1])
        np.testing.assert_allclose(found[name].mean, rows.mean(0), rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(found[name].deviation, rows.std(0), rtol=1e-4, err_msg=name)


def test_small_deviations_of_large_values_are_not_lost_and_constants_have_none():
    graph = Graph((Node("flat", "reshape", ("input",), (1, 2)),), (1, 2), "flat")
    moving = 4096 + np.random.default_rng(0).integers(-2, 3, (60, 1))  # floats that are exact
    x = np.concatenate([moving, np.full((60, 1), 4096.0)], axis=1).astype(np.float32)
    found = quantize.moments(graph, {}, [x[:9], x[9:]])["input"]
    np.testing.assert_allclose(found.deviation, [moving.std(), 0], rtol=1e-3)


def test_no_batches_and_values_that_are_not_finite_are_refused():
    graph, weights = net()
    with pytest.raises(ValueError, match="no batches"):
        quantize.moments(graph, weights, [])
    with pytest.raises(ValueError, match="values of .* are not finite"):
        quantize.moments(graph, weights, [drawn(2, *SHAPE[1:]).at[1, 0, 0, 0].set(jnp.nan)])


def test_means_after_activations_are_those_of_many_draws():
    before = Moments(jnp.array([-1.0, 0.5, 5.0]), jnp.array([1.0, 2.0, 2.0]))
    x = np.random.default_rng(0).normal(before.mean, before.deviation, (400_000, 3))
    for activation, apply in ((None, lambda x: x), ("relu", lambda x: x.clip(0)), ("relu6", lambda x: x.clip(0, 6))):
        for node in (
            Node("a", "add", ("x", "y"), (1, 3), activation=activation),
            Node("a", activation or "max_pool", ("x",), (1, 3)),
        ):
            np.testing.assert_allclose(mean_after(node, before), apply(x).mean(0), atol=0.015)
