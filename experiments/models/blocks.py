"""What the convolutional models are built of: a convolution and the batch normalization that follows it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import linen as nn

HE, GLOROT = nn.initializers.he_normal(), nn.initializers.glorot_uniform()

Norm = Callable[..., nn.Module] | None  # makes the normalization of a layer from its name; None where there is none


def batch_norm(norm: bool, train: bool, *, momentum: float = 0.99, epsilon: float = 1e-3) -> Norm:
    """Returns the batch normalization of a whole model (Ioffe, Szegedy 2015, arXiv:1502.03167), or None without `norm`.

    `train` normalizes by the batch and moves the running statistics, which inference then uses. The defaults are those
    of Keras, with which the networks of MLPerf Tiny were trained.
    """
    return partial(nn.BatchNorm, use_running_average=not train, momentum=momentum, epsilon=epsilon) if norm else None


def convolution(
    x: jax.Array,
    features: int,
    kernel: tuple[int, int],
    *,
    name: str,
    norm: Norm,
    bias: bool = True,
    strides: int = 1,
    groups: int = 1,
    initial: Any = HE,
) -> jax.Array:
    """Runs the convolution `name` and the normalization ``<name>_norm`` in the module that is being built.

    Padding is TensorFlow's ``SAME``: an even image at stride 2 is padded at its end alone, as TFLite does, where
    PyTorch and Caffe pad both ends.
    """
    options = {"strides": strides, "padding": "SAME", "feature_group_count": groups}
    x = nn.Conv(features, kernel, use_bias=bias, kernel_init=initial, name=name, **options)(x)
    return x if norm is None else norm(name=f"{name}_norm")(x)


class Separable(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, ReLU after each (Howard et al. 2017, arXiv:1704.04861, figure 3)."""

    features: int
    norm: Norm
    strides: int = 1
    initial: Any = HE  # of the pointwise convolution; MLPerf Tiny draws every depthwise one by Glorot's rule

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (batch, height, width, channels) to (batch, height / strides, width / strides, features)."""
        channels = x.shape[-1]
        options = {"strides": self.strides, "groups": channels, "initial": GLOROT}
        x = nn.relu(convolution(x, channels, (3, 3), name="depthwise", norm=self.norm, **options))
        return nn.relu(convolution(x, self.features, (1, 1), name="pointwise", norm=self.norm, initial=self.initial))


def separable_layers(blocks: int) -> tuple[str, ...]:
    """Returns the names of the layers of ``block1`` … ``block<blocks>``, each a `Separable`."""
    return tuple(f"block{i + 1}/{layer}" for i in range(blocks) for layer in ("depthwise", "pointwise"))


def check_images(x: jax.Array, model: str) -> None:
    """Raises ValueError unless `x` is (batch, height, width, channels)."""
    if x.ndim != 4:
        raise ValueError(f"{model} takes inputs (batch, height, width, channels), not of shape {x.shape}")


def standardized(x: jax.Array, mean: float, std: float) -> jax.Array:
    """Returns ``(x - mean) / std``; no operation at all for a mean of zero and a deviation of one."""
    return x if (mean, std) == (0.0, 1.0) else (x - mean) / std
