"""Checks what is multiplied into the kernels of a graph: integers keep their codes, and gradients flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress import quantize
from jaxcompress.arrays import FakeQuantized, Masked, Quantized, Scaled, dense
from jaxcompress.prune import magnitude
from tests.nets import data

X = data(1, 6)
PARAMS = {"fc": {"kernel": data(6, 4) + 0.3, "bias": jnp.arange(4.0)}, "by": jnp.float32([2.0, -0.5, 0.04, -3.0])}
SIGNS = np.sign(PARAMS["by"]).astype(np.int8)


def scaled(params, x):
    return (x @ params["fc"]["kernel"] + params["fc"]["bias"][None]) * params["by"][None]


def divided(params, x):
    return (x @ params["fc"]["kernel"] + params["fc"]["bias"][None]) / params["by"][None]


def there_and_back(params, x):
    return scaled(params, x) / params["by"][None] - 1.0


WEIGHTS = {
    "channel": quantize.weights("fc/kernel", 4),
    "tensor": quantize.weights("fc/kernel", 8, granularity="tensor"),
    "stochastic": quantize.weights("fc/kernel", 4, stochastic=True),
    "learned": quantize.lsq("fc/kernel", 3, symmetric=True),
    "ternary": quantize.ternary("fc/kernel"),
    "mask around": jc.chain(quantize.weights("fc/kernel", 4), magnitude("fc/kernel", 0.5)),
    "mask inside": jc.chain(magnitude("fc/kernel", 0.5), quantize.weights("fc/kernel", 4)),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", WEIGHTS)
def test_integers_keep_their_codes_and_get_the_vector_into_their_scale(name, packed):
    params = WEIGHTS[name].init(PARAMS)
    params = jc.pack(params) if packed else params
    codes, scale, _ = params["fc"]["kernel"].integers()
    for apply, vector in ((scaled, PARAMS["by"]), (divided, 1 / PARAMS["by"])):
        graph, weights = jc.read(apply, params, X)
        kernel = weights["fc"]["kernel"]
        assert isinstance(kernel.weight if isinstance(kernel, Masked) else kernel, Scaled)
        found = kernel.integers()
        np.testing.assert_array_equal(found[0], np.asarray(codes) * SIGNS)
        np.testing.assert_allclose(found[1], np.asarray(scale) * np.abs(vector), rtol=1e-6)
        assert not np.any(found[2])
        np.testing.assert_allclose(graph(weights, X), jc.lift(apply)(params, X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "transform",
    [quantize.weights("fc/kernel", 4, symmetric=False), quantize.weights("fc/kernel", 4, granularity="group", group=3)],
)
def test_integers_that_no_device_knows_are_still_what_they_mean(transform):
    params = transform.init(PARAMS)
    graph, weights = jc.read(scaled, params, X)
    assert isinstance(weights["fc"]["kernel"], Scaled)
    np.testing.assert_allclose(graph(weights, X), jc.lift(scaled)(params, X), rtol=1e-5, atol=1e-6)
    grids = quantize.calibrate(graph, weights, [X])
    with pytest.raises(ValueError, match=r"fc/kernel has (zero points|scales of shape \(6, 4\))"):
        quantize.to_integers(graph, weights, grids)


@pytest.mark.parametrize("transform", [magnitude("fc/kernel", 0.5), quantize.codebook("fc/kernel", 3)])
def test_what_has_no_integers_becomes_the_array_that_it_means(transform):
    params = transform.init(PARAMS)
    _, weights = jc.read(scaled, params, X)
    np.testing.assert_array_equal(weights["fc"]["kernel"], dense(params["fc"]["kernel"]) * PARAMS["by"][None])


def test_vectors_that_cancel_leave_the_leaf():
    params = quantize.weights("fc/kernel", 4).init(PARAMS)
    graph, weights = jc.read(there_and_back, params, X)
    assert weights["fc"]["kernel"] is params["fc"]["kernel"]
    np.testing.assert_allclose(graph(weights, X), jc.lift(there_and_back)(params, X), rtol=1e-5, atol=1e-6)


def test_a_vector_that_cancels_a_factor_leaves_the_leaf():
    leaf = quantize.weights("fc/kernel", 4).init(PARAMS)["fc"]["kernel"]
    params = PARAMS | {"fc": {"kernel": Scaled(leaf, 1 / PARAMS["by"][None]), "bias": PARAMS["fc"]["bias"]}}
    assert jc.read(scaled, params, X)[1]["fc"]["kernel"] is leaf
    packed = jc.read(scaled, jc.pack(params), X)[1]["fc"]["kernel"]
    assert isinstance(packed, Quantized)
    np.testing.assert_array_equal(packed.codes, leaf.integers()[0])


@pytest.mark.parametrize("apply", [scaled, divided, there_and_back])
def test_gradients_flow_to_the_kernel_and_to_the_vector(apply):
    params = quantize.weights("fc/kernel", 4).init(PARAMS)
    trained, fixed = jc.partition(params)

    def of_graph(trained):
        graph, weights = jc.read(apply, jc.combine(trained, fixed), X)
        assert isinstance(weights["fc"]["kernel"], Scaled | FakeQuantized)
        return jnp.sum(jnp.sin(graph(weights, X)))

    expected = jax.grad(lambda t: jnp.sum(jnp.sin(jc.lift(apply)(jc.combine(t, fixed), X))))(trained)
    for slope in (jax.grad(of_graph)(trained), jax.jit(jax.grad(of_graph))(trained)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), slope, expected)
