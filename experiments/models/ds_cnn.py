"""The depthwise separable network of keyword spotting."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.models.blocks import GLOROT, Separable, batch_norm, check_images, convolution, separable_layers


class DSCNN(nn.Module):
    """DS-CNN (Zhang et al. 2017, arXiv:1711.07128) in the size of MLPerf Tiny: 24,908 numbers with statistics.

    It takes 49 frames of 10 cepstral coefficients as an image of one channel. A 10x4 convolution with stride 2 and
    four separable blocks have `width` filters each; the mean over the image and one layer follow. Convolutions have
    biases also before a normalization, as published (Banbury et al. 2021, arXiv:2106.07597); without `norm` they are
    the folded network of the public TFLite files. MLPerf trains with `dropout` (0.2, 0.4): after the stem, and before
    the mean.
    """

    classes: int = 12
    width: int = 64
    blocks: int = 4
    dropout: tuple[float, float] = (0.0, 0.0)
    norm: bool = True

    @property
    def layers(self) -> tuple[str, ...]:
        """Names the layers that have weights, in the order of the TFLite files."""
        return ("stem", *separable_layers(self.blocks), "fc")

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps features (batch, frames, coefficients, 1) to logits (batch, classes)."""
        check_images(x, "DS-CNN")
        norm = batch_norm(self.norm, train)
        x = nn.relu(convolution(x, self.width, (10, 4), strides=2, name="stem", norm=norm, initial=GLOROT))
        x = nn.Dropout(self.dropout[0], deterministic=not train)(x)
        for i in range(self.blocks):
            x = Separable(self.width, norm, initial=GLOROT, name=f"block{i + 1}")(x)
        x = nn.Dropout(self.dropout[1], deterministic=not train)(x)
        return nn.Dense(self.classes, kernel_init=GLOROT, name="fc")(jnp.mean(x, axis=(1, 2)))
