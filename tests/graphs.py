"""Small graphs with drawn weights, written down node by node."""

import jax.numpy as jnp
import numpy as np

from jaxcompress.interpreters.graph import Graph, Node, Window

SAME = Window((3, 3), (1, 1), ((1, 1), (1, 1)))
POINT = Window((1, 1), (1, 1), ((0, 0), (0, 0)))
DEPTHWISE = Window((3, 3), (1, 1), ((1, 1), (1, 1)), groups=4)
HALF = Window((2, 2), (2, 2), ((0, 0), (0, 0)))


def drawn(*shape, seed=0, scale=1.0):
    return jnp.asarray(np.random.default_rng(seed).normal(0, scale, shape), jnp.float32)


def layers(kernels, seed=0):
    """Draws a layer for each shape of a kernel; its outputs vary about as much as its inputs."""
    return {
        name: {
            "kernel": drawn(*shape, seed=seed + i, scale=np.prod(shape[:-1]) ** -0.5),
            "bias": drawn(shape[-1], seed=seed + 50 + i, scale=0.1),
        }
        for i, (name, shape) in enumerate(kernels.items())
    }


def residual():
    """A stem, a pooling, a residual block with a layer in either branch, a mean and a head; inputs are 8 x 8 x 2."""
    whole, half = (1, 8, 8, 4), (1, 4, 4, 4)
    nodes = (
        Node("stem", "convolution", ("input",), whole, window=SAME, activation="relu"),
        Node("pool", "max_pool", ("stem",), half, window=HALF),
        Node("first", "convolution", ("pool",), half, window=SAME, activation="relu"),
        Node("second", "convolution", ("first",), half, window=SAME),
        Node("short", "convolution", ("pool",), half, window=POINT),
        Node("sum", "add", ("second", "short"), half, activation="relu"),
        Node("mean", "mean", ("sum",), (1, 4), axes=(1, 2)),
        Node("head", "dense", ("mean",), (1, 3)),
    )
    kernels = {
        **{"stem": (3, 3, 2, 4), "first": (3, 3, 4, 4), "second": (3, 3, 4, 4)},
        **{"short": (1, 1, 4, 4), "head": (4, 3)},
    }
    return Graph(nodes, (1, 8, 8, 2), "head"), layers(kernels)


def chain(*widths):
    """Dense layers ``fc1``, ``fc2`` and so on, with a ReLU after all but the last."""
    names = [f"fc{i + 1}" for i in range(len(widths) - 1)]
    sources = ["input", *names[:-1]]
    nodes = [
        Node(name, "dense", (source,), (1, width), activation=None if name == names[-1] else "relu")
        for name, source, width in zip(names, sources, widths[1:], strict=True)
    ]
    kernels = dict(zip(names, zip(widths[:-1], widths[1:], strict=True), strict=True))
    return Graph(tuple(nodes), (1, widths[0]), names[-1]), layers(kernels)


def inputs(graph, count=24, seed=90):
    """Draws inputs whose last axis correlates."""
    *places, channels = graph.input_shape[1:]
    return drawn(count, *places, channels, seed=seed) @ drawn(channels, channels, seed=seed + 1)
