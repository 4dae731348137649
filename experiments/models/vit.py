"""A vision transformer for small images."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.models.blocks import check_images


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2).

    Every projection is a dense layer with a matrix as its kernel, columns being output features, so that it is
    quantized and factorized like any other and exports as a fully connected operator.
    """

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (batch, tokens, width) to the same shape."""
        batch, tokens, width = x.shape
        heads = (batch, tokens, self.heads, width // self.heads)
        query, key, value = (nn.Dense(width, name=name)(x).reshape(heads) for name in ("query", "key", "value"))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / (width // self.heads) ** 0.5
        mixed = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), value)
        return nn.Dense(width, name="out")(mixed.reshape(x.shape))


class Block(nn.Module):
    """Attention and a perceptron of two layers, each on normalized tokens and added to its input."""

    heads: int
    hidden: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps tokens (batch, tokens, width) to the same shape."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = x + drop(Attention(self.heads, name="attention")(nn.LayerNorm(name="norm1")(x)))
        y = nn.gelu(nn.Dense(self.hidden, name="fc1")(nn.LayerNorm(name="norm2")(x)), approximate=True)
        return x + drop(nn.Dense(x.shape[-1], name="fc2")(drop(y)))


class ViT(nn.Module):
    """A small vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), by its defaults for images of 32x32.

    Patches are cut by a strided convolution, places are learned, GELU is its tanh approximation. Departure: the logits
    are read from the mean over the tokens instead of a class token, which they found as good (appendix D.3) and which
    exports without a concatenation.
    """

    classes: int = 10
    patch: int = 4
    width: int = 64
    depth: int = 2
    heads: int = 4
    hidden: int = 128
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"a ViT of width={self.width} cannot be cut into heads={self.heads} of equal width")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images (batch, height, width, channels) to logits (batch, classes)."""
        check_images(x, "ViT")
        if x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise ValueError(f"images of {x.shape[1]}x{x.shape[2]} cannot be cut into whole patches of {self.patch}")
        square = (self.patch, self.patch)
        x = nn.Conv(self.width, square, strides=square, padding="VALID", name="patches")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for i in range(self.depth):
            x = Block(self.heads, self.hidden, self.dropout, name=f"block{i + 1}")(x, train)
        x = jnp.mean(nn.LayerNorm(name="norm")(x), axis=1)
        return nn.Dense(self.classes, name="fc")(x)
