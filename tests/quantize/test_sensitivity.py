"""Checks measured damages and Hessian traces against float64 NumPy and exact Hessians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import quantize
from jaxcompress.arrays import Masked
from jaxcompress.interpreters.graph import Graph, Node
from jaxcompress.quantize.kernels import rounded_kernel
from jaxcompress.quantize.sensitivity import Trace
from tests.graphs import HALF, POINT, chain, drawn, inputs, layers

KEY = jax.random.key(0)
GRAPH, WEIGHTS = chain(5, 4, 3)
X = inputs(GRAPH, 12)
BATCHES = [X[:7], X[7:]]
LABELS = [jnp.arange(7) % 3, jnp.arange(5) % 3]


def cross_entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]


def forward(kernels):
    """The chain in float64, by the kernels of its two layers."""
    biases = [np.asarray(WEIGHTS[name]["bias"], np.float64) for name in ("fc1", "fc2")]
    hidden = np.maximum(np.asarray(X, np.float64) @ kernels["fc1"] + biases[0], 0)
    return hidden @ kernels["fc2"] + biases[1]


def with_rounded(name, bits, granularity="channel"):
    kernels = {n: np.asarray(WEIGHTS[n]["kernel"], np.float64) for n in WEIGHTS}
    return kernels | {name: np.asarray(rounded_kernel(WEIGHTS[name]["kernel"], bits, granularity), np.float64)}


KERNELS = {name: np.asarray(layer["kernel"], np.float64) for name, layer in WEIGHTS.items()}


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_without_a_loss_the_damage_is_the_mean_squared_error_of_the_outputs(granularity):
    found = quantize.sensitivity(GRAPH, WEIGHTS, BATCHES, bits=(2, 5, 8), granularity=granularity)
    assert list(found) == ["fc1", "fc2"]
    for name, damages in found.items():
        assert list(damages) == [2, 5, 8]
        for bits, damage in damages.items():
            expected = np.mean((forward(with_rounded(name, bits, granularity)) - forward(KERNELS)) ** 2)
            np.testing.assert_allclose(damage, expected, rtol=1e-3)


def test_with_a_loss_it_is_how_much_the_mean_over_all_examples_rises():
    def loss(kernels):
        logits = forward(kernels)
        log_z = np.log(np.exp(logits).sum(1))
        return np.mean(log_z - logits[np.arange(12), np.concatenate(LABELS)])

    found = quantize.sensitivity(GRAPH, WEIGHTS, BATCHES, bits=(2, 4), loss=cross_entropy, labels=LABELS)
    for name in WEIGHTS:
        for bits in (2, 4):
            expected = loss(with_rounded(name, bits)) - loss(KERNELS)
            np.testing.assert_allclose(found[name][bits], expected, rtol=1e-3, atol=1e-6)


def test_one_program_serves_all_layers_and_bits():
    traced = []

    def loss(outputs, labels):
        traced.append(outputs.shape)
        return jnp.sum(outputs, axis=1) * labels

    graph, weights = chain(4, 4, 4, 4, 4)
    x = inputs(graph, 6)
    quantize.sensitivity(graph, weights, [x], bits=range(2, 9), loss=loss, labels=[jnp.ones(6)])
    assert len(traced) == 2  # one of them looks at the shape alone


def test_kernels_that_every_number_of_bits_holds_are_not_hurt():
    weights = {name: layer | {"kernel": jnp.sign(layer["kernel"])} for name, layer in WEIGHTS.items()}
    found = quantize.sensitivity(GRAPH, weights, BATCHES, bits=(2, 8))
    assert max(damage for damages in found.values() for damage in damages.values()) < 1e-10


def test_compressed_kernels_are_read_as_what_they_mean():
    mask = jnp.arange(20).reshape(5, 4) % 2 == 0
    masked = WEIGHTS | {"fc1": WEIGHTS["fc1"] | {"kernel": Masked(WEIGHTS["fc1"]["kernel"], mask)}}
    plain = WEIGHTS | {"fc1": WEIGHTS["fc1"] | {"kernel": jnp.where(mask, WEIGHTS["fc1"]["kernel"], 0)}}
    of = lambda weights: quantize.sensitivity(GRAPH, weights, BATCHES, bits=(3,))
    assert of(masked) == of(plain)


# Hessians


def mean_loss(kernels):
    changed = {name: WEIGHTS[name] | {"kernel": kernel} for name, kernel in kernels.items()}
    return jnp.mean(cross_entropy(GRAPH(changed, X), jnp.concatenate(LABELS)))


def test_traces_are_those_of_the_exact_hessian_within_their_errors():
    kernels = {name: layer["kernel"] for name, layer in WEIGHTS.items()}
    exact = jax.hessian(mean_loss)(kernels)
    samples = 200
    found = quantize.hessian_traces(
        GRAPH, WEIGHTS, [X], key=KEY, samples=samples, loss=cross_entropy, labels=[jnp.concatenate(LABELS)]
    )
    rows = {n: np.concatenate([np.reshape(exact[n][m], (kernels[n].size, -1)) for m in kernels], 1) for n in kernels}
    for name, kernel in kernels.items():
        block = np.asarray(exact[name][name], np.float64).reshape(kernel.size, kernel.size)
        # Twice what is off the diagonal of the block, and what couples it to the other layer.
        variance = np.sum(block**2) - 2 * np.sum(np.diag(block) ** 2) + np.sum(np.float64(rows[name]) ** 2)
        error = np.sqrt(variance / samples)
        assert abs(found[name].mean - np.trace(block)) < 4 * error
        np.testing.assert_allclose(found[name].standard_error, error, rtol=0.3)
        assert np.trace(block) > 5 * error


def test_traces_do_not_depend_on_how_the_batches_are_cut():
    options = {"key": KEY, "samples": 3, "loss": cross_entropy}
    cut = quantize.hessian_traces(GRAPH, WEIGHTS, BATCHES, labels=LABELS, **options)
    whole = quantize.hessian_traces(GRAPH, WEIGHTS, [X], labels=[jnp.concatenate(LABELS)], **options)
    for name in WEIGHTS:
        np.testing.assert_allclose(cut[name], whole[name], rtol=1e-4)


def test_a_quadratic_with_a_diagonal_hessian_is_exact_with_one_sample():
    # Inputs with one entry each make the squared error of a linear layer a sum over single weights.
    graph = Graph((Node("fc", "dense", ("input",), (1, 2)),), (1, 3), "fc")
    weights = {"fc": {"kernel": drawn(3, 2), "bias": drawn(2)}}
    x = jnp.diag(jnp.array([1.0, 2.0, 3.0]))
    found = quantize.hessian_traces(graph, weights, [x], key=KEY, samples=1)["fc"]
    # (x * dw)**2, averaged over 3 examples and 2 outputs, has second derivatives 2 * x**2 / 6 in each of 2 columns.
    np.testing.assert_allclose(found.mean, 2 * 2 * (1 + 4 + 9) / 6, rtol=1e-5)
    assert np.isnan(found.standard_error)


def test_the_same_key_gives_the_same_traces_and_another_others():
    first, again, other = (
        quantize.hessian_traces(GRAPH, WEIGHTS, [X], key=jax.random.key(seed), samples=2) for seed in (0, 0, 1)
    )
    assert first == again and first != other


def test_networks_with_convolutions_and_a_maximum_have_traces():
    whole, half = (1, 4, 4, 2), (1, 2, 2, 2)
    nodes = (
        Node("conv", "convolution", ("input",), whole, window=POINT, activation="relu"),
        Node("pool", "max_pool", ("conv",), half, window=HALF),
    )
    graph, weights = Graph(nodes, whole, "pool"), layers({"conv": (1, 1, 2, 2)})
    x = inputs(graph, 3)
    taken = np.asarray(graph(weights, x)) > 0
    # Each output is one of the inputs times the kernel, so each that is not cut adds 2 * x**2 for both of its inputs.
    sums = np.asarray(x @ weights["conv"]["kernel"][0, 0] + weights["conv"]["bias"].reshape(1, 1, 1, 2))
    windows = lambda a: a.reshape(3, 2, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(3, 2, 2, 4, 2)
    squares = np.take_along_axis(
        windows(np.sum(np.asarray(x) ** 2, axis=-1, keepdims=True).repeat(2, -1)),
        windows(sums).argmax(3)[:, :, :, None],
        axis=3,
    )[:, :, :, 0]
    exact = 2 * np.sum(squares * taken) / taken.size
    found = quantize.hessian_traces(graph, weights, [x], key=KEY, samples=150)["conv"]
    assert abs(found.mean - exact) < 4 * found.standard_error < exact


def test_the_damage_of_a_trace_is_its_mean_times_the_squared_perturbation():
    traces = {"fc1": Trace(6.0, 0.1), "fc2": Trace(-2.0, 0.1)}
    found = quantize.hessian_sensitivity(GRAPH, WEIGHTS, traces, bits=(2, 4))
    for bits in (2, 4):
        expected = 6 / 20 * np.sum((with_rounded("fc1", bits)["fc1"] - KERNELS["fc1"]) ** 2)
        np.testing.assert_allclose(found["fc1"][bits], expected, rtol=1e-5)
        assert found["fc2"][bits] == 0


TRACES = dict.fromkeys(WEIGHTS, Trace(1.0, 0.0))


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: quantize.sensitivity(GRAPH, WEIGHTS, BATCHES, bits=(4, 9)), "bits 9 is not an integer from 2 to 8"),
        (lambda: quantize.sensitivity(GRAPH, WEIGHTS, []), "there are no batches"),
        (lambda: quantize.sensitivity(GRAPH, WEIGHTS, BATCHES, granularity="row"), "granularity 'row'"),
        (lambda: quantize.sensitivity(GRAPH, WEIGHTS, BATCHES, loss=cross_entropy), "a loss needs labels"),
        (lambda: quantize.hessian_traces(GRAPH, WEIGHTS, BATCHES, key=KEY, samples=0), "samples 0 must be at least 1"),
        (lambda: quantize.hessian_traces(GRAPH, WEIGHTS, [], key=KEY), "there are no batches"),
        (lambda: quantize.hessian_sensitivity(GRAPH, WEIGHTS, TRACES, bits=(1,)), "bits 1 is not"),
        (lambda: quantize.hessian_sensitivity(GRAPH, WEIGHTS, {"fc1": Trace(1.0, 0.0)}), "no trace for fc2"),
    ],
)
def test_what_cannot_be_measured_is_refused(use, message):
    with pytest.raises(ValueError, match=message):
        use()


def test_kernels_that_are_not_finite_are_refused():
    broken = WEIGHTS | {"fc2": WEIGHTS["fc2"] | {"kernel": WEIGHTS["fc2"]["kernel"].at[0, 0].set(jnp.inf)}}
    for use in (
        lambda: quantize.sensitivity(GRAPH, broken, BATCHES),
        lambda: quantize.hessian_traces(GRAPH, broken, BATCHES, key=KEY),
        lambda: quantize.hessian_sensitivity(GRAPH, broken, TRACES),
    ):
        with pytest.raises(ValueError, match="fc2/kernel holds NaN or infinity"):
            use()
