"""Feature maps of one size made those of another."""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float


def average_pool_to(
    x: Float[Array, "batch h w channels"], height: int, width: int
) -> Float[Array, "batch height width channels"]:
    """Averages maps into `height` times `width` places, whether or not the sizes divide.

    Place i of n gathers the rows from ``floor(i h / n)`` to before ``ceil((i + 1) h / n)``, as adaptive pooling does.
    Raises ValueError for more places than there are.
    """
    if not 0 < height <= x.shape[1] or not 0 < width <= x.shape[2]:
        raise ValueError(f"maps of {x.shape[1]} x {x.shape[2]} cannot be pooled to {height} x {width}")
    if (height, width) == x.shape[1:3]:
        return x
    rows, columns = (jnp.asarray(_averages(*pair), x.dtype) for pair in ((x.shape[1], height), (x.shape[2], width)))
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns)


def nearest_to(
    x: Float[Array, "batch h w channels"], height: int, width: int
) -> Float[Array, "batch height width channels"]:
    """Repeats or leaves out places: place i of n is that at ``floor(i h / n)``."""
    rows, columns = (np.arange(n) * size // n for n, size in ((height, x.shape[1]), (width, x.shape[2])))
    return x[:, rows][:, :, columns]


def common_size(
    one: Float[Array, "batch h w channels"], other: Float[Array, "batch h2 w2 channels2"]
) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch height width channels2"]]:
    """Averages the larger of two maps down to the size of the smaller, in height and in width."""
    height, width = (min(sizes) for sizes in zip(one.shape[1:3], other.shape[1:3], strict=True))
    return average_pool_to(one, height, width), average_pool_to(other, height, width)


def _averages(size: int, places: int) -> np.ndarray:
    """Returns the matrix (places, size) that averages the entries of each place."""
    weights = np.zeros((places, size))
    for place in range(places):
        begin, end = place * size // places, -((-(place + 1) * size) // places)
        weights[place, begin:end] = 1 / (end - begin)
    return weights
