"""The inputs that a reading finds are those that the model's layers were given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from jaxcompress import cost, uses
from jaxcompress.arrays import LowRank, Masked
from tests.nets import NETS, LinenLeNet5, LinenMLP


def given(module, variables, x):
    """Lists what Linen hands to each layer, by the path of its kernel."""
    seen = {}

    def note(call, args, kwargs, context):
        if isinstance(context.module, nn.Dense | nn.Conv):
            seen["/".join((*context.module.path, "kernel"))] = args[0]
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        module.apply(variables, x)
    return seen


@pytest.mark.parametrize("module, shape", [(LinenMLP(), (3, 5)), (LinenLeNet5(), (2, 28, 28, 1))])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_inputs_are_those_that_linen_hands_to_each_layer(module, shape, wrap):
    x = jax.random.normal(jax.random.key(0), shape)
    variables = module.init(jax.random.key(1), x)
    apply = wrap(lambda params, x: module.apply({"params": params}, x))
    found = wrap(uses(apply, lambda use: use.input))(variables["params"], x)
    expected = given(module, variables, x)
    assert found.keys() == expected.keys()
    for path, inputs in found.items():
        assert len(inputs) == 1
        np.testing.assert_array_equal(inputs[0], expected[path])


def test_multiply_adds_are_those_that_cost_counts():
    module = LinenLeNet5()
    x = jnp.ones((1, 28, 28, 1))
    params = module.init(jax.random.key(0), x)["params"]
    apply = lambda params, x: module.apply({"params": params}, x)
    found = uses(apply, lambda use: use.macs)(params, x)
    assert [macs for (macs,) in found.values()] == [operation.macs for operation in cost(apply, params, x)]


def test_linen_and_nnx_have_the_same_uses():
    for name in ("mlp", "lenet5"):
        nets = [make() for key, make in NETS.items() if name in key.lower()]
        linen, nnx = ([*uses(net.apply, lambda use: use.macs)(net.params, net.x).values()] for net in nets)
        assert linen == nnx


def test_a_weight_used_twice_is_found_twice_in_order():
    def apply(params, x):
        return jnp.tanh(x @ params["w"]) @ params["w"]

    w, x = jax.random.normal(jax.random.key(0), (4, 4)), jnp.ones((2, 4))
    first, second = uses(apply, lambda use: use.input)({"w": w}, x)["w"]
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(second, jnp.tanh(x @ w))


def test_weight_is_given_as_it_stands_in_the_product():
    params = {"w": jnp.arange(6.0).reshape(2, 3), "unused": jnp.ones(2)}
    apply = lambda p, x: x @ p["w"].T.astype(jnp.bfloat16)
    (use,) = uses(apply, lambda use: use)(params, jnp.ones((1, 3), jnp.bfloat16))["w"]
    np.testing.assert_array_equal(use.weight, params["w"].T.astype(jnp.bfloat16))
    np.testing.assert_array_equal(use.output, use.input @ use.weight)


def test_compressed_leaves_stand_for_their_dense_array():
    u, v, mask = jnp.ones((4, 1)), jnp.arange(3.0)[None], jnp.arange(12).reshape(4, 3) % 2 == 0
    params = {"a": LowRank(u, v), "b": Masked(jnp.ones((4, 3)), mask)}
    found = uses(lambda p, x: x @ p["a"] + x @ p["b"], lambda use: use.weight)(params, jnp.ones((1, 4)))
    np.testing.assert_array_equal(found["a"][0], u @ v)
    np.testing.assert_array_equal(found["b"][0], mask)


def test_loops_run_as_they_stand_unseen():
    def apply(params, x):
        x, _ = lax.scan(lambda x, w: (jnp.tanh(x @ w @ params["both"]), None), x, params["layers"])
        return jax.checkpoint(lambda x: x @ params["both"])(x) @ params["last"]

    params = {"layers": jnp.ones((3, 4, 4)), "both": jnp.eye(4), "last": jnp.ones((4, 2))}
    found = uses(apply, lambda use: use.input.shape)(params, jnp.ones((1, 4)))
    assert found == {"last": [(1, 4)]}
