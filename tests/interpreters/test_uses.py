"""The inputs that a reading finds are those that the model's layers were given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from jaxcompress import cost, macs, uses
from jaxcompress.arrays import LowRank, Masked
from jaxcompress.interpreters.axes import Axes
from jaxcompress.interpreters.uses import axes
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


def test_a_weight_that_a_scan_has_in_every_turn_is_used_once_a_turn_and_layers_are_stacked():
    def apply(params, x):
        x, _ = lax.scan(lambda x, w: (jnp.tanh(x @ w @ params["both"]), None), x, params["layers"])
        return jax.checkpoint(lambda x: x @ params["both"])(x) @ params["last"]

    params = {
        "layers": jax.random.normal(jax.random.key(0), (3, 4, 4)),
        "both": jax.random.normal(jax.random.key(1), (4, 4)),
        "last": jnp.ones((4, 2)),
    }
    x = jax.random.normal(jax.random.key(2), (1, 4))
    found = uses(apply, lambda use: use.input)(params, x)
    assert {path: len(inputs) for path, inputs in found.items()} == {"layers": 1, "both": 4, "last": 1}
    for layer in range(3):
        np.testing.assert_allclose(found["layers"][0][layer], x, rtol=1e-5)
        np.testing.assert_allclose(found["both"][layer], x @ params["layers"][layer], rtol=1e-5)
        x = jnp.tanh(x @ params["layers"][layer] @ params["both"])
    np.testing.assert_allclose(found["both"][3], x, rtol=1e-5)


def test_other_loops_and_branches_run_as_they_stand_unseen():
    def apply(params, x):
        x = lax.fori_loop(0, jnp.argmax(x[0]), lambda _, x: x @ params["looped"], x)
        return lax.cond(x[0, 0] > 0, lambda x: x @ params["branch"], lambda x: x, x) @ params["last"]

    params = {"looped": jnp.eye(4), "branch": jnp.eye(4), "last": jnp.ones((4, 2))}
    assert uses(apply, lambda use: use.input.shape)(params, jnp.ones((1, 4))) == {"last": [(1, 4)]}


def test_a_weight_that_stands_first_is_read_as_if_it_stood_second():
    params, x = {"w": jnp.arange(24.0).reshape(2, 3, 4)}, jnp.arange(30.0).reshape(2, 3, 5)
    apply = lambda p, x: lax.dot_general(p["w"], x, (((1,), (1,)), ((0,), (0,))))
    (use,) = uses(apply, lambda use: use)(params, x)["w"]
    np.testing.assert_array_equal(use.input, x)
    np.testing.assert_array_equal(use.output, apply(params, x).transpose(0, 2, 1))
    assert use.macs == 2 * 5 * 4 * 3


def batched(params, x):
    return jnp.einsum("bei,eio->beo", x, params["w"])


AXES = {
    "dense": (lambda p, x: x @ p["w"], (3, 4), (2, 3), Axes((0,), (1,))),
    "transposed": (lambda p, x: x @ p["w"].T, (4, 3), (2, 3), Axes((1,), (0,))),
    "attention": (lambda p, x: jnp.einsum("td,dhk->thk", x, p["w"]), (8, 2, 3), (5, 8), Axes((0,), (1, 2))),
    "heads_first": (lambda p, x: jnp.einsum("td,hdk->thk", x, p["w"]), (2, 8, 3), (5, 8), Axes((1,), (0, 2))),
    "out": (lambda p, x: jnp.einsum("thk,hkd->td", x, p["w"]), (2, 3, 8), (5, 2, 3), Axes((0, 1), (2,))),
    "reshaped": (lambda p, x: x @ p["w"].reshape(8, 6), (8, 2, 3), (5, 8), Axes((0,), (1, 2))),
    "split": (lambda p, x: jnp.einsum("td,dhk->thk", x, p["w"].reshape(8, 2, 3)), (8, 6), (5, 8), Axes((0,), (1,))),
    "experts": (batched, (3, 4, 5), (2, 3, 4), Axes((1,), (2,), (0,))),
    "convolution": (
        lambda p, x: lax.conv_general_dilated(x, p["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
        *((3, 2, 4, 5), (1, 6, 6, 4), Axes((2,), (3,), (), (0, 1))),
    ),
    "outputs_first": (
        lambda p, x: lax.conv_general_dilated(x, p["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "OIHW", "NHWC")),
        *((5, 4, 3, 2), (1, 6, 6, 4), Axes((1,), (0,), (), (2, 3))),
    ),
    "grouped": (
        lambda p, x: lax.conv_general_dilated(
            x, p["w"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=2
        ),
        *((3, 2, 6), (1, 6, 4), Axes((1,), (2,), (), (0,), 2)),
    ),
    "layers": (
        lambda p, x: lax.scan(lambda x, w: (x @ w, None), x, p["w"])[0],
        (3, 4, 4),
        (2, 4),
        Axes((1,), (2,), (0,)),
    ),
    "layers_inside": (
        lambda p, x: lax.scan(lambda x, w: (x @ w, None), x, jnp.moveaxis(p["w"], 1, 0))[0],
        *((4, 3, 4), (2, 4), Axes((0,), (2,), (1,))),
    ),
    "remat": (jax.checkpoint(lambda p, x: x @ p["w"]), (3, 4), (2, 3), Axes((0,), (1,))),
}


@pytest.mark.parametrize("name", AXES)
def test_axes_are_those_of_the_matrix_that_the_program_contracts(name):
    apply, kernel, x, expected = AXES[name]
    params, x = {"w": jnp.ones(kernel)}, jnp.ones(x)
    (found,) = axes(apply, params, "w", x).values()
    assert found == expected
    assert found.multiply_adds(params["w"]) == macs(apply, params, x)
    layers = found.layers(params["w"])
    assert layers.shape[1:] == found.layer_shape(kernel)
    counted = jnp.arange(params["w"].size).reshape(kernel)
    np.testing.assert_array_equal(found.kernel(found.layers(counted), kernel), counted)


def test_two_uses_of_one_matrix_agree_and_of_two_are_refused():
    tied = lambda p, x: x @ p["w"] @ p["w"].T
    table = axes(tied, {"w": jnp.ones((3, 4))}, "w", jnp.ones((2, 3)))
    assert table == {"w": Axes((0,), (1,))} and table["w"].multiply_adds(jnp.ones((3, 4))) == 2 * 2 * 12
    both = lambda p, x: jnp.einsum("d,dhk->hk", x, p["w"]) + jnp.einsum("d,hkd->hk", x, p["w"])
    for apply, told in ((both, "2 matrices"), (lambda p, x: x * jnp.sum(p["w"]), "0 products")):
        with pytest.raises(ValueError, match=rf"w is not multiplied as it stands.*{told}"):
            axes(apply, {"w": jnp.ones((3, 3, 3))}, "w", jnp.ones(3))
    halves = lambda p, x: jnp.einsum("a,abc->bc", x, p["w"].reshape(2, 3, 4))
    with pytest.raises(ValueError, match="w is not multiplied as it stands"):
        axes(halves, {"w": jnp.ones((6, 4))}, "w", jnp.ones(2))
