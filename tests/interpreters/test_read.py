"""Checks that the graph read from a model computes what the model does, and what has no graph."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

import jaxcompress as jc
from jaxcompress import adapters, factorize, prune, quantize
from jaxcompress.arrays import FakeQuantized, LowRank, Masked, Quantized
from jaxcompress.interpreters.graph import Node, Window, operate
from tests.nets import (
    NNXMLP,
    LinenBlock,
    LinenLeNet5,
    LinenMLP,
    LinenRemat,
    LinenScan,
    Net,
    NNXBlock,
    NNXLeNet5,
    NNXRemat,
    NNXResNet,
    data,
    odd_square,
)

ZERO = ((0, 0), (0, 0))


def filled(tree):
    """Draws values of the shapes of `tree`, vectors positive, as variances are; no initializer has to be compiled."""
    draw = np.random.default_rng(0)

    def values(leaf):
        size = np.prod(leaf.shape[:-1]) ** -0.5
        found = draw.normal(0, size, leaf.shape) if leaf.ndim > 1 else draw.uniform(0.3, 1.2, leaf.shape)
        return jnp.asarray(found, jnp.float32)

    return jax.tree.map(values, tree)


def linen(module, *shape):
    variables = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    return Net(*adapters.linen.functional(module, filled(variables)), data(*shape), "")


def nnx_of(make, *shape):
    module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    nnx.update(module, filled(nnx.state(module)))
    return Net(*adapters.nnx.functional(module), data(*shape), "")


MODELS = {
    "linen_mlp": lambda: linen(LinenMLP(), 1, 9),
    "linen_lenet5": lambda: linen(LinenLeNet5(), 1, 28, 28, 1),
    "linen_block": lambda: linen(LinenBlock(), 1, 8, 8, 3),
    "linen_remat": lambda: linen(LinenRemat(), 1, 8),
    "nnx_mlp": lambda: nnx_of(NNXMLP, 1, 9),
    "nnx_lenet5": lambda: nnx_of(NNXLeNet5, 1, 28, 28, 1),
    "nnx_block": lambda: nnx_of(NNXBlock, 1, 9, 7, 3),
    "nnx_remat": lambda: nnx_of(NNXRemat, 1, 8),
}


def quick_jit(function):
    """Compiles with little optimisation: these programs run once."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def kinds(graph):
    return [node.kind for node in graph.nodes]


def outputs(graph, weights, x):
    """Returns the output of every node by its name."""
    found = {}
    graph.run(lambda n, inputs: found.setdefault(n.name, operate(n, weights.get(n.name, {}), inputs)), x)
    return found


def assert_reads(apply, params, x):
    """Reads the graph of a model, holds it to the model on a batch of three, and returns it."""
    graph, weights = jc.read(apply, params, x)
    batch = np.random.default_rng(7).normal(0, 3, (3, *x.shape[1:])).astype(np.float32)
    found, expected = quick_jit(lambda w, p, x: (graph(w, x), apply(p, x)))(weights, params, batch)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    shapes = jax.eval_shape(lambda w, x: outputs(graph, w, x), weights, x)
    assert {name: s.shape for name, s in shapes.items()} == {node.name: node.shape for node in graph.nodes}
    return graph


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_computes_what_the_model_does_with_its_gradients(name):
    net = MODELS[name]()
    batch = np.random.default_rng(1).normal(size=(2, *net.x.shape[1:])).astype(np.float32)

    def of_graph(params):
        graph, weights = jc.read(net.apply, params, net.x)
        return graph(weights, batch)

    def both(run):
        def loss(params):
            out = run(params)
            return jnp.sum(jnp.sin(3 * out)), out

        return jax.grad(loss, has_aux=True)(net.params)

    found, expected = quick_jit(lambda: (both(of_graph), both(lambda params: net.apply(params, batch))))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def test_the_graph_of_a_residual_block_by_hand():
    net = MODELS["linen_block"]()
    graph, weights = jc.read(net.apply, net.params, net.x)
    square, half = (1, 8, 8, 4), (1, 4, 4, 8)
    ones = Window((1, 1), (1, 1), ZERO)
    assert graph.input_shape == (1, 8, 8, 3) and graph.output == "head"
    norm = Window((3, 3), (1, 1), ((1, 1), (1, 1)))
    assert [replace(n, name=n.name.rpartition("/")[2], inputs=tuple(i.rpartition("/")[2] for i in n.inputs))
            for n in graph.nodes] == [
        Node("stem", "convolution", ("input",), square, window=norm, activation="relu"),
        Node("depthwise", "convolution", ("stem",), half, activation="relu6",
             window=Window((3, 3), (2, 2), ((0, 1), (0, 1)), (1, 1), 4)),
        Node("pointwise", "convolution", ("depthwise",), half, window=ones),
        Node("short", "convolution", ("stem",), half, window=ones._replace(strides=(2, 2))),
        Node("add", "add", ("pointwise", "short"), half, activation="relu"),
        Node("mean", "mean", ("add",), (1, 8), axes=(1, 2)),
        Node("head", "dense", ("mean",), (1, 3)),
    ]  # fmt: skip
    assert {name.rpartition("/")[2] for name in weights} == {"stem", "depthwise", "pointwise", "short", "head"}
    assert all(set(layer) == {"kernel", "bias"} for layer in weights.values())


