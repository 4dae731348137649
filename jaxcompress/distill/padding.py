"""Padding in a batch, which losses leave out: what it holds reaches neither a loss nor a gradient.

`where` is true for what counts and false for padding, as it is for the reductions of `jax.numpy` and optax. Padding is
put to zero before anything is computed of it, so that even what is not finite there has gradient 0.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

Where = Bool[Array, "*places"] | None
PADDED = -100  # the label of padding that PyTorch leaves out, and that public tokenizers and collators give


def check_where(where: Where, allowed: Sequence[tuple[int, ...]]) -> None:
    """Raises ValueError unless `where` is None or boolean and of an `allowed` shape."""
    if where is not None and (where.dtype != jnp.bool_ or where.shape not in allowed):
        shapes = " or ".join(map(str, allowed))
        raise ValueError(f"where is {where.dtype} {where.shape}; it must be boolean, true where it counts, {shapes}")


def unpadded(where: Where, *arrays: Array, places: int | None = 1) -> tuple[Array, ...]:
    """Returns the arrays with zeros where they are padding.

    Raises ValueError unless `where` has the first `places` axes of the first array; None allows any number of them.
    """
    shape = arrays[0].shape
    lengths = range(1, max(len(shape), 2)) if places is None else [places]
    check_where(where, [shape[:length] for length in lengths])
    return tuple(array if where is None else jnp.where(_spread(where, array.ndim), array, 0) for array in arrays)


def of_labels(where: Where, labels: Int[Array, "*batch"]) -> tuple[Bool[Array, "*batch"], Int[Array, "*batch"]]:
    """Returns where labels count, those of `PADDED` beside `where` left out, and labels with 0 elsewhere."""
    check_where(where, [labels.shape])
    counts = labels != PADDED if where is None else where & (labels != PADDED)
    return counts, jnp.where(counts, labels, 0)


def zeroed(where: Where, losses: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns losses with zeros where they are of padding."""
    return losses if where is None else jnp.where(_spread(where, losses.ndim), losses, 0)


def mean(values: Float[Array, "*shape"], where: Where, axes: int | tuple[int, ...]) -> Float[Array, "*rest"]:
    """Returns the mean over the axes of what counts, 0 where nothing does; `where` is broadcast from its first axes."""
    if where is None:
        return jnp.mean(values, axis=axes)
    counts = jnp.broadcast_to(_spread(where, values.ndim), values.shape)
    number = jnp.sum(counts, axis=axes, dtype=values.dtype)
    return jnp.sum(jnp.where(counts, values, 0), axis=axes) / jnp.maximum(number, 1)


def _spread(where: Bool[Array, "*places"], rank: int) -> Bool[Array, "*shape"]:
    return where.reshape(where.shape + (1,) * (rank - where.ndim))
