import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

import jaxcompress as jc

X = jax.random.normal(jax.random.key(1), (2, 6, 6, 3))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.Conv(4, (3, 3), name="conv1")(x))
        return nn.relu(x + nn.Conv(4, (3, 3), name="conv2")(y))


class Net(nn.Module):
    train: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="stem")(x))
        x = nn.BatchNorm(use_running_average=not self.train, name="bn")(x)
        x = Block(name="block1")(x)
        return nn.Dense(5, name="head")(x.mean((1, 2)))


class Layers(nnx.Module):
    """Has layers of NNX, which stand in no scope."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.convs = nnx.List([nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Conv(4, 4, (3, 3), rngs=rngs)])
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 5, rngs=rngs)

    def __call__(self, x):
        for conv in self.convs:
            x = nnx.relu(conv(x))
        return self.head(self.norm(x).mean((1, 2)))


@pytest.fixture(scope="module")
def linen():
    model = Net()
    return model, model.init(jax.random.key(0), X)


def captured(model, variables):
    """Returns what Linen itself says that each of its modules gave."""
    _, state = model.apply(variables, X, capture_intermediates=True, mutable=["intermediates"])
    return state["intermediates"]


def test_modules_give_what_linen_captures(linen):
    model, variables = linen
    out, found = jc.taps(model.apply, ["stem", "bn", "block1", "block1/conv2", "head"])(variables, X)
    expected = captured(model, variables)
    np.testing.assert_array_equal(out, model.apply(variables, X))
    np.testing.assert_array_equal(found["stem"], expected["stem"]["__call__"][0])
    np.testing.assert_array_equal(found["bn"], expected["bn"]["__call__"][0])
    np.testing.assert_array_equal(found["block1"], expected["block1"]["__call__"][0])
    np.testing.assert_array_equal(found["block1/conv2"], expected["block1"]["conv2"]["__call__"][0])
    np.testing.assert_array_equal(found["head"], out)


def test_inputs_lie_behind_the_activation_function(linen):
    model, variables = linen
    _, found = jc.taps(model.apply, ["bn:input", "block1:input", "head:input", "block1"])(variables, X)
    expected = captured(model, variables)
    np.testing.assert_array_equal(found["bn:input"], nn.relu(expected["stem"]["__call__"][0]))
    np.testing.assert_array_equal(found["block1:input"], expected["bn"]["__call__"][0])
    np.testing.assert_array_equal(found["head:input"], found["block1"].mean((1, 2)))


def test_statistics_in_training_are_no_activations(linen):
    _, variables = linen
    apply = lambda variables, x: Net(train=True).apply(variables, x, mutable=["batch_stats"])
    (out, statistics), found = jc.taps(apply, ["bn"])(variables, X)
    expected, moved = apply(variables, X)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(statistics["batch_stats"]["bn"]["mean"], moved["batch_stats"]["bn"]["mean"])
    assert found["bn"].shape == (2, 6, 6, 4)


def test_layers_of_nnx_are_named_by_their_parameters():
    model = Layers()
    apply, params = jc.adapters.nnx.functional(model)
    _, found = jc.taps(apply, ["convs/0", "convs/1:input", "convs/1", "norm", "head:input"])(params, X)
    first = model.convs[0](X)
    second = model.convs[1](nnx.relu(first))
    np.testing.assert_array_equal(found["convs/0"], first)
    np.testing.assert_array_equal(found["convs/1:input"], nnx.relu(first))
    np.testing.assert_array_equal(found["convs/1"], second)
    np.testing.assert_array_equal(found["norm"], model.norm(nnx.relu(second)))
    np.testing.assert_array_equal(found["head:input"], model.norm(nnx.relu(second)).mean((1, 2)))


def test_gradients_pass_through_taps_under_jit(linen):
    model, variables = linen
    tapped = jc.taps(model.apply, ["block1"])
    loss = lambda v: jnp.sum(tapped(v, X)[1]["block1"] ** 2)
    plain = lambda v: jnp.sum(captured(model, v)["block1"]["__call__"][0] ** 2)
    ours, theirs = jax.jit(jax.grad(loss))(variables), jax.grad(plain)(variables)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_compressed_leaves_are_lifted(linen):
    model, variables = linen
    compressed = variables | {"params": jc.prune.magnitude("block1/.*/kernel", sparsity=0.5).init(variables["params"])}
    out, found = jc.taps(model.apply, ["block1/conv1"])(compressed, X)
    expected, other = jc.taps(model.apply, ["block1/conv1"])(jc.densify(compressed), X)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(found["block1/conv1"], other["block1/conv1"])


def test_scopes_of_plain_functions_and_of_calls():
    @jax.jit
    def inner(w, x):
        with jax.named_scope("product"):
            return x @ w

    def apply(params, x):
        with jax.named_scope("first"):
            x = inner(params["w"], x)
        return jnp.sum(x)

    w, x = jnp.eye(3), jnp.ones((2, 3))
    out, found = jc.taps(apply, ["first/product", "first"])({"w": w}, x)
    assert out == 6
    np.testing.assert_array_equal(found["first"], x)
    np.testing.assert_array_equal(found["first/product"], x)


def test_what_is_not_there_is_told_with_what_is(linen):
    model, variables = linen
    known = "block1, block1/conv1, block1/conv2, bn, head, stem$"
    with pytest.raises(ValueError, match=rf"there is no tap 'blok1' \(did you mean 'block1'\?\); there are {known}"):
        jc.taps(model.apply, ["blok1"])(variables, X)
    apply, params = jc.adapters.nnx.functional(Layers())
    with pytest.raises(ValueError, match=r"there is no tap 'conv/0' \(did you mean 'convs/0'\?\)"):
        jc.taps(apply, ["conv/0"])(params, X)
    with pytest.raises(ValueError, match="tap 'convs' is a group of layers without a scope"):
        jc.taps(apply, ["convs"])(params, X)
    with pytest.raises(ValueError, match="tap 'norm:input': the layer has no scope and begins with no product"):
        jc.taps(apply, ["norm:input"])(params, X)


def test_what_runs_twice_is_refused():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3, name="layer")
            return layer(nn.relu(layer(x)))

    x = jnp.ones((2, 3))
    variables = Twice().init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"tap 'layer:input' stands for 2 arrays \(\(2, 3\), \(2, 3\)\), not one"):
        jc.taps(Twice().apply, ["layer:input"])(variables, x)

    def plain(params, x):
        return x @ params["layer"]["w"] @ params["layer"]["w"]

    with pytest.raises(ValueError, match="tap 'layer': the layer has no scope and a parameter of it is met 2 times"):
        jc.taps(plain, ["layer"])({"layer": {"w": jnp.eye(3)}}, x)


def test_what_a_loop_hides_is_refused():
    def apply(params, x):
        return lax.fori_loop(0, 3, lambda _, x: x @ params["layer"]["w"], x)

    with pytest.raises(ValueError, match="tap 'layer': the layer meets no activation outside of loops"):
        jc.taps(apply, ["layer"])({"layer": {"w": jnp.eye(3)}}, jnp.ones((2, 3)))
