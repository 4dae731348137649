"""Small models shared by the tests: the same nets in Linen and in NNX, and some programs written without either."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jax import lax

from jaxcompress import adapters, lift
from jaxcompress.interpreters.graph import INPUT, Graph, Node, Window, convolve, operate
from jaxcompress.interpreters.integers import Grid, Integers, Layer

SMALL = (4, 6, 16, 10)  # LeNet-5 thin enough for a test
CAFFE = (20, 50, 500, 10)


class Net(NamedTuple):
    apply: Callable[..., Any]  # (params, x) -> output, lifted
    params: Any
    x: Any
    kernels: str  # the paths that may be factorized
    rank: int = 2


# Linen


class LinenMLP(nn.Module):
    widths: tuple[int, ...] = (12, 10, 4)
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, dtype=self.dtype, name=f"fc{i + 1}")(nn.relu(x) if i else x)
        return x


class LinenLeNet5(nn.Module):
    widths: tuple[int, ...] = SMALL

    @nn.compact
    def __call__(self, x):
        for i in (0, 1):
            x = nn.Conv(self.widths[i], (5, 5), padding="VALID", name=f"conv{i + 1}")(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(self.widths[2], name="fc1")(x))
        return nn.Dense(self.widths[3], name="fc2")(x)


class LinenResNet(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(6, (3, 3), use_bias=False)(x)
        for strides in (1, 2):
            y = nn.BatchNorm(use_running_average=not train)(x)
            y = nn.Conv(6, (3, 3), strides=strides, use_bias=False)(nn.relu(y))
            x = y + (x if strides == 1 else nn.Conv(6, (1, 1), strides=strides, use_bias=False)(x))
        return nn.Dense(3)(jnp.mean(x, axis=(1, 2)))


class LinenAttention(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        return nn.Dense(3)(nn.gelu(x))


class LinenLayer(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, _):
        return jnp.tanh(nn.Dense(self.features)(x)), None


class LinenScan(nn.Module):
    layers: int = 3

    @nn.compact
    def __call__(self, x):
        stack = nn.scan(LinenLayer, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers)
        return stack(x.shape[-1], name="stack")(x, None)[0]


class LinenRemat(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.remat(LinenMLP)((8, 8))(x))


class LinenRNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.RNN(nn.LSTMCell(6))(x))


class LinenTied(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(12, 8, name="embed")
        return embed.attend(jnp.tanh(nn.Dense(8)(embed(tokens))))


def linen_net(module: nn.Module, x: Any, kernels: str, rank: int = 2) -> Net:
    variables = jax.jit(module.init)(jax.random.key(1), x)
    if "batch_stats" in variables:  # statistics that inference can tell from the initial ones
        shifted = jax.tree.map(lambda a: a + jnp.linspace(0.1, 0.9, a.size), variables["batch_stats"])
        variables = {**variables, "batch_stats": shifted}
    return Net(*adapters.linen.functional(module, variables), x, kernels, rank)


# NNX


class NNXMLP(nnx.Module):
    def __init__(self, rngs, inputs=9, widths=(12, 10, 4), dtype=None):
        sizes = [inputs, *widths]
        layers = [nnx.Linear(a, b, dtype=dtype, rngs=rngs) for a, b in zip(sizes, widths, strict=False)]
        self.layers = nnx.List(layers)

    def __call__(self, x):
        for i, layer in enumerate(self.layers):
            x = layer(nnx.relu(x) if i else x)
        return x


class NNXLeNet5(nnx.Module):
    def __init__(self, rngs, widths=SMALL):
        self.conv1 = nnx.Conv(1, widths[0], (5, 5), padding="VALID", rngs=rngs)
        self.conv2 = nnx.Conv(widths[0], widths[1], (5, 5), padding="VALID", rngs=rngs)
        self.fc1 = nnx.Linear(16 * widths[1], widths[2], rngs=rngs)
        self.fc2 = nnx.Linear(widths[2], widths[3], rngs=rngs)

    def __call__(self, x):
        for conv in (self.conv1, self.conv2):
            x = nnx.max_pool(conv(x), (2, 2), (2, 2))
        return self.fc2(nnx.relu(self.fc1(x.reshape(x.shape[0], -1))))


class NNXResNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 6, (3, 3), use_bias=False, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(6, use_running_average=True, rngs=rngs) for _ in range(2)])
        self.convs = nnx.List([nnx.Conv(6, 6, (3, 3), strides=s, use_bias=False, rngs=rngs) for s in (1, 2)])
        self.short = nnx.Conv(6, 6, (1, 1), strides=2, use_bias=False, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)
        for norm in self.norms:
            norm.mean[...] = jnp.linspace(0.1, 0.9, 6)
            norm.var[...] = jnp.linspace(1.1, 1.9, 6)

    def __call__(self, x):
        x = self.stem(x)
        for norm, conv, short in zip(self.norms, self.convs, (lambda x: x, self.short), strict=True):
            x = conv(nnx.relu(norm(x))) + short(x)
        return self.head(jnp.mean(x, axis=(1, 2)))


class NNXAttention(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=8, decode=False, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.gelu(x + self.attention(self.norm(x))))


class NNXScan(nnx.Module):
    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap
        def stack(rngs):
            return nnx.Linear(8, 8, rngs=rngs)

        self.stack = stack(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x, layer):
            return jnp.tanh(layer(x))

        return forward(x, self.stack)


class NNXRemat(nnx.Module):
    def __init__(self, rngs):
        self.body = NNXMLP(rngs, 8, (8, 8))
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.remat(lambda body, x: body(x))(self.body, x))


class NNXRNN(nnx.Module):
    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.LSTMCell(4, 6, rngs=rngs), rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.rnn(x))


class NNXTied(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(12, 8, rngs=rngs)
        self.dense = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, tokens):
        return self.embed.attend(jnp.tanh(self.dense(self.embed(tokens))))


def nnx_net(make: Callable[[nnx.Rngs], nnx.Module], x: Any, kernels: str, rank: int = 2) -> Net:
    return Net(*adapters.nnx.functional(make(nnx.Rngs(1))), x, kernels, rank)


# Plain functions


@jax.custom_vjp
def odd_square(x):
    """Squares, with a gradient that no one would derive."""
    return x * x


odd_square.defvjp(lambda x: (x * x, x), lambda x, g: (7.0 * g + x,))


def two_kernels(x: Any) -> Any:
    first, second = jax.random.split(jax.random.key(3))
    return {"a": {"kernel": jax.random.normal(first, (8, 8))}, "b": {"kernel": jax.random.normal(second, (8, 8))}}


def with_custom_vjp(params: Any, x: Any) -> Any:
    return odd_square(jnp.tanh(x @ params["a"]["kernel"])) @ params["b"]["kernel"]


def with_custom_vjp_of_kernel(params: Any, x: Any) -> Any:
    return x @ odd_square(params["a"]["kernel"]) @ params["b"]["kernel"]


def with_cond(params: Any, x: Any) -> Any:
    kernels = (params["a"]["kernel"], params["b"]["kernel"])
    return lax.cond(jnp.sum(x) > 0, lambda a, b: x @ a, lambda a, b: jnp.tanh(x @ b), *kernels)


def with_fori(params: Any, x: Any) -> Any:  # static bounds: a scan, so that it has a gradient
    x = lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ params["a"]["kernel"]), x)
    return x @ params["b"]["kernel"]


def with_while(params: Any, x: Any) -> Any:
    def going(carry):
        return jnp.sum(jnp.abs(carry @ params["b"]["kernel"])) < 1000.0

    return lax.while_loop(going, lambda x: 1.5 * x + jnp.abs(x @ params["a"]["kernel"]), x)


def plain_net(function: Callable[..., Any]) -> Net:
    x = data(3, 8)
    return Net(lift(function), two_kernels(x), x, ".*kernel")


def data(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(2), shape)


TOKENS = (jnp.arange(10) * 7 % 12).reshape(2, 5)

NETS: dict[str, Callable[[], Net]] = {
    "linen_mlp": lambda: linen_net(LinenMLP(), data(3, 9), "fc[12]/kernel"),
    "linen_lenet5": lambda: linen_net(LinenLeNet5(), data(2, 28, 28, 1), "(conv2|fc1)/kernel"),
    "linen_resnet": lambda: linen_net(LinenResNet(), data(2, 8, 8, 3), ".*kernel"),
    "linen_attention": lambda: linen_net(LinenAttention(), data(2, 5, 8), ".*kernel"),
    "linen_scan": lambda: linen_net(LinenScan(), data(2, 8), ".*kernel"),
    "linen_remat": lambda: linen_net(LinenRemat(), data(2, 8), ".*kernel"),
    "linen_rnn": lambda: linen_net(LinenRNN(), data(2, 5, 4), ".*kernel"),
    "linen_tied": lambda: linen_net(LinenTied(), TOKENS, ".*(kernel|embedding)"),
    "linen_bf16": lambda: linen_net(LinenMLP(dtype=jnp.bfloat16), data(3, 9), "fc[12]/kernel"),
    "nnx_mlp": lambda: nnx_net(NNXMLP, data(3, 9), "layers/[01]/kernel"),
    "nnx_lenet5": lambda: nnx_net(NNXLeNet5, data(2, 28, 28, 1), "(conv2|fc1)/kernel"),
    "nnx_resnet": lambda: nnx_net(NNXResNet, data(2, 8, 8, 3), ".*kernel"),
    "nnx_attention": lambda: nnx_net(NNXAttention, data(2, 5, 8), ".*kernel"),
    "nnx_scan": lambda: nnx_net(NNXScan, data(2, 8), ".*kernel"),
    "nnx_remat": lambda: nnx_net(NNXRemat, data(2, 8), ".*kernel"),
    "nnx_rnn": lambda: nnx_net(NNXRNN, data(2, 5, 4), ".*kernel"),
    "nnx_tied": lambda: nnx_net(NNXTied, TOKENS, ".*(kernel|embedding)"),
    "nnx_bf16": lambda: nnx_net(lambda rngs: NNXMLP(rngs, dtype=jnp.bfloat16), data(3, 9), "layers/[01]/kernel"),
    "custom_vjp": lambda: plain_net(with_custom_vjp),
    "custom_vjp_of_kernel": lambda: plain_net(with_custom_vjp_of_kernel),
    "cond": lambda: plain_net(with_cond),
    "fori": lambda: plain_net(with_fori),
    "while": lambda: plain_net(with_while),
}


# Nets for devices: residual and depthwise separable, with norms after convolutions


class LinenBlock(nn.Module):
    """A residual net with a norm after every convolution, as devices want it."""

    @nn.compact
    def __call__(self, x):
        def layer(x, features, name, strides=1, size=3, groups=1):
            x = nn.Conv(features, (size, size), strides, use_bias=False, feature_group_count=groups, name=name)(x)
            return nn.BatchNorm(use_running_average=True, name=f"{name}_norm")(x)

        x = nn.relu(layer(x, 4, "stem"))
        y = nn.relu6(layer(x, 8, "depthwise", 2, groups=4))
        y = layer(y, 8, "pointwise", size=1)
        x = nn.relu(y + layer(x, 8, "short", 2, 1))
        return nn.Dense(3, name="head")(x.mean((1, 2)))


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.depthwise = nnx.Conv(4, 8, (3, 3), feature_group_count=4, padding=((1, 0), (2, 1)), rngs=rngs)
        self.head = nnx.Linear(16, 3, use_bias=False, rngs=rngs)
        self.norm.mean[...], self.norm.var[...] = jnp.linspace(0.1, 0.9, 4), jnp.linspace(1.1, 1.9, 4)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.stem(x)))
        y = nnx.relu(self.depthwise(x))
        y = jnp.concatenate([y, nnx.relu6(y)], -1).mean((1, 2), keepdims=True)
        return nnx.softmax(self.head(y.reshape(y.shape[0], -1)))


# Integer models, of any codes and scales


def grid(scale: float, zero_point: int = 0) -> Grid:
    return Grid(np.float32(scale), zero_point)


def layer_model(
    layer: Layer,
    given: Grid,
    made: Grid,
    shape: tuple[int, ...],
    window: Window | None = None,
    activation: str | None = None,
) -> Integers:
    """Builds a model of one convolution, or of one dense layer without a window; it is called ``layer``."""
    x, kernel = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (shape, layer.kernel.shape))
    apply = jnp.matmul if window is None else lambda x, kernel: convolve(x, kernel, window)
    kind, out = ("dense" if window is None else "convolution"), jax.eval_shape(apply, x, kernel).shape
    node = Node("layer", kind, (INPUT,), out, window=window, activation=activation)
    return Integers(Graph((node,), shape, "layer"), {INPUT: given, "layer": made}, {"layer": layer})


def op_model(
    kind: str,
    shape: tuple[int, ...],
    given: Grid,
    made: Grid | None = None,
    inputs: tuple[str, ...] = (INPUT,),
    out: tuple[int, ...] | None = None,
    **at: Any,
) -> Integers:
    """Builds a model of one operation without weights; it is called ``op``, and keeps the grid without `made`.

    `out` is the shape of a reshape, and of the rank of a mean that drops its axes.
    """
    node = Node("op", kind, inputs, out or shape, **at)
    xs = [jax.ShapeDtypeStruct(shape, jnp.float32)] * len(inputs)
    node = replace(node, shape=jax.eval_shape(lambda *xs: operate(node, {}, xs), *xs).shape)
    return Integers(Graph((node,), shape, "op"), {INPUT: given, "op": made or given}, {})


PAIRS = np.stack(np.meshgrid(*[np.arange(-128, 128, dtype=np.int8)] * 2, indexing="ij"), -1)[None]


def pairs_model(of_x: Grid, of_y: Grid, made: Grid, activation: str | None = None) -> Integers:
    """Builds a model that adds the two channels of `PAIRS`; layers of factor one bring each to a grid of its own."""
    out, window = (1, 256, 256, 1), Window((1, 1), (1, 1), ((0, 0), (0, 0)))

    def chosen(channel: int, of: Grid) -> Layer:
        kernel = np.zeros((1, 1, 2, 1), np.int8)
        kernel[0, 0, channel, 0] = 1
        return Layer(kernel, np.array([of.scale]), np.array([-of.zero_point], np.int32))

    nodes = (
        *(Node(name, "convolution", (INPUT,), out, window=window) for name in "xy"),
        Node("sum", "add", ("x", "y"), out, activation=activation),
    )
    grids = {INPUT: grid(1.0), "x": of_x, "y": of_y, "sum": made}
    return Integers(Graph(nodes, PAIRS.shape, "sum"), grids, {"x": chosen(0, of_x), "y": chosen(1, of_y)})
