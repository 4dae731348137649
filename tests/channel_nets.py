"""Nets with channels to remove, in Linen and in NNX, each with all that it is made of as one tree."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from experiments import models
from tests.nets import NNXMLP, LinenAttention, LinenLeNet5, LinenMLP, NNXAttention, NNXLeNet5, NNXResNet


class ChannelNet(NamedTuple):
    apply: Callable[..., Any]  # (params, x) -> output, not lifted
    params: Any
    x: Any


def drawn(tree: Any) -> Any:
    """Draws every parameter anew, biases and statistics too; variances are positive."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    keys = jax.random.split(jax.random.key(4), len(leaves))
    values = [0.5 * jax.random.normal(k, leaf.shape, leaf.dtype) for k, (_, leaf) in zip(keys, leaves, strict=True)]
    values = [jnp.abs(v) + 0.5 if "var" in str(path[-1]) else v for v, (path, _) in zip(values, leaves, strict=True)]
    return jax.tree.unflatten(structure, values)


def linen(module: nn.Module, *shape: int) -> ChannelNet:
    x = jax.random.normal(jax.random.key(5), shape)
    like = jax.eval_shape(module.init, jax.random.key(0), x)
    return ChannelNet(module.apply, drawn(like), x)


def of_nnx(make: Callable[[nnx.Rngs], nnx.Module], *shape: int) -> ChannelNet:
    x = jax.random.normal(jax.random.key(5), shape)
    graph, state, rest = nnx.split(make(nnx.Rngs(0)), nnx.Any(nnx.Param, nnx.BatchStat), ...)
    paths, structure = jax.tree_util.tree_flatten_with_path(state)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}

    def apply(params: Any, x: Any) -> Any:
        state = jax.tree.unflatten(structure, [params[name] for name in leaves])
        return nnx.merge(graph, state, rest, copy=True)(x)

    return ChannelNet(apply, drawn(leaves), x)


class VGG(nn.Module):
    @nn.compact
    def __call__(self, x):
        for i, features in enumerate((4, 6)):
            x = nn.Conv(features, (3, 3), name=f"conv{i + 1}")(x)
            x = nn.max_pool(nn.relu(nn.BatchNorm(use_running_average=True)(x)), (2, 2), (2, 2))
        return nn.Dense(3)(nn.relu(nn.Dense(8)(x.reshape(x.shape[0], -1))))


