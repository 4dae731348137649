"""Images changed at random in ways that leave their labels."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Num

from experiments.config import Augmentation

Images = Num[Array, "batch height width channels"]

_PADDING = 4  # pixels around an image, out of which it is cropped


def augmented(images: Images, key: Array, methods: Sequence[Augmentation]) -> Images:
    """Changes each image of a batch by `methods` in order, drawn by `key`."""
    for i, method in enumerate(methods):
        images = _METHODS[method](images, jax.random.fold_in(key, i))
    return images


def flipped(images: Images, key: Array) -> Images:
    """Mirrors every other image, on average, left to right."""
    drawn = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(drawn, images[:, :, ::-1], images)


def cropped(images: Images, key: Array) -> Images:
    """Moves each image by up to 4 pixels along either axis, zeros coming in (He et al. 2016, arXiv:1512.03385)."""
    _, height, width, channels = images.shape
    around = jnp.pad(images, ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * _PADDING + 1)
    cut = partial(lax.dynamic_slice, slice_sizes=(height, width, channels))
    return jax.vmap(lambda image, corner: cut(image, (*corner, 0)))(around, corners)


_METHODS: dict[Augmentation, Callable[[Images, Array], Images]] = {"flip": flipped, "crop": cropped}
