"""Small programs whose groups of channels are known."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.interpreters.channels import channels


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def perceptron(params, x):
    """Two layers: a channel is a column of `a`, an entry of `b` and a row of `c`."""
    return jax.nn.relu(x @ params["a"] + params["b"][None]) @ params["c"]


def perceptron_of(a, b, c):
    params = {"a": jnp.asarray(a, jnp.float32), "b": jnp.asarray(b, jnp.float32), "c": jnp.asarray(c, jnp.float32)}
    return params, channels(perceptron, params, jax.ShapeDtypeStruct((1, params["a"].shape[0]), jnp.float32))


def two_layers(params, x):
    """Three products: a group of 3 channels (`a:1`) and one of 5 (`b:1`)."""
    return jax.nn.relu(jax.nn.relu(x @ params["a"]) @ params["b"]) @ params["c"]


def two_groups(first=3, second=5):
    params = {"a": drawn(4, first), "b": drawn(first, second, seed=1), "c": drawn(second, 2, seed=2)}
    return params, channels(two_layers, params, jax.ShapeDtypeStruct((1, 4), jnp.float32))


def variables_of(model, x):
    """Draws the variables of a Linen model without compiling its initializers; statistics are positive."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    draws = np.random.default_rng(0)

    def draw(shape):
        scale = np.prod(shape.shape[:-1]) ** -0.5 if len(shape.shape) > 1 else 0.1
        return jnp.asarray(draws.normal(size=shape.shape) * scale + (len(shape.shape) == 1), shape.dtype)

    return jax.tree.map(draw, shapes)