class NNXVGG(nnx.Module):
    def __init__(self, rngs):
        self.convs = nnx.List([nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in ((3, 4), (4, 6))])
        self.norms = nnx.List([nnx.BatchNorm(n, use_running_average=True, rngs=rngs) for n in (4, 6)])
        self.fc1, self.fc2 = nnx.Linear(24, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.max_pool(nnx.relu(norm(conv(x))), (2, 2), (2, 2))
        return self.fc2(nnx.relu(self.fc1(x.reshape(x.shape[0], -1))))


class NNXMobile(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.depthwise = nnx.Conv(4, 8, (3, 3), feature_group_count=4, rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        self.grouped = nnx.Conv(8, 6, (1, 1), feature_group_count=2, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.depthwise(nnx.relu6(self.stem(x)))))
        return self.head(nnx.relu(self.grouped(x)).mean((1, 2)))


class DenseNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        for i in range(2):
            y = nn.relu(nn.BatchNorm(use_running_average=True)(x)) if i else x
            x = jnp.concatenate([x, nn.Conv(4, (3, 3))(y)], -1)
        return nn.Dense(3)(nn.Conv(4, (1, 1))(x).mean((1, 2)))


class NNXDenseNet(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Conv(7, 4, (3, 3), rngs=rngs)
        self.head = nnx.Linear(11, 3, rngs=rngs)

    def __call__(self, x):
        x = jnp.concatenate([x, nnx.relu(self.a(x))], -1)
        return self.head(jnp.concatenate([x, self.b(x)], -1).mean((1, 2)))


class SqueezeExcite(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), name="conv")(x)
        gate = nn.sigmoid(nn.Dense(6, name="up")(nn.relu(nn.Dense(4, name="down")(x.mean((1, 2))))))
        return nn.Dense(2, name="head")(nn.silu(x * gate[:, None, None]).mean((1, 2)))


class NNXSqueezeExcite(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.down, self.up = nnx.Linear(6, 4, rngs=rngs), nnx.Linear(4, 6, rngs=rngs)
        self.head = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        x = self.conv(x)
        gate = nnx.sigmoid(self.up(nnx.relu(self.down(x.mean((1, 2))))))
        return self.head(nnx.silu(x * gate[:, None, None]).mean((1, 2)))


class Gated(nn.Module):
    @nn.compact
    def __call__(self, x):
        a, b = jnp.split(nn.Dense(12)(nn.LayerNorm()(nn.Dense(8)(x))), 2, -1)
        return nn.Dense(2)(nn.glu(nn.Dense(16)(a * nn.silu(b))))


class NNXGated(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = nnx.Linear(5, 12, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        a, b = jnp.split(self.a(x), 2, -1)
        return self.b(a * nnx.gelu(b))


class Normalized(nn.Module):
    """Norms of groups and of layers, whose sums run over channels, by both ways to compute a variance."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.GroupNorm(num_groups=4)(nn.Conv(8, (3, 3))(x)))
        x = nn.relu(nn.GroupNorm(num_groups=2, use_fast_variance=False)(nn.Conv(8, (1, 1))(x)))
        x = nn.LayerNorm(use_fast_variance=False)(nn.Conv(6, (1, 1))(x))
        return nn.Dense(2)(nn.RMSNorm()(nn.Conv(6, (1, 1))(nn.gelu(x))).mean((1, 2)))


class NNXNormalized(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = nnx.Linear(5, 8, rngs=rngs), nnx.Linear(8, 6, rngs=rngs)
        self.groups, self.layers = nnx.GroupNorm(8, 4, rngs=rngs), nnx.LayerNorm(6, rngs=rngs)
        self.head = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.layers(self.b(nnx.relu(self.groups(self.a(x))))))


class FusedAttention(nn.Module):
    """Queries, keys and values of one product, causal, read from a class token."""

    heads: int = 3

    @nn.compact
    def __call__(self, x):
        (batch, tokens, _), width = x.shape, 2 * self.heads
        token = self.param("token", nn.initializers.ones, (1, 1, width))
        x = jnp.concatenate([jnp.broadcast_to(token, (batch, 1, width)), nn.Dense(width, name="embed")(x)], 1)
        qkv = nn.Dense(3 * width, name="qkv")(nn.LayerNorm()(x)).reshape(batch, tokens + 1, 3, self.heads, 2)
        scores = jnp.einsum("bqhd,bkhd->bhqk", qkv[:, :, 0], qkv[:, :, 1]) / 1.4
        scores = jnp.where(jnp.tril(jnp.ones((tokens + 1,) * 2, bool))[None, None], scores, -1e9)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), qkv[:, :, 2])
        return nn.Dense(2, name="head")((x + nn.Dense(width, name="out")(mixed.reshape(x.shape)))[:, -1])


class NNXTokens(nnx.Module):
    """A vision transformer with a class token that is repeated for each image, in one block."""

    def __init__(self, rngs):
        self.patch = nnx.Conv(3, 8, (2, 2), strides=(2, 2), rngs=rngs)
        self.token = nnx.Param(nnx.initializers.normal(0.5)(rngs.params(), (1, 1, 8)))
        self.positions = nnx.Param(nnx.initializers.normal(0.5)(rngs.params(), (1, 5, 8)))
        self.before, self.between, self.last = (nnx.LayerNorm(8, rngs=rngs) for _ in range(3))
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(8, 12, rngs=rngs), nnx.Linear(12, 8, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, images):
        x = self.patch(images).reshape(images.shape[0], -1, 8)
        x = jnp.concatenate([jnp.tile(self.token[...], (images.shape[0], 1, 1)), x], 1) + self.positions[...]
        x = x + self.attention(self.before(x))
        x = x + self.down(nnx.gelu(self.up(self.between(x))))
        return self.head(self.last(x)[:, 0])


class Pairs(nn.Module):
    """Values that are stacked along a new axis, mixed, taken apart and repeated."""

    @nn.compact
    def __call__(self, x):
        pair = jnp.stack([nn.Dense(6, name="a")(x), nn.relu(nn.Dense(6, name="b")(x))], 1)
        first, second = jnp.unstack(nn.LayerNorm()(pair + nn.Dense(6, name="mixed")(pair)), axis=1)
        return nn.Dense(2, name="head")(jnp.tile(first * nn.sigmoid(second), (1, 2)))


class ScanBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(6)(nn.relu(nn.Dense(8)(nn.LayerNorm()(x)))), None


class Scanned(nn.Module):
    """Residual layers in a scan, rematerialised, between two dense layers."""

    @nn.compact
    def __call__(self, x):
        layers = nn.scan(nn.remat(ScanBlock), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(2, name="head")(layers(name="stack")(nn.Dense(6, name="embed")(x), None)[0])


class NNXScanned(nnx.Module):
    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap
        def layers(rngs):
            return NNXMLP(rngs, 6, (8, 6))

        self.embed, self.stack, self.head = nnx.Linear(5, 6, rngs=rngs), layers(rngs), nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x, layer):
            return x + layer(x)

        return self.head(forward(self.embed(x), self.stack))


MOBILE = ((16, 1), (24, 2))

CHANNEL_NETS: dict[str, Callable[[], ChannelNet]] = {
    "linen_mlp": lambda: linen(LinenMLP((8, 6, 3)), 2, 5),
    "linen_lenet5": lambda: linen(LinenLeNet5((4, 6, 8, 3)), 1, 28, 28, 1),
    "linen_vgg": lambda: linen(VGG(), 2, 8, 8, 3),
    "linen_resnet": lambda: linen(models.ResNet8(width=4), 1, 8, 8, 3),
    "linen_resnet_identity": lambda: linen(models.ResNet(depth=8, width=4), 1, 8, 8, 3),
    "linen_mobilenet": lambda: linen(models.MobileNetV1(alpha=0.25, blocks=MOBILE), 1, 8, 8, 3),
    "linen_vit": lambda: linen(models.ViT(width=8, heads=4, hidden=6, depth=1), 1, 8, 8, 3),
    "linen_attention": lambda: linen(LinenAttention(), 2, 5, 8),
    "linen_fused_attention": lambda: linen(FusedAttention(), 2, 4, 5),
    "linen_densenet": lambda: linen(DenseNet(), 1, 6, 6, 3),
    "linen_squeeze_excite": lambda: linen(SqueezeExcite(), 2, 6, 6, 3),
    "linen_pairs": lambda: linen(Pairs(), 3, 5),
    "linen_gated": lambda: linen(Gated(), 3, 5),
    "linen_normalized": lambda: linen(Normalized(), 1, 4, 4, 3),
    "linen_scan": lambda: linen(Scanned(), 2, 5),
    "nnx_mlp": lambda: of_nnx(lambda rngs: NNXMLP(rngs, 5, (8, 6, 3)), 2, 5),
    "nnx_lenet5": lambda: of_nnx(NNXLeNet5, 1, 28, 28, 1),
    "nnx_vgg": lambda: of_nnx(NNXVGG, 2, 8, 8, 3),
    "nnx_resnet": lambda: of_nnx(NNXResNet, 1, 8, 8, 3),
    "nnx_mobilenet": lambda: of_nnx(NNXMobile, 1, 6, 6, 3),
    "nnx_attention": lambda: of_nnx(NNXAttention, 2, 5, 8),
    "nnx_tokens": lambda: of_nnx(NNXTokens, 2, 4, 4, 3),
    "nnx_densenet": lambda: of_nnx(NNXDenseNet, 1, 6, 6, 3),
    "nnx_squeeze_excite": lambda: of_nnx(NNXSqueezeExcite, 2, 6, 6, 3),
    "nnx_gated": lambda: of_nnx(NNXGated, 3, 5),
    "nnx_normalized": lambda: of_nnx(NNXNormalized, 3, 5),
    "nnx_scan": lambda: of_nnx(NNXScanned, 2, 5),
}
