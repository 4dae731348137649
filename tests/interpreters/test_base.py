import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import primitives as prim

from jaxcompress import lift
from jaxcompress.arrays import LowRank
from jaxcompress.interpreters.base import Reading, bind, evaluate, nested
from tests.nets import data, odd_square


def counting(seen):
    """Reads a program as it is and notes the sines that it meets."""

    def sine(reading, values, params):
        seen.append(values[0].shape)
        return jnp.sin(values[0])

    return Reading({prim.sin_p: sine}, concerns=lambda _: True, lower=lambda value: value, stacked=lambda value: value)


def read(function, *args):
    seen = []
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    out = evaluate(counting(seen), closed, jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shape), out), seen


X = np.float32([0.5, -1.0, 2.0])

NESTED = {
    "plain": jnp.sin,
    "jit": jax.jit(jnp.sin),
    "remat": jax.checkpoint(jnp.sin),
    "jit_of_remat": jax.jit(jax.checkpoint(lambda x: jnp.sin(x) * 2)),
    "scan": lambda x: lax.scan(lambda c, _: (jnp.sin(c), c), x, None, length=3),
    "scan_reversed": lambda x: lax.scan(lambda c, y: (jnp.sin(c) + y, c), x[0], x, reverse=True),
    "scan_unrolled": lambda x: lax.scan(lambda c, y: (jnp.sin(c), c * y), x[0], x, unroll=2),
    "while": lambda x: lax.while_loop(lambda c: c[1] < 3, lambda c: (jnp.sin(c[0]) + x, c[1] + 1), (x, 0)),
    "while_condition": lambda x: lax.while_loop(lambda c: jnp.sin(c[0]) < 1, lambda c: c + 0.7, x),
    "fori": lambda x: lax.fori_loop(0, 3, lambda i, c: jnp.sin(c) * x, x),
    "cond": lambda x: lax.cond(x[0] > 0, lambda x: jnp.sin(x), lambda x: x, x),
    "switch": lambda x: lax.switch(jnp.int32(1), [lambda x: x, jnp.sin, lambda x: -x], x),
}


@pytest.mark.parametrize("name", NESTED)
def test_rules_apply_inside_nested_programs(name):
    function, x = NESTED[name], jnp.asarray(X)
    out, seen = read(function, x)
    assert seen
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), out, function(x))


@pytest.mark.parametrize("name", ["plain", "jit", "remat", "jit_of_remat", "scan", "cond", "switch"])
def test_gradients_flow_through_the_evaluated_program(name):
    function = NESTED[name]
    loss = lambda f: lambda x: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(f(x)))
    grads = jax.grad(loss(lambda x: read(function, x)[0]))(jnp.asarray(X))
    np.testing.assert_allclose(grads, jax.grad(loss(function))(jnp.asarray(X)), rtol=1e-6)


def test_remat_keeps_its_policy():
    policy = jax.checkpoint_policies.everything_saveable
    function = jax.checkpoint(lambda x: jnp.sin(jnp.sin(x)), policy=policy, prevent_cse=False)
    closed = jax.make_jaxpr(lambda x: read(function, x)[0])(jnp.asarray(X))
    (eqn,) = (eqn for eqn in closed.eqns if eqn.primitive is prim.remat_p)
    assert (eqn.params["policy"], eqn.params["prevent_cse"]) == (policy, False)


def test_unused_outputs_literals_and_repeated_operands():
    def function(x):
        _, kept = lax.top_k(x, 2)
        return kept, x * x, 3.0 * x, lax.scan(lambda c, y: (c + y, (y, c)), 0.0, x)[0]

    out, _ = read(function, jnp.asarray(X))
    jax.tree.map(np.testing.assert_array_equal, out, function(jnp.asarray(X)))


def test_program_without_equations_and_with_constants():
    table = jnp.arange(3.0)
    out, _ = read(lambda x: (x, 2.0, table), jnp.asarray(X))
    np.testing.assert_array_equal(out[0], X)
    np.testing.assert_array_equal(out[2], table)


def test_rule_that_declines_leaves_the_equation_as_it_stands():
    reading = Reading({prim.sin_p: lambda *_: NotImplemented}, lambda _: True, lambda value: value, lambda value: value)
    closed = jax.make_jaxpr(jnp.sin)(X)
    np.testing.assert_array_equal(evaluate(reading, closed, [jnp.asarray(X)])[0], jnp.sin(X))
    np.testing.assert_array_equal(bind(reading, prim.sin_p, jnp.asarray(X), accuracy=None), jnp.sin(X))


def test_relu_keeps_its_gradient_of_zero_at_zero():
    leaf = LowRank(jnp.zeros((2, 1)), jnp.ones((1, 2)))

    def loss(leaf, x):
        return jnp.sum(lift(lambda w, x: jax.nn.relu(x @ w))(leaf, x))

    grads = jax.grad(loss, allow_int=True)(leaf, data(3, 2))
    np.testing.assert_array_equal(grads.u, np.zeros((2, 1)))
    assert jax.grad(lambda x: lift(lambda w, x: jax.nn.relu(x * w))(Ones, x)[0, 0])(0.0) == 0.0


Ones = LowRank(jnp.ones((1, 1)), jnp.ones((1, 1)))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint, lambda f: lambda x: lax.map(f, x)])
def test_custom_vjp_keeps_its_odd_gradient(wrap):
    def apply(w, x):
        return wrap(odd_square)(x @ w)

    x = jnp.float32([[2.0]])
    grad = jax.grad(lambda x: jnp.sum(lift(apply)(Ones, x)))(x)
    np.testing.assert_array_equal(grad, [[7.0 + 2.0]])


def test_custom_vjp_of_a_compressed_leaf_keeps_its_odd_gradient():
    grads = jax.grad(lambda leaf: jnp.sum(lift(odd_square)(leaf)))(LowRank(jnp.float32([[2.0]]), jnp.float32([[3.0]])))
    np.testing.assert_array_equal((grads.u[0, 0], grads.v[0, 0]), [3 * (7 + 6), 2 * (7 + 6)])


def test_custom_jvp_keeps_its_odd_gradient():
    @jax.custom_jvp
    def odd(x):
        return jnp.sin(x)

    odd.defjvp(lambda p, t: (odd(p[0]), 5 * t[0]))
    out = jax.jvp(lambda x: lift(lambda w, x: odd(x @ w))(Ones, x), (jnp.ones((1, 1)),), (jnp.ones((1, 1)),))[1]
    np.testing.assert_array_equal(out, [[5.0]])


def test_nested_lists_bodies_without_the_custom_derivatives():
    function = jax.custom_vjp(jnp.sin)
    function.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g,))
    (eqn,) = jax.make_jaxpr(function)(X).eqns
    assert len(nested(eqn)) == 1
    (eqn,) = jax.make_jaxpr(lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x))(X).eqns[-1:]
    assert len(nested(eqn)) == 2
