"""MobileNet for small images."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.models.blocks import Separable, batch_norm, check_images, convolution, separable_layers

# Output channels at alpha = 1 and strides of the separable blocks (Howard et al. 2017, table 1).
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


class MobileNetV1(nn.Module):
    """MobileNetV1 (Howard et al. 2017, arXiv:1704.04861), by its defaults as MLPerf Tiny's visual wake words has it.

    `alpha` scales the channels; with 0.25 and two classes there are 221,794 numbers with statistics, for images of
    96x96. As published there (Banbury et al. 2021, arXiv:2106.07597) convolutions have biases also before a
    normalization and the activation is ReLU, not ReLU6; without `norm` it is the folded network of the public TFLite
    files, which take pixels in [0, 1].
    """

    classes: int = 2
    alpha: float = 0.25
    blocks: Sequence[tuple[int, int]] = BLOCKS
    norm: bool = True

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"MobileNetV1 with alpha={self.alpha}: the factor of its channels is above 0")
        super().__post_init__()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names the layers that have weights, in the order of the TFLite files."""
        return ("stem", *separable_layers(len(self.blocks)), "fc")

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images (batch, height, width, channels) to logits (batch, classes)."""
        check_images(x, "MobileNetV1")
        norm = batch_norm(self.norm, train)
        x = nn.relu(convolution(x, self._scaled(32), (3, 3), strides=2, name="stem", norm=norm))
        for i, (features, strides) in enumerate(self.blocks):
            x = Separable(self._scaled(features), norm, strides, name=f"block{i + 1}")(x)
        return nn.Dense(self.classes, name="fc")(jnp.mean(x, axis=(1, 2)))

    def _scaled(self, features: int) -> int:
        return max(1, int(features * self.alpha))
