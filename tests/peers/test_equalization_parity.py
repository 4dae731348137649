"""Holds equalization, smoothing and bias correction to readings of their papers in PyTorch, in its layouts."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import quantize
from jaxcompress.interpreters.graph import Graph, Node, Window
from jaxcompress.quantize import Moments, absorb_bias, correct_bias, correct_bias_by_moments, equalize, smoothquant

torch = pytest.importorskip("torch", reason="pip install 'jaxcompress[peers]'")
F = torch.nn.functional

SAME = Window((3, 3), (1, 1), ((1, 1), (1, 1)))
ONE = Window((1, 1), (1, 1), ((0, 0), (0, 0)))
NODES = (
    Node("conv", "convolution", ("input",), (1, 4, 4, 6), window=SAME, activation="relu"),
    Node("depthwise", "convolution", ("conv",), (1, 4, 4, 6), window=SAME._replace(groups=6), activation="relu"),
    Node("pointwise", "convolution", ("depthwise",), (1, 4, 4, 5), window=ONE, activation="relu"),
    Node("flat", "reshape", ("pointwise",), (1, 80)),
    Node("fc", "dense", ("flat",), (1, 3)),
)
SIZES = {"conv": (3, 3, 2, 6), "depthwise": (3, 3, 1, 6), "pointwise": (1, 1, 6, 5), "fc": (80, 3)}
GRAPH = Graph(NODES, (1, 4, 4, 2), "fc")


@pytest.fixture
def weights():
    draw = np.random.default_rng(0)
    return {
        name: {
            "kernel": jnp.asarray(0.4 * draw.normal(size=size) * np.exp(draw.normal(size=size[-1])), jnp.float32),
            "bias": jnp.asarray(draw.normal(size=size[-1]), jnp.float32),
        }
        for name, size in SIZES.items()
    }


@pytest.fixture
def x():
    return np.random.default_rng(1).normal(0.5, size=(20, 4, 4, 2)).astype(np.float32)


def to_torch(weights):
    """Outputs first, in float64: OIHW of convolutions, (outputs, channels * places) of the dense layer."""
    found = {}
    for name, layer in weights.items():
        kernel = np.asarray(layer["kernel"], np.float64)
        if name == "fc":  # PyTorch flattens channel by channel
            kernel = kernel.reshape(4, 4, 5, 3).transpose(3, 2, 0, 1).reshape(3, 80)
        else:
            kernel = kernel.transpose(3, 2, 0, 1)
        found[name] = [torch.tensor(kernel), torch.tensor(np.asarray(layer["bias"], np.float64))]
    return found


def run(net, x):
    """Returns what every layer computes before its ReLU, and what it is given."""
    x = torch.tensor(np.asarray(x, np.float64)).permute(0, 3, 1, 2)
    made, given = {}, {}
    for name, options in (("conv", {"padding": 1}), ("depthwise", {"padding": 1, "groups": 6}), ("pointwise", {})):
        given[name] = x
        made[name] = F.conv2d(x, *net[name], **options)
        x = torch.relu(made[name])
    given["fc"] = x.flatten(1)
    made["fc"] = F.linear(given["fc"], *net["fc"])
    return made, given


def inputs_first(net, name):
    """The weights behind each output of the layer before: (channels, everything else), a view."""
    weight = net[name][0]
    match name:
        case "depthwise":
            return weight.view(6, -1)
        case "pointwise":
            return weight.view(5, 6).T
        case "fc":
            return weight.view(3, 5, 16).permute(1, 0, 2)


def scale_(net, first, second, s):
    """Divides outputs by s, multiplies the inputs behind them, in place."""
    for parameter in net[first]:
        parameter /= s.view(-1, *[1] * (parameter.ndim - 1))
    view = inputs_first(net, second)
    view *= s.view(-1, *[1] * (view.ndim - 1))


PAIRS = (("conv", "depthwise"), ("depthwise", "pointwise"), ("pointwise", "fc"))


def assert_same(ours, theirs, tolerance=1e-4):
    for name, expected in theirs.items():
        for a, b in zip(to_torch(ours)[name], expected, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=tolerance, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("iterations", [1, 3, 500])
def test_equalization_is_that_of_equation_11(weights, x, iterations):
    net = to_torch(weights)
    before, _ = run(net, x)
    for _ in range(iterations):
        for first, second in PAIRS:
            r1 = net[first][0].flatten(1).abs().amax(1)
            r2 = inputs_first(net, second).flatten(1).abs().amax(1)
            scale_(net, first, second, (r1 * r2).sqrt() / r2)
    after, _ = run(net, x)
    np.testing.assert_allclose(after["fc"], before["fc"], rtol=1e-9)
    found = equalize(GRAPH, weights, iterations=iterations, tolerance=1e-6)
    assert [pair[:2] for pair in found.pairs] == list(PAIRS)
    assert_same(found.weights, net, 1e-4 if iterations < 10 else 1e-3)
    np.testing.assert_allclose(GRAPH(found.weights, jnp.asarray(x)), before["fc"], rtol=1e-4, atol=1e-5)


def test_smoothquant_is_that_of_equation_4(weights, x):
    net = to_torch(weights)
    _, given = run(net, x)
    scales = []
    for _, second in PAIRS:
        channels = len(inputs_first(net, second))
        met = given[second].view(len(x), channels, -1).abs().amax((0, 2))
        s = met**0.3 / inputs_first(net, second).flatten(1).abs().amax(1) ** 0.7
        scales.append(torch.where(met > 0, s, 1.0))  # a channel may never fire
    for pair, s in zip(PAIRS, scales, strict=True):
        scale_(net, *pair, s)
    batches = [jnp.asarray(x[:13]), jnp.asarray(x[13:])]
    assert_same(smoothquant(GRAPH, weights, batches, alpha=0.3).weights, net)


def test_absorption_is_that_of_equations_12_to_15(weights):
    draw = np.random.default_rng(2)
    mean, deviation = draw.uniform(0, 6, 6), draw.uniform(0.5, 1, 6)
    net = to_torch(weights)
    c = torch.tensor((mean - 3 * deviation).clip(0))
    assert 0 < (c > 0).sum() < 6
    net["depthwise"][1] -= c
    net["pointwise"][1] += net["pointwise"][0][:, :, 0, 0] @ c
    moments = {"depthwise": Moments(jnp.asarray(mean, jnp.float32), jnp.asarray(deviation, jnp.float32))}
    moments["pointwise"] = Moments(jnp.zeros(5), jnp.ones(5))
    assert_same(absorb_bias(GRAPH, weights, moments).weights, net)


def rounded_by_hand(weights):
    """Rounds kernels coarsely, so that means shift."""
    return {n: {"kernel": jnp.round(4 * layer["kernel"]) / 4, "bias": layer["bias"]} for n, layer in weights.items()}


def test_measured_correction_is_that_of_section_4_2(weights, x):
    rounded = rounded_by_hand(weights)
    net, coarse = to_torch(weights), to_torch(rounded)
    wanted, _ = run(net, x)
    for name in SIZES:  # each layer on what the corrected ones before it give
        made, _ = run(coarse, x)
        axes = (0, 2, 3) if name != "fc" else 0
        coarse[name][1] -= made[name].mean(axes) - wanted[name].mean(axes)
    batches = [jnp.asarray(x[:13]), jnp.asarray(x[13:])]
    grids = quantize.calibrate(GRAPH, weights, batches, bits=16)
    # So fine and so wide that activations are hardly rounded and never cut.
    grids = {name: grid._replace(scale=2 * grid.scale) for name, grid in grids.items()}
    found = correct_bias(GRAPH, weights, rounded, grids, batches)
    for name, (_, bias) in coarse.items():
        np.testing.assert_allclose(found[name]["bias"], bias.numpy(), atol=5e-4, err_msg=name)
        assert np.abs(bias.numpy() - np.asarray(weights[name]["bias"])).max() > 0.03


def test_correction_in_closed_form_is_that_of_equations_17_to_19(weights):
    rounded = rounded_by_hand(weights)
    draw = np.random.default_rng(3)
    moments = {
        name: Moments(*(jnp.asarray(draw.uniform(*ends, n), jnp.float32) for ends in ((-2, 2), (0.5, 2))))
        for name, n in (("input", 2), ("conv", 6), ("depthwise", 6), ("pointwise", 5))
    }
    found = correct_bias_by_moments(GRAPH, weights, rounded, moments)
    net, coarse = to_torch(weights), to_torch(rounded)
    normal = torch.distributions.Normal(0.0, 1.0)
    places = {"conv": (2, 4, 4), "depthwise": (6, 4, 4), "pointwise": (6, 4, 4), "fc": (5, 16)}
    for name, before in zip(SIZES, ("input", "conv", "depthwise", "pointwise"), strict=True):
        beta, gamma = (torch.tensor(np.asarray(m, np.float64)) for m in moments[before])
        density = torch.exp(normal.log_prob(beta / gamma))
        mean = beta if before == "input" else gamma * density + beta * (1 - normal.cdf(-beta / gamma))
        means = mean.view(-1, *[1] * (len(places[name]) - 1)).expand(places[name])[None]
        error = coarse[name][0] - net[name][0]
        if name == "fc":
            shift = F.linear(means.flatten(1), error)[0]
        else:
            padding, groups = (0, 1) if name == "pointwise" else (1, 6 if name == "depthwise" else 1)
            shift = F.conv2d(means, error, padding=padding, groups=groups).mean((0, 2, 3))
        expected = np.asarray(weights[name]["bias"], np.float64) - shift.numpy()
        np.testing.assert_allclose(found[name]["bias"], expected, rtol=1e-4, atol=1e-5, err_msg=name)
