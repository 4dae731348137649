"""A generator of images for distillation without data."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.models.blocks import batch_norm, convolution


class Generator(nn.Module):
    """The generator of DAFL (Chen et al. 2019, arXiv:1904.01186): noise to images of a `shape`, values in [0, 1].

    A linear layer to a quarter of each side, then convolutions of `width`, `width` / 2 and the image's channels with
    the places doubled in front of the first two, batch normalization and leaky ReLU between. Departures: a sigmoid ends
    it, where theirs is tanh and a normalization, and 1e-5 is added to variances, where theirs is 0.8.
    """

    shape: Sequence[int]
    width: int = 128

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or any(side % 4 for side in self.shape[:2]):
            raise ValueError(f"Generator of shape={tuple(self.shape)}: height and width are multiples of 4")
        super().__post_init__()

    @nn.compact
    def __call__(self, noise: jax.Array, train: bool = False) -> jax.Array:
        """Maps noise (batch, numbers) to images (batch, height, width, channels)."""
        norm = batch_norm(True, train, momentum=0.9, epsilon=1e-5)
        assert norm is not None
        height, width, channels = self.shape
        start = (height // 4, width // 4, self.width)
        x = nn.Dense(math.prod(start), name="fc")(noise).reshape(len(noise), *start)
        x = norm(name="fc_norm")(x)
        for i, features in enumerate((self.width, self.width // 2), 1):
            x = convolution(_doubled(x), features, (3, 3), name=f"conv{i}", norm=norm)
            x = nn.leaky_relu(x, 0.2)
        return nn.sigmoid(convolution(x, channels, (3, 3), name="conv3", norm=None))


def _doubled(x: jax.Array) -> jax.Array:
    """Repeats every row and every column."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
