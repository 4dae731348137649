"""Residual networks for small images: MLPerf Tiny's ResNet-8 and the CIFAR-10 family of He et al. (2016)."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.models.blocks import HE, Norm, batch_norm, check_images, convolution, standardized

Shortcut = Literal["projection", "normalized", "identity"]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, ReLU after the first and after the sum.

    Where the block changes the shape, a ``projection`` shortcut is a strided 1x1 convolution with a bias and without
    normalization, a ``normalized`` one has the block's normalization behind it, and an ``identity`` one takes every
    `strides`-th pixel and appends channels of zeros.
    """

    features: int
    norm: Norm
    shortcut: Shortcut
    strides: int = 1
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (batch, height, width, channels) to (batch, height / strides, width / strides, features)."""
        options = {"norm": self.norm, "bias": self.bias}
        y = nn.relu(convolution(x, self.features, (3, 3), name="conv1", strides=self.strides, **options))
        y = convolution(y, self.features, (3, 3), name="conv2", **options)
        missing = self.features - x.shape[-1]
        if self.strides == 1 and not missing:
            return nn.relu(x + y)
        if self.shortcut == "identity":
            x = jnp.pad(x[:, :: self.strides, :: self.strides], ((0, 0), (0, 0), (0, 0), (0, missing)))
        else:
            norm, bias = (self.norm, self.bias) if self.shortcut == "normalized" else (None, True)
            x = convolution(x, self.features, (1, 1), name="shortcut", strides=self.strides, norm=norm, bias=bias)
        return nn.relu(x + y)


class ResNet8(nn.Module):
    """The image classifier of MLPerf Tiny (Banbury et al. 2021, arXiv:2106.07597), 78,666 numbers with statistics.

    A stem and three blocks of `width`, twice and four times as many filters, projection shortcuts, the mean over the
    image. Convolutions have biases also before a normalization, as published; without `norm` they are the folded
    network of the public TFLite files. Those take raw pixels, 0 to 255, not scaled ones. Their larger sister (file
    ``pretrainedResnet_large``) has a `width` of 40.
    """

    classes: int = 10
    width: int = 16
    norm: bool = True

    @property
    def layers(self) -> tuple[str, ...]:
        """Names the layers that have weights, in the order of the TFLite files."""
        blocks = (f"block{i}/{layer}" for i in (2, 3) for layer in ("conv1", "conv2", "shortcut"))
        return ("stem", "block1/conv1", "block1/conv2", *blocks, "fc")

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images (batch, height, width, channels) to logits (batch, classes)."""
        check_images(x, "ResNet-8")
        norm = batch_norm(self.norm, train)
        x = nn.relu(convolution(x, self.width, (3, 3), name="stem", norm=norm))
        for i, strides in enumerate((1, 2, 2)):
            x = ResidualBlock(self.width << i, norm, "projection", strides, name=f"block{i + 1}")(x)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.classes, kernel_init=HE, name="fc")(x)


class ResNet(nn.Module):
    """ResNet-20, 32, 44, 56, 110 for CIFAR-10 (He et al. 2016, arXiv:1512.03385, section 4.2): depth 6n + 2.

    Three stacks of n blocks with 16, 32 and 64 filters, identity shortcuts with zeros for new channels (their option
    A, which has no parameters), convolutions without biases. With ``normalized`` shortcuts (their option B), a `stem`
    of 32 filters and a `width` of 64 it is the ResNet-8x4 or 32x4 of Tian et al. (2020, arXiv:1910.10699). Inputs are
    standardized by `mean` and `std`. Departure: padding is TensorFlow's ``SAME``, which at stride 2 pads the end of an
    even image alone.
    """

    depth: int = 20
    classes: int = 10
    width: int = 16
    norm: bool = True
    stem: int | None = None  # None: as wide as the first stack
    shortcut: Shortcut = "identity"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(f"ResNet of depth={self.depth}: the depth is 6n + 2 with n at least 1, as 8, 20, 32, 56")
        stem = self.width if self.stem is None else self.stem
        if not 0 < stem <= self.width:
            raise ValueError(f"ResNet with stem={stem}: it has from 1 to width={self.width} filters")
        super().__post_init__()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names the layers that have weights, in the order in which they run."""
        names = ["stem"]
        for stack in range(3):
            for i in range(self.depth // 6):
                changes = i == 0 and (stack > 0 or self.stem not in (None, self.width))
                own = ("shortcut",) if changes and self.shortcut != "identity" else ()
                names += [f"stack{stack + 1}_block{i + 1}/{layer}" for layer in ("conv1", "conv2", *own)]
        return (*names, "fc")

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images (batch, height, width, channels) to logits (batch, classes)."""
        check_images(x, f"ResNet-{self.depth}")
        norm = batch_norm(self.norm, train, momentum=0.9, epsilon=1e-5)
        bias = norm is None  # a folded normalization leaves its shift there
        x = standardized(x, self.mean, self.std)
        x = nn.relu(convolution(x, self.stem or self.width, (3, 3), name="stem", norm=norm, bias=bias))
        for stack in range(3):
            for i in range(self.depth // 6):
                strides = 2 if stack > 0 and i == 0 else 1
                name = f"stack{stack + 1}_block{i + 1}"
                x = ResidualBlock(self.width << stack, norm, self.shortcut, strides, bias, name=name)(x)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.classes, kernel_init=HE, name="fc")(x)