# Operations by themselves, on plain functions

KERNELS = {
    "conv": {"kernel": data(3, 3, 3, 4), "bias": jnp.arange(4.0)},
    "fc": {"kernel": data(4, 5) + 1, "bias": jnp.arange(5.0)},
}
X = data(1, 6, 5, 3)
VECTOR = jnp.arange(1.0, 5.0).reshape(1, 1, 1, 4)


def conv(params, x, strides=(1, 1), padding="SAME", **options):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, params["conv"]["kernel"], strides, padding, dimension_numbers=numbers, **options)


@jax.custom_jvp
def gate(x):
    """A ReLU with a derivative that no one would derive."""
    return jnp.maximum(x, 0)


gate.defjvp(lambda primals, tangents: (gate(*primals), 3 * tangents[0]))


def through(change):
    """A convolution used twice, once behind what changes no value."""

    def apply(params, x):
        y = conv(params, x)
        return nn.relu(change(y)) + y

    return apply


def window_sum(x):
    return nn.pool(x, 0.0, lax.add, (2, 2), (1, 1), "SAME")


def maximum_of(padding):
    return lambda params, x: nn.max_pool(conv(params, x), (3, 2), (2, 1), padding)


def average_of(padding):
    return lambda params, x: nn.avg_pool(conv(params, x), (3, 2), (2, 1), padding, count_include_pad=False)


