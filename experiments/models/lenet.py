"""The LeNets of the compression literature, in Linen, every layer named."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.models.blocks import Norm, batch_norm, standardized

LECUN = nn.initializers.lecun_normal()


class MLP(nn.Module):
    """A multilayer perceptron: layers ``fc1``, ``fc2``, … with ReLU or `activation` between; LeNet-300-100 by default.

    With `norm` a batch normalization ``fc1_norm`` follows each layer, before the activation and after the last layer
    too, with the constants of BinaryConnect's code (Courbariaux et al. 2015, arXiv:1511.00363). Departure: the layers
    then have no biases, which a normalization takes off again. `initial` kernels are normal with a variance of one over
    their inputs, or ``uniform`` on [-1, 1), as those of which BinaryConnect takes the signs. Inputs are standardized by
    `mean` and `std`; with `center` each is then given less the statistic ``pixel_mean``. An image gets a margin of
    `pad` pixels of zero first. In training `input_dropout` of the inputs and `dropout` of the hidden units are dropped.
    """

    hidden: Sequence[int] = (300, 100)
    classes: int = 10
    dropout: float = 0.0
    norm: bool = False
    initial: Literal["lecun", "uniform"] = "lecun"
    mean: float = 0.0
    std: float = 1.0
    activation: Literal["relu", "tanh"] = "relu"
    center: bool = False
    pad: int = 0
    input_dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images (batch, height, width, channels) to logits (batch, classes)."""
        activation = {"relu": nn.relu, "tanh": nn.tanh}[self.activation]
        norm = batch_norm(self.norm, train, momentum=0.85, epsilon=1e-4)
        initial = LECUN if self.initial == "lecun" else _uniform
        if self.pad:
            x = jnp.pad(x, ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0)))
        x = standardized(x.reshape(x.shape[0], -1), self.mean, self.std)
        if self.center:
            x = x - self.variable("batch_stats", "pixel_mean", jnp.zeros, x.shape[1:]).value[None]
        x = nn.Dropout(self.input_dropout, deterministic=not train)(x)
        for i, width in enumerate(self.hidden):
            x = activation(_dense(x, width, f"fc{i + 1}", norm, initial))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return _dense(x, self.classes, f"fc{len(self.hidden) + 1}", norm, initial)


class LeNet5(nn.Module):
    """LeNet-5 as Caffe has it: 20 and 50 filters of 5x5, max pooling after each, 500 units; ReLU after ``fc1`` only.

    With `relu` it follows the convolutions as well. Inputs are standardized by `mean` and `std`. Other numbers of
    `filters` and `hidden` units make it wider or narrower.
    """

    classes: int = 10
    dropout: float = 0.0
    relu: bool = False
    mean: float = 0.0
    std: float = 1.0
    filters: tuple[int, int] = (20, 50)
    hidden: int = 500

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images (batch, height, width, channels) to logits (batch, classes)."""
        _check_size(x)
        x = standardized(x, self.mean, self.std)
        for name, filters in zip(("conv1", "conv2"), self.filters, strict=True):
            x = nn.Conv(filters, (5, 5), padding="VALID", name=name)(x)
            x = nn.max_pool(nn.relu(x) if self.relu else x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(self.hidden, name="fc1")(x.reshape(x.shape[0], -1)))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes, name="fc2")(x)


class LeNet5BN(nn.Module):
    """The LeNet-5 of ternary weight networks (Li & Liu 2016, arXiv:1605.04711, section 3).

    32 and 64 filters of 5x5, max pooling after each, 512 units; batch normalization and ReLU after all three, with the
    epsilon of Caffe and a running average over about 100 batches. Departure: layers that are normalized have no biases;
    without `norm` they have, as the folded network.
    """

    classes: int = 10
    norm: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images (batch, height, width, channels) to logits (batch, classes)."""
        _check_size(x)
        norm = batch_norm(self.norm, train, epsilon=1e-5)
        for name, filters in (("conv1", 32), ("conv2", 64)):
            x = nn.Conv(filters, (5, 5), padding="VALID", use_bias=norm is None, name=name)(x)
            x = x if norm is None else norm(name=f"{name}_norm")(x)
            x = nn.max_pool(nn.relu(x), (2, 2), strides=(2, 2))
        x = nn.relu(_dense(x.reshape(x.shape[0], -1), 512, "fc1", norm))
        return nn.Dense(self.classes, name="fc2")(x)


def _dense(x: jax.Array, features: int, name: str, norm: Norm, initial: Any = LECUN) -> jax.Array:
    """Runs the layer `name` and the normalization ``<name>_norm`` in the module that is being built."""
    x = nn.Dense(features, use_bias=norm is None, kernel_init=initial, name=name)(x)
    return x if norm is None else norm(name=f"{name}_norm")(x)


def _uniform(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0)


def _check_size(x: jax.Array) -> None:
    if min(x.shape[1:3]) < 16:
        raise ValueError(f"LeNet-5 needs images of at least 16x16 pixels, not {x.shape[1]}x{x.shape[2]}")
