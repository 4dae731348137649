"""Rounding blocks jointly: AdaRound's own objective and codes for one layer, Fisher weights by hand, better outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import quantize
from jaxcompress.arrays import Masked, Quantized, dense
from jaxcompress.interpreters.graph import operate
from jaxcompress.numerics import adaround
from jaxcompress.quantize.activations import fake_quantized_values, on_grid
from jaxcompress.quantize.blocks import blocks
from jaxcompress.quantize.reconstruction import block_of_kernels, fisher
from tests.graphs import chain, drawn, inputs, residual

KEY = jax.random.key(0)
QUICK = {"steps": 250, "learning_rate": 0.05, "key": KEY}


def cross_entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]


def calibrated(net):
    graph, weights = net
    x = inputs(graph)
    batches = [x[:12], x[12:]]
    return graph, weights, quantize.calibrate(graph, weights, batches), batches


RESIDUAL, CHAIN, SINGLE = (calibrated(net) for net in (residual(), chain(9, 7, 3), chain(12, 3)))
LABELS = [jnp.arange(12) % 3, jnp.arange(12) % 3]
BITS = {"stem": 3, "first": 2, "second": 4, "short": 3, "head": 3}


def test_the_objective_of_a_layer_alone_is_that_of_adaround():
    graph, weights, grids, batches = RESIDUAL
    stem = blocks(graph, weights)[0]
    kernel, bias = weights["stem"]["kernel"], weights["stem"]["bias"]
    x = on_grid(batches[0], grids["input"])
    scale, logits = jnp.full((1, 1, 1, 4), 0.1), drawn(*kernel.shape, seed=7, scale=2.0)
    rest = (x, stem.graph(weights, batches[0]))

    def layer(kernel, inputs):
        return operate(graph.node("stem"), {"kernel": kernel, "bias": bias}, [inputs])

    at = (4, True, 5.0, 0.1)
    alone = adaround.objective(logits, kernel, layer, *rest, scale, jnp.zeros_like(scale), *at)
    trees = ({"stem": leaf} for leaf in (logits, kernel, scale, jnp.zeros_like(scale)))
    logits, kernel, scale, zero = trees
    block = block_of_kernels(stem, weights, grids)
    joint = adaround.objective(logits, kernel, block, *rest, scale, zero, {"stem": 4}, *at[1:])
    np.testing.assert_allclose(joint, alone, rtol=1e-6)
    exact = np.square(
        np.asarray(
            layer(adaround.soft_round(logits["stem"], kernel["stem"], scale["stem"], zero["stem"], 4, True), x)
            - rest[1],
            np.float64,
        )
    )
    h = np.clip(1.2 / (1 + np.exp(-np.asarray(logits["stem"], np.float64))) - 0.1, 0, 1)
    np.testing.assert_allclose(joint, exact.sum(-1).mean() + 0.1 * np.sum(1 - np.abs(2 * h - 1) ** 5), rtol=1e-5)


@pytest.mark.slow
def test_a_chain_of_single_layers_is_rounded_as_by_adaround():
    graph, weights, grids, batches = CHAIN
    ours = quantize.reconstruct(graph, weights, grids, batches, bits=3, **{**QUICK, "learning_rate": 1e-3})
    theirs = quantize.post_training(
        graph, weights, grids, batches, bits=3, rounding="adaround", steps=QUICK["steps"], key=KEY
    )
    for name in weights:
        np.testing.assert_array_equal(ours[name]["kernel"].codes, theirs[name]["kernel"].codes, err_msg=name)
        np.testing.assert_array_equal(ours[name]["kernel"].scale, theirs[name]["kernel"].scale)


def test_a_block_rounds_all_tensors_but_the_one_that_it_makes():
    graph, weights, grids, batches = RESIDUAL
    block = blocks(graph, weights)[2]
    x = on_grid(jnp.abs(drawn(4, 4, 4, 4)), grids["pool"])
    found = block_of_kernels(block, weights, grids)({n: weights[n]["kernel"] for n in block.layers}, x)
    first = on_grid(operate(graph.node("first"), weights["first"], [x]), grids["first"])
    second = on_grid(operate(graph.node("second"), weights["second"], [first]), grids["second"])
    short = on_grid(operate(graph.node("short"), weights["short"], [x]), grids["short"])
    np.testing.assert_allclose(found, jnp.maximum(second + short, 0), atol=1e-6)
    assert np.any(on_grid(found, grids["sum"]) != found)


WEIGHTED = pytest.param({"loss": cross_entropy, "labels": LABELS}, marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[{}, WEIGHTED], ids=["plain", "fisher"])
def rounded(request):
    graph, weights, grids, batches = RESIDUAL
    return quantize.reconstruct(graph, weights, grids, batches, bits=BITS, **QUICK, **request.param)


def error(net, rounded):
    graph, weights, grids, batches = net
    x = jnp.concatenate(batches)
    return float(jnp.mean((jax.jit(quantize.fake_quantized(graph, rounded, grids))(x) - graph(weights, x)) ** 2))


@pytest.mark.slow
def test_outputs_are_kept_better_than_by_rounding_to_nearest(rounded):
    assert error(RESIDUAL, rounded) < 0.7 * error(RESIDUAL, quantize.post_training(*RESIDUAL, bits=BITS))


def test_every_weight_goes_up_or_down_on_the_grid_of_post_training(rounded):
    graph, weights, grids, batches = RESIDUAL
    nearest = quantize.post_training(graph, weights, grids, batches, bits=BITS)
    assert rounded.keys() == weights.keys()
    for name, layer in rounded.items():
        kernel, original = layer["kernel"], np.asarray(weights[name]["kernel"])
        assert isinstance(kernel, Quantized) and kernel.bits == BITS[name]
        np.testing.assert_array_equal(kernel.scale, nearest[name]["kernel"].scale)
        largest = 2 ** (BITS[name] - 1) - 1
        position, codes = np.clip(original / np.asarray(kernel.scale), -largest, largest), np.asarray(kernel.codes)
        assert np.all((codes == np.floor(position)) | (codes == np.ceil(position)))
        np.testing.assert_array_equal(layer["bias"], weights[name]["bias"])


def test_what_is_rounded_makes_integers_of_a_device(rounded):
    graph, _, grids, _ = RESIDUAL
    device = quantize.to_integers(graph, rounded, grids)
    for name, layer in device.layers.items():
        np.testing.assert_array_equal(layer.kernel, rounded[name]["kernel"].codes)


def test_layers_of_a_chain_may_be_rounded_jointly():
    joint = quantize.reconstruct(*CHAIN, bits=3, granularity="tensor", layers=2, **QUICK)
    assert all(layer["kernel"].scale.size == 1 for layer in joint.values())
    assert error(CHAIN, joint) < error(CHAIN, quantize.post_training(*CHAIN, bits=3, granularity="tensor"))


def test_the_same_key_gives_the_same_codes_and_pruned_weights_stay_so():
    graph, weights, grids, batches = SINGLE
    mask = jax.random.bernoulli(KEY, 0.5, (12, 3))
    pruned = {"fc1": weights["fc1"] | {"kernel": Masked(weights["fc1"]["kernel"], mask)}}
    first, again = (quantize.reconstruct(graph, pruned, grids, batches, bits=3, **QUICK) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    codes = np.asarray(first["fc1"]["kernel"].codes)
    assert not codes[~np.asarray(mask)].any() and codes.any()


# Fisher information


def test_fisher_weights_of_a_chain_by_hand():
    graph, weights = chain(4, 3, 2)
    first, second = blocks(graph, weights)
    x, y = drawn(5, 4), drawn(5, 2, seed=1)
    z = first.graph(weights, x)
    squared = lambda outputs, targets: jnp.sum((outputs - targets) ** 2, axis=1) / 2
    kernel, bias = (np.asarray(weights["fc2"][name], np.float64) for name in ("kernel", "bias"))
    residue = np.asarray(z, np.float64) @ kernel + bias - np.asarray(y, np.float64)
    for after, outputs, gradient in (([second], z, residue @ kernel.T), ([], graph(weights, x), residue)):
        found = fisher(after, weights, [outputs[:2], outputs[2:]], squared, [y[:2], y[2:]])
        np.testing.assert_allclose(found, gradient**2 / np.mean(gradient**2), rtol=1e-4)


@pytest.mark.parametrize("unit", [1e-30, 1e-3, 1e30])
def test_fisher_weights_do_not_depend_on_the_unit_of_the_loss(unit):
    z, y = drawn(6, 3), jnp.arange(6) % 3
    loss = lambda z, y: cross_entropy(z, y) * jnp.float32(unit)
    found = fisher([], {}, [z], loss, [y])
    np.testing.assert_allclose(found, fisher([], {}, [z], cross_entropy, [y]), rtol=1e-4)
    np.testing.assert_allclose(jnp.mean(found), 1, rtol=1e-5)


def test_a_loss_without_gradients_weighs_all_alike():
    assert fisher([], {}, [drawn(4, 3)], lambda z, y: 0 * jnp.sum(z, 1), [jnp.zeros(4)]).tolist() == [[1.0] * 3] * 4


def test_gradients_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="gradient of the loss is not finite"):
        fisher([], {}, [jnp.zeros((4, 3))], lambda z, y: jnp.sum(jnp.sqrt(z), 1), [jnp.zeros(4)])


def test_only_outputs_that_the_loss_sees_are_kept():
    # The loss looks at the first output alone, so of the others nothing but the regulariser decides.
    graph, weights, grids, batches = SINGLE
    loss = lambda outputs, labels: outputs[:, 0] ** 2
    labels = [jnp.zeros(len(x)) for x in batches]
    rounded = quantize.reconstruct(graph, weights, grids, batches, bits=2, loss=loss, labels=labels, **QUICK)
    nearest = quantize.post_training(graph, weights, grids, batches, bits=2)
    x = jnp.concatenate(batches)
    errors = [
        np.mean((np.asarray(fake_quantized_values(graph, tree, grids, x)["fc1"] - graph(weights, x))) ** 2, axis=0)
        for tree in (rounded, nearest)
    ]
    assert errors[0][0] < 0.5 * errors[1][0]
    np.testing.assert_array_equal(dense(rounded["fc1"]["kernel"])[:, 1:], dense(nearest["fc1"]["kernel"])[:, 1:])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bits": 9}, "bits 9 is not an integer from 2 to 8"),
        ({"bits": {"fc1": 4}}, "no bits for fc2"),
        ({"granularity": "row"}, "granularity 'row' is not one of"),
        ({"layers": 0}, "layers 0 of a block"),
        ({"batches": []}, "there are no batches"),
        ({"labels": LABELS}, "labels need a loss"),
        ({"loss": cross_entropy, "labels": LABELS[:1]}, r"have \[12\] labels"),
        ({"grids": {}}, "the range of input, .* was never observed"),
        ({"steps": 0}, "steps 0"),
        ({"batches": [jnp.full((2, 9), jnp.nan)]}, "NaN"),
    ],
)
def test_what_cannot_be_reconstructed_is_refused(changed, message):
    graph, weights, grids, batches = CHAIN
    arguments = {"grids": grids, "batches": batches, **QUICK, **changed}
    with pytest.raises(ValueError, match=message):
        quantize.reconstruct(graph, weights, **arguments)


def test_kernels_that_are_not_finite_are_refused():
    graph, weights, grids, batches = SINGLE
    broken = {"fc1": weights["fc1"] | {"kernel": weights["fc1"]["kernel"].at[0, 0].set(jnp.nan)}}
    with pytest.raises(ValueError, match="fc1/kernel holds NaN"):
        quantize.reconstruct(graph, broken, grids, batches, **QUICK)