OPERATIONS = {
    "no bias": (conv, "convolution"),
    "strided and dilated": (lambda p, x: conv(p, x, (2, 1), ((1, 0), (0, 2)), rhs_dilation=(1, 2)), "convolution"),
    "padding that cuts off": (lambda p, x: conv(p, x, (2, 1), ((-1, 0), (0, -2))), "slice convolution"),
    "padding that pads and cuts off": (lambda p, x: conv(p, x, (1, 1), ((3, -1), (-2, 2))), "slice convolution"),
    "pooling that cuts off": (
        lambda p, x: lax.reduce_window(
            x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 1, 1), ((0, 0), (-1, 0), (0, 1), (0, 0))
        ),
        "slice max_pool",
    ),
    "kernel of another layout": (
        lambda p, x: lax.conv_general_dilated(
            x, p["conv"]["kernel"].transpose(3, 2, 0, 1), (1, 1), "SAME", dimension_numbers=("NHWC", "OIHW", "NHWC")
        ),
        "convolution",
    ),
    "bias, scale, shift": (lambda p, x: (conv(p, x) + 2.0) * VECTOR - 1.0, "convolution"),
    "scale before bias": (lambda p, x: conv(p, x) / 4 + VECTOR, "convolution"),
    "constant first": (lambda p, x: 2.0 + 3.0 * conv(p, x), "convolution"),
    "relu twice": (lambda p, x: nn.relu(nn.relu(conv(p, x))), "convolution"),
    "relu6 of relu": (lambda p, x: nn.relu6(nn.relu(conv(p, x))), "convolution"),
    "clip": (lambda p, x: jnp.clip(conv(p, x), 0, 6), "convolution"),
    "clamp": (lambda p, x: lax.clamp(0.0, conv(p, x), 6.0), "convolution"),
    "relu of relu6": (lambda p, x: nn.relu(nn.relu6(conv(p, x))), "convolution relu"),
    "relu alone": (lambda p, x: nn.relu(x), "relu"),
    "relu6 alone": (lambda p, x: nn.relu6(x), "relu6"),
    "custom_jvp": (lambda p, x: gate(conv(p, x)), "convolution"),
    "jit and remat": (jax.jit(jax.checkpoint(lambda p, x: jax.jit(nn.relu)(conv(p, x)))), "convolution"),
    "output used twice": (through(lambda y: y), "convolution relu add"),
    "weights used twice": (lambda p, x: conv(p, conv(p, x)[..., 1:]), "convolution slice convolution"),
    "the same twice": (lambda p, x: x + x, "add"),
    "a mean repeated by a sum": (lambda p, x: x + x.mean((1, 2), keepdims=True), "mean add"),
    "max pool valid": (maximum_of("VALID"), "convolution max_pool"),
    "max pool same": (maximum_of("SAME"), "convolution max_pool"),
    "max pool explicit": (maximum_of(((1, 2), (1, 0))), "convolution max_pool"),
    "average pool valid": (average_of("VALID"), "convolution average_pool"),
    "average pool same": (average_of("SAME"), "convolution average_pool"),
    "average pool explicit": (average_of(((1, 1), (0, 1))), "convolution average_pool"),
    "mean": (lambda p, x: x.mean((1, 2)), "mean"),
    "mean that keeps its axes": (lambda p, x: x.mean((1, 2), keepdims=True), "mean"),
    "mean of channels": (lambda p, x: x.mean(3), "mean"),
    "sum and division": (lambda p, x: x.sum((1, 2)) / 30, "mean"),
    "mean, then another rank": (lambda p, x: x.mean(1)[..., None], "mean reshape"),
    "softmax": (lambda p, x: nn.softmax(x.reshape(x.shape[0], -1) @ jnp.ones((90, 4))), "reshape dense softmax"),
    "softmax of channels": (lambda p, x: nn.softmax(conv(p, x)), "convolution softmax"),
    "moves": (lambda p, x: x.swapaxes(1, 3).reshape(len(x), 15, 6).swapaxes(1, 2), "transpose reshape transpose"),
    "squeeze": (lambda p, x: jnp.squeeze(x[:, :1], 1)[:, ::2], "slice reshape slice"),
    "pad": (lambda p, x: jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0))), "pad"),
    "concatenate": (lambda p, x: jnp.concatenate([x, conv(p, x), x], -1), "convolution concatenate"),
    "dense of many axes": (lambda p, x: conv(p, x) @ p["fc"]["kernel"] + VECTOR[..., :1], "convolution dense"),
    "transposed kernel": (lambda p, x: conv(p, x) @ p["t"].T, "convolution dense"),
    "nothing": (lambda p, x: x, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name):
    apply, expected = OPERATIONS[name]
    graph = assert_reads(apply, {**KERNELS, "t": data(6, 4)}, X)
    assert " ".join(kinds(graph)) == expected


SAME_VALUES = {
    "copy": lambda y: y.copy(),
    "stop_gradient": lax.stop_gradient,
    "reshape": lambda y: y.reshape(y.shape[0], -1).reshape(y.shape),
    "convert": lambda y: y.astype(jnp.float32),
}


@pytest.mark.parametrize("name", SAME_VALUES)
def test_an_output_used_twice_is_not_fused_behind_what_changes_no_value(name):
    graph = assert_reads(through(SAME_VALUES[name]), KERNELS, X)
    assert [node.activation for node in graph.nodes if node.kind == "convolution"] == [None]


@pytest.mark.parametrize("kind", [Masked, FakeQuantized, Quantized, LowRank])
@pytest.mark.parametrize("lifted", [False, True])
def test_compressed_leaves_stay_kernels(kind, lifted):
    net = linen(LinenMLP(), 1, 9)
    make = {
        Masked: prune.magnitude(".*kernel", 0.5),
        LowRank: factorize.svd("fc[12]/kernel", 3),
    }.get(kind, quantize.weights(".*kernel", 4))
    params = make.init(net.params)
    params = jc.pack(params) if kind is Quantized else params
    plain = lambda params, x: LinenMLP().apply({"params": params}, x)
    graph, weights = jc.read(net.apply if lifted else plain, params, net.x)
    assert kinds(graph) == ["dense"] * 3 and isinstance(weights["fc1"]["kernel"], kind)
    np.testing.assert_allclose(graph(weights, net.x), net.apply(params, net.x), rtol=1e-5, atol=1e-5)


