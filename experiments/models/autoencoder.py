"""The autoencoder of anomaly detection."""

from collections.abc import Sequence

import jax
from flax import linen as nn

from experiments.models.blocks import GLOROT, batch_norm


class AutoEncoder(nn.Module):
    """The autoencoder of MLPerf Tiny (Banbury et al. 2021, arXiv:2106.07597), 269,992 numbers with statistics.

    It takes 640 numbers, five frames of 128 mel bands in decibels, and returns as many; the mean squared error between
    the two is the anomaly score. Every hidden layer, the narrow one too, has a normalization and ReLU; without `norm`
    it is the folded network of the public TFLite files.
    """

    hidden: Sequence[int] = (128, 128, 128, 128, 8, 128, 128, 128, 128)
    norm: bool = True

    @property
    def layers(self) -> tuple[str, ...]:
        """Names the layers that have weights, in the order of the TFLite files."""
        return tuple(f"fc{i + 1}" for i in range(len(self.hidden) + 1))

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps (batch, features) to its reconstruction of the same shape."""
        if x.ndim != 2:
            raise ValueError(f"the autoencoder takes inputs (batch, features), not of shape {x.shape}")
        norm, features = batch_norm(self.norm, train), x.shape[-1]
        for name, width in zip(self.layers, self.hidden, strict=False):
            x = nn.Dense(width, kernel_init=GLOROT, name=name)(x)
            x = nn.relu(x if norm is None else norm(name=f"{name}_norm")(x))
        return nn.Dense(features, kernel_init=GLOROT, name=self.layers[-1])(x)
