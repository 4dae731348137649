"""Checks which residual branches can be dropped, for the ways in which shortcuts are written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from experiments import models
from jaxcompress import adapters
from jaxcompress.interpreters.residuals import branches, sums
from tests.nets import LinenAttention, NNXAttention


def ones(**shapes):
    return {name: jnp.ones(shape) for name, shape in shapes.items()}


def found(apply, params, *shapes):
    example = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return [branch.parameters for branch in branches(apply, params, *example)]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_branch_by_hand(swapped):
    def apply(p, x):
        y = jax.nn.relu(x @ p["a"]) @ p["b"]
        return (y + x if swapped else x + y) @ p["c"]

    (branch,) = branches(apply, ones(a=(3, 4), b=(4, 3), c=(3, 1)), jnp.ones((1, 3)))
    assert branch == (("a", "b"), 0, 0 if swapped else 1) and branch.name == "a"


def test_parameters_that_others_use_stay():
    def apply(p, x):
        x = x @ p["a"]
        return (x + jnp.tanh(x @ p["b"]) @ p["c"]) @ p["b"]

    assert found(apply, ones(a=(3, 3), b=(3, 3), c=(3, 3)), (1, 3)) == [("c",)]


@pytest.mark.parametrize(
    "apply",
    [
        lambda p, x: x @ p["a"] + jax.nn.relu(x) @ p["b"],  # a projection
        lambda p, x: x + jax.nn.softmax(x @ p["a"]) * p["b"].sum() + 0 * x,  # b alone makes it zero: see below
        lambda p, x: x + jax.nn.softmax(x @ p["a"]),
        lambda p, x: x + (x @ p["a"] + 1),
        lambda p, x: x - x @ p["a"],
        lambda p, x: x @ p["a"] + p["b"].sum(),
        lambda p, x: x + 2 * x,
        lambda p, x: x[:1] + x @ p["a"] if len(x) > 1 else x @ p["a"],
    ],
)
def test_what_is_no_branch_is_not_found(apply):
    params = ones(a=(3, 3), b=(3, 3))
    names = found(apply, params, (1, 3))
    assert names in ([], [("a", "b")])
    if names:  # found: then the whole is what is left at zero
        x = jnp.linspace(0.5, 1.5, 3)[None]
        np.testing.assert_array_equal(apply(jax.tree.map(jnp.zeros_like, params), x), x)


def test_a_branch_that_is_zero_by_a_gate_is_found():
    apply = lambda p, x: x + jax.nn.softmax(x @ p["a"]) * p["b"]
    assert found(apply, ones(a=(3, 3), b=(1, 3)), (1, 3)) == [("a", "b")]


def test_a_branch_within_a_branch_is_listed_too():
    def apply(p, x):
        inner = x @ p["a"]
        inner = inner + jnp.tanh(inner @ p["b"]) @ p["c"]
        return x + inner @ p["d"]

    params = ones(a=(3, 3), b=(3, 3), c=(3, 3), d=(3, 3))
    assert found(apply, params, (1, 3)) == [("b", "c"), ("a", "b", "c", "d")]


def test_only_the_blocks_of_one_shape_are_found_in_a_residual_net():
    model = models.ResNet(depth=14, width=4)
    x = jnp.zeros((1, 8, 8, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    made = branches(model.apply, jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), variables), x)
    blocks = ["stack1_block1", "stack1_block2", "stack2_block2", "stack3_block2"]
    assert [{path.split("/")[1] for path in branch.parameters} for branch in made] == [{block} for block in blocks]
    assert all(len(branch.parameters) == 10 for branch in made)  # two kernels and two norms of four


def test_attention_is_a_branch_in_linen_and_nnx():
    from flax import nnx

    model, x = LinenAttention(), jnp.ones((1, 5, 8))
    (linen,) = branches(model.apply, model.init(jax.random.key(0), x), x)
    assert {path.split("/")[1] for path in linen.parameters} == {"LayerNorm_0", "MultiHeadDotProductAttention_0"}
    (of_nnx,) = branches(*adapters.nnx.functional(NNXAttention(nnx.Rngs(0))), x)
    assert len(of_nnx.parameters) == len(linen.parameters) == 10


def test_a_block_that_is_rematerialised_is_found():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + nn.remat(nn.Dense)(3, name="fc")(x)

    x = jnp.ones((1, 3))
    assert found(Net().apply, Net().init(jax.random.key(0), x), (1, 3)) == [("params/fc/bias", "params/fc/kernel")]


def test_branches_in_loops_are_not_found():
    def apply(p, x):
        return lax.scan(lambda x, w: (x + x @ w, None), x, p["a"])[0]

    assert found(apply, ones(a=(2, 3, 3)), (1, 3)) == []


def test_sums_are_measured_at_the_positions_of_branches():
    def apply(p, x):
        y = x + 1
        for name in "ab":
            y = y + jax.nn.gelu(y @ p[name])
        return y

    params, x = {"a": 2 * jnp.eye(3), "b": 3 * jnp.eye(3)}, jnp.linspace(-1, 1, 3)[None]
    values = jax.jit(sums(apply, lambda position, left, right: (left, right)))(params, x)
    y = x + 1
    for branch, factor in zip(branches(apply, params, x), (2, 3), strict=True):
        np.testing.assert_allclose(values[branch.addition][branch.side], jax.nn.gelu(factor * y), rtol=1e-5)
        y = y + jax.nn.gelu(factor * y)