# What has no graph

REFUSED = {
    "a primitive by name and place": (lambda p, x: nn.tanh(x), "computes 'tanh'"),
    "a norm after an activation": (lambda p, x: nn.relu(conv(p, x)) * VECTOR, "scale .* no operation"),
    "a bias by position": (lambda p, x: conv(p, x) + jnp.arange(5.0).reshape(1, 1, 5, 1), "shift .* no operation"),
    "a pool that counts padding": (lambda p, x: window_sum(x) / 4, "window_sum .* no operation"),
    "a sum": (lambda p, x: x.sum((1, 2)), "sum of shape .* is no operation"),
    "a product of activations": (lambda p, x: x * x, "multiply of shape"),
    "a product of activations as matrices": (lambda p, x: jnp.einsum("bhwc,bhwd->bcd", x, x), "dot_general"),
    "another clip": (lambda p, x: jnp.clip(x, -1, 1), "max of shape"),
    "six before zero": (lambda p, x: jnp.maximum(jnp.minimum(x, 6), 0), "min of shape"),
    "softmax of another axis": (lambda p, x: nn.softmax(x, 1), "reduce_max"),
    "exponentials without their maximum": (lambda p, x: jnp.exp(x) / jnp.exp(x).sum(3, keepdims=True), "exp of"),
    "a transposed convolution": (lambda p, x: conv(p, x, padding=ZERO, lhs_dilation=(2, 2)), "conv_general_dilated"),
    "channels first": (lambda p, x: lax.conv(x, data(2, 6, 3, 3), (1, 1), "SAME"), "conv_general_dilated"),
    "padding with ones": (lambda p, x: lax.pad(x, 1.0, [(0, 0, 0), (1, 0, 0)] + [(0, 0, 0)] * 2), "computes 'pad'"),
    "a repetition": (lambda p, x: jnp.broadcast_to(x.mean((1, 2), keepdims=True), x.shape), "'broadcast_in_dim'"),
    "rounding to integers": (lambda p, x: conv(p, x).astype(jnp.int32).astype(jnp.float32), "'convert_element_type'"),
    "a custom_vjp of something else": (lambda p, x: odd_square(x), "multiply of shape"),
    "two outputs": (lambda p, x: (x, x), "one input array and one output array"),
    "a pooling that skips channels": (
        lambda p, x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 2), "VALID"),
        "reduce_window_max",
    ),
    "padding that leaves nothing": (lambda p, x: conv(p, x, padding=((-7, 9), (1, 1))), "leaves nothing of an image"),
    "no dependence on the input": (lambda p, x: p["fc"]["bias"] * 2, "does not depend on its input"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    apply, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        jc.read(apply, KERNELS, X)


# The batch

SEQUENCE = data(1, 12, 8)
LINEAR = {"fc": {"kernel": data(8, 4), "bias": jnp.arange(4.0)}}


def linear(params, x):
    return x @ params["fc"]["kernel"]


FOLLOWED = {
    "moved and moved back": (lambda p, x: linear(p, x.swapaxes(0, 1).swapaxes(0, 1)), "transpose transpose dense"),
    "moved by an axis": (
        lambda p, x: linear(p, jnp.moveaxis(jnp.moveaxis(x, 0, 2), 2, 0)),
        "transpose transpose dense",
    ),
    "with an axis behind it": (lambda p, x: linear(p, x.reshape(-1, 8)).reshape(-1, 12, 4), "reshape dense reshape"),
    "with an axis behind it at the end": (lambda p, x: linear(p, x.reshape(-1, 8)), "reshape dense"),
    "flattened": (lambda p, x: x.reshape(len(x), -1), "reshape"),
    "mapped over": (lambda p, x: jax.vmap(lambda v: nn.relu(linear(p, v)).mean(0))(x), "dense mean"),
    "a repeated bias": (
        lambda p, x: linear(p, x[:, 0]) + jnp.broadcast_to(p["fc"]["bias"], (len(x), 4)),
        "slice reshape dense",
    ),
    "a repeated factor": (lambda p, x: linear(p, x[:, 0]) * jnp.full((len(x), 4), 2.0), "slice reshape dense"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWED)
def test_the_batch_is_followed(name):
    apply, expected = FOLLOWED[name]
    assert " ".join(kinds(assert_reads(apply, LINEAR, SEQUENCE))) == expected


@pytest.mark.parametrize("name", ["a repeated bias", "moved and moved back"])
def test_the_batch_is_followed_while_parameters_are_traced(name):
    apply, batch = FOLLOWED[name][0], data(3, 12, 8)

    def both(params):
        graph, weights = jc.read(apply, params, SEQUENCE)
        return graph(weights, batch), apply(params, batch)

    np.testing.assert_allclose(*jax.jit(both)(LINEAR), rtol=1e-5, atol=1e-5)


def test_the_size_of_the_batch_may_be_computed_where_nothing_depends_on_it():
    def apply(params, x):
        jnp.sum(x, 0) / len(x)
        return linear(params, x)

    assert kinds(assert_reads(apply, LINEAR, SEQUENCE)) == ["dense"]


ELSEWHERE, ALONG = "whose axis 1 is the batch", "along axis 0, the batch"
BATCHES_REFUSED = {
    "time first, sliced": (lambda p, x: linear(p, x.swapaxes(0, 1))[2:5].mean(0), ELSEWHERE),
    "the last step of time first": (lambda p, x: linear(p, x.swapaxes(0, 1)[-1]), f"a slice .* {ELSEWHERE}"),
    "the mean of time first": (lambda p, x: x.swapaxes(0, 1).mean(0), ELSEWHERE),
    "flattened time first": (lambda p, x: x.swapaxes(0, 1).reshape(-1, 96), f"a reshape .* {ELSEWHERE}"),
    "padded time first": (lambda p, x: jnp.pad(x.swapaxes(0, 1), ((1, 0), (0, 0), (0, 0))), f"a pad .* {ELSEWHERE}"),
    "time first at the end": (lambda p, x: x.swapaxes(0, 1), f"the output .* {ELSEWHERE}"),
    "the batch last at the end": (lambda p, x: x.T, "whose axis 2 is the batch"),
    "mapped to another axis": (lambda p, x: jax.vmap(lambda v: linear(p, v), out_axes=1)(x), ELSEWHERE),
    "time first by a reshape": (lambda p, x: x.reshape(12, -1, 8), "leaves the batch no longer first"),
    "an axis before": (lambda p, x: x[None] @ p["fc"]["kernel"], "leaves the batch no longer first"),
    "split in two": (lambda p, x: x.reshape(2, -1, 4), "leaves the batch no longer first"),
    "a batch of one": (lambda p, x: x.reshape(1, -1), "leaves the batch no longer first"),
    "a batch of one by a product": (lambda p, x: x.reshape(1, 96) @ jnp.ones((96, 2)), "not of 5"),
    "another rank for one": (lambda p, x: linear(p, x.squeeze()), r"\(12, 4\) for a batch of one"),
    "the first example": (lambda p, x: linear(p, x[:1]), f"a slice goes {ALONG}"),
    "a rolled batch": (lambda p, x: linear(p, jnp.roll(x, 1, 0)), f"a slice goes {ALONG}"),
    "every other of an axis behind it": (lambda p, x: x.reshape(-1, 8)[::2], f"a slice goes {ALONG}"),
    "the mean of the batch": (lambda p, x: x + x.mean(0, keepdims=True), f"a sum goes {ALONG}.*model.eval"),
    "the mean of an axis behind it": (lambda p, x: x.reshape(-1, 8).mean(0), f"a sum goes {ALONG}"),
    "the maximum of the batch": (lambda p, x: nn.softmax(x, 0), f"a reduce_max goes {ALONG}"),
    "two batches": (lambda p, x: jnp.concatenate([x, x]), f"a concatenation goes {ALONG}"),
    "a longer batch": (lambda p, x: jnp.pad(x, ((0, 1), (0, 0), (0, 0))), f"a pad goes {ALONG}"),
    "a product over the batch": (lambda p, x: x.mean((1, 2)) @ jnp.ones((len(x), 2)), f"a product goes {ALONG}"),
    "a bias by example": (lambda p, x: linear(p, x[:, 0]) + jnp.arange(len(x) * 1.0)[:, None], "shift .* no operation"),
    "its size as a factor": (lambda p, x: linear(p, x) * len(x), "a mul .* takes 5.0 for 5 examples, and 7.0 for 7"),
    "its size as a constant": (lambda p, x: linear(p, x) + np.full((1, 1, 4), len(x), np.float32), "a constant of"),
    "its size in a call": (lambda p, x: jax.jit(lambda v: linear(p, v) / x.shape[0])(x), "a div .* takes 5.0"),
    "its size by counting": (lambda p, x: linear(p, x) * jnp.ones(len(x)).sum(), "a reduce_sum .* along the batch"),
    "another model by its size": (lambda p, x: linear(p, x + 1 if len(x) == 7 else x), "otherwise for 5 .* than for 7"),
}  # fmt: skip


@pytest.mark.parametrize("name", BATCHES_REFUSED)
def test_a_batch_that_is_not_first_is_refused(name):
    apply, message = BATCHES_REFUSED[name]
    with pytest.raises(ValueError, match=message):
        jc.read(apply, LINEAR, SEQUENCE)


@pytest.mark.parametrize("sizes", [(5, 7, 11), (10, 35, 13)])
def test_the_number_of_examples_is_found_apart_from_all_sizes(sizes):
    x = data(1, *sizes)
    graph = assert_reads(lambda p, x: x.reshape(-1, sizes[2]).reshape(-1, sizes[1] * sizes[2]), {}, x)
    assert [node.shape for node in graph.nodes] == [(sizes[0] * sizes[1], sizes[2]), (sizes[0], sizes[1] * sizes[2])]


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32])
def test_an_input_of_integers_is_refused(dtype):
    with pytest.raises(ValueError, match=f"the example has dtype {dtype.__name__}; the input of a graph is of floats"):
        jc.read(lambda p, x: conv(p, x.astype(jnp.float32) / 255), KERNELS, X.astype(dtype))


