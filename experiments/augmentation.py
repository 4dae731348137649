"""Images changed at random in ways that leave their labels."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Num

from experiments.config import Augmentation

Images = Num[Array, "batch height width channels"]


class Views(NamedTuple):
    """Changes every image in `count` fixed ways, drawn by `key`, the view and the image's place in the training set.

    So a teacher can be asked once of all that its student will see.
    """

    methods: Sequence[Augmentation]
    count: int
    key: Array

    def of(self, images: Images, indices: Array, view: Array | int) -> Images:
        """Returns a view, from 0 to count - 1, of images that stand at `indices` in the training set."""
        drawn = jax.random.fold_in(self.key, view)

        def one(image: Array, index: Array) -> Array:
            return augmented(image[None], jax.random.fold_in(drawn, index), self.methods)[0]

        return jax.vmap(one)(images, indices)


def augmented(images: Images, key: Array, methods: Sequence[Augmentation]) -> Images:
    """Changes each image of a batch by `methods` in order, drawn by `key`."""
    for i, method in enumerate(methods):
        images = _METHODS[method](images, jax.random.fold_in(key, i))
    return images


def flipped(images: Images, key: Array) -> Images:
    """Mirrors every other image, on average, left to right."""
    drawn = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(drawn, images[:, :, ::-1], images)


def moved(images: Images, key: Array, *, pixels: int) -> Images:
    """Moves each image by up to so many `pixels` along either axis, zeros coming in."""
    _, height, width, channels = images.shape
    around = jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * pixels + 1)
    cut = partial(lax.dynamic_slice, slice_sizes=(height, width, channels))
    return jax.vmap(lambda image, corner: cut(image, (*corner, 0)))(around, corners)


# Crops are those of He et al. (2016, arXiv:1512.03385), jitter that of Hinton et al. (2015, arXiv:1503.02531).
_METHODS: dict[Augmentation, Callable[[Images, Array], Images]] = {
    "flip": flipped,
    "crop": partial(moved, pixels=4),
    "jitter": partial(moved, pixels=2),
}
