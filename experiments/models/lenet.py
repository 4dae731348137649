"""The LeNets of the compression literature, in Linen, every layer named."""

from collections.abc import Sequence

import jax
from flax import linen as nn


class MLP(nn.Module):
    """A multilayer perceptron with ReLU between the layers ``fc1``, ``fc2``, …; LeNet-300-100 by its default."""

    hidden: Sequence[int] = (300, 100)
    classes: int = 10
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images (batch, height, width, channels) to logits (batch, classes)."""
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, name=f"fc{i + 1}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes, name=f"fc{len(self.hidden) + 1}")(x)


class LeNet5(nn.Module):
    """LeNet-5 as Caffe has it: 20 and 50 filters of 5x5, max pooling after each, 500 units; ReLU after ``fc1`` only."""

    classes: int = 10
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images (batch, height, width, channels) to logits (batch, classes)."""
        if min(x.shape[1:3]) < 16:
            raise ValueError(f"LeNet-5 needs images of at least 16x16 pixels, not {x.shape[1]}x{x.shape[2]}")
        for name, filters in (("conv1", 20), ("conv2", 50)):
            x = nn.Conv(filters, (5, 5), padding="VALID", name=name)(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(500, name="fc1")(x.reshape(x.shape[0], -1)))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes, name="fc2")(x)