def test_a_model_in_training_is_refused_with_the_remedy():
    model = NNXBlock(nnx.Rngs(0))
    model.train()
    with pytest.raises(ValueError, match=r"batch normalization in training computes it: .*model\.eval\(\) of NNX"):
        jc.read(*adapters.nnx.functional(model), data(1, 9, 7, 3))
    model.eval()
    jc.read(*adapters.nnx.functional(model), data(1, 9, 7, 3))


def test_dropout_in_training_is_refused_with_the_remedy():
    dropout = nn.Dropout(0.5, deterministic=False)
    with pytest.raises(ValueError, match="computes 'select_n'.*dropout in training.*deterministic=True of Linen"):
        jc.read(lambda p, x: dropout.apply({}, x, rngs={"dropout": jax.random.key(0)}), {}, X)


def test_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"the example has shape \(3, 6, 5, 3\); its first axis is a batch of one"):
        jc.read(conv, KERNELS, data(3, 6, 5, 3))


def test_two_inputs_are_refused():
    with pytest.raises((ValueError, AttributeError)):
        jc.read(lambda params, x: x[0] + x[1], KERNELS, (X, X))  # pyright: ignore


def test_layers_in_a_loop_are_refused():
    net = linen(LinenScan(), 1, 8)
    with pytest.raises(ValueError, match="computes 'scan', which has no place in a graph"):
        jc.read(net.apply, net.params, net.x)


def test_a_norm_before_its_layer_is_refused_with_its_place():
    net = nnx_of(NNXResNet, 1, 8, 8, 3)  # it adds, and norms the sum
    with pytest.raises(ValueError, match="is no operation of a graph by itself"):
        jc.read(net.apply, net.params, net.x)
    with pytest.raises(ValueError, match="Gate computes 'tanh'"):
        jc.read(lambda params, x: Gate().apply({}, x), {}, data(1, 4))


class Gate(nn.Module):
    def __call__(self, x):
        return jnp.tanh(x)
