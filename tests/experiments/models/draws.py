"""Variables drawn with NumPy: compiling JAX's generator for every shape of a model takes longer than all its tests."""

import jax
import jax.numpy as jnp
import numpy as np


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def shapes(model, shape):
    """Returns the shapes of a model's variables for inputs of `shape`, without a batch."""
    return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), jnp.float32))


def variables(model, shape, seed=0):
    """Draws kernels that keep the size of what they multiply, biases around 0, scales and variances around 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        match path[-1].key:
            case "kernel":
                values = rng.normal(size=leaf.shape) * np.sqrt(2 * leaf.shape[-1] / leaf.size)
            case "scale" | "var":
                values = rng.uniform(0.5, 1.5, leaf.shape)
            case _:
                values = rng.normal(size=leaf.shape) * 0.2
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes(model, shape))
