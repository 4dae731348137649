"""Checks trained ranges by hand, what shares them, their sweeps over bits, and the grids that they become."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import combine, partition, quantize
from jaxcompress.export.packed import from_bytes, to_bytes
from jaxcompress.interpreters.graph import operate
from jaxcompress.quantize import quantizers
from jaxcompress.quantize.activations import on_grid
from tests.quantize.test_activations import BATCHES, SHAPE, dense_net, drawn, small_net

EVERY = {"lsq": quantizers.lsq, "lsq_plus": quantizers.lsq_plus, "pact": quantizers.pact, "dorefa": quantizers.dorefa}
every_quantizer = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
VALUES = jnp.abs(drawn(8, 5, seed=3))


# By hand


def test_lsq_by_hand():
    of = quantizers.lsq(2).init(jnp.array([[1.0, 3.0], [0.0, 2.0]]))
    np.testing.assert_allclose(of["step"], 2 * 1.5 / np.sqrt(3), rtol=1e-6)  # unsigned: Q_P is 3
    assert not of["signed"]
    apply = quantizers.lsq(2).apply
    of = {"step": jnp.float32(1.0), "signed": jnp.array(False), "bits": jnp.int32(2)}
    assert apply(of, jnp.array([[-1.0, 0.4, 1.6, 9.0]])).tolist() == [[0, 0, 2, 3]]
    of["signed"] = jnp.array(True)
    assert apply(of, jnp.array([[-9.0, 0.4, 1.6, 0.6]])).tolist() == [[-2, 0, 1, 1]]


def test_lsq_scales_the_gradient_of_a_step_by_features_not_by_the_batch():
    of = {"step": jnp.float32(1.0), "signed": jnp.array(False), "bits": jnp.int32(2)}

    def gradient(values):
        return jax.grad(lambda step: jnp.sum(quantizers.lsq(2).apply({**of, "step": step}, values)))(of["step"])

    row = jnp.array([[0.25, 1.25, 9.0, 0.0]])  # slopes -0.25, -0.25, 3, 0; N is 4, Q_P 3
    np.testing.assert_allclose(gradient(row), 2.5 / np.sqrt(12), rtol=1e-6)
    np.testing.assert_allclose(gradient(jnp.concatenate([row, row])), 5 / np.sqrt(12), rtol=1e-6)


def test_pact_by_hand():
    of = quantizers.pact(2).init(jnp.array([[0.5, 6.0]]))
    assert of["alpha"] == 6 and quantizers.pact(2).init(jnp.zeros((1, 2)))["alpha"] == 1
    assert quantizers.pact(2).apply(of, jnp.array([[-1.0, 0.9, 3.2, 7.0]])).tolist() == [[0, 0, 4, 6]]


def test_dorefa_by_hand():
    of = quantizers.dorefa(1).init(VALUES)
    assert quantizers.dorefa(1).apply(of, jnp.array([[-1.0, 0.4, 0.6, 7.0]])).tolist() == [[0, 0, 1, 1]]


def test_lsq_plus_has_an_offset():
    values = jnp.array([[-1.0, 0.0, 1.0, 2.0]])
    of = quantizers.lsq_plus(2).init(values)
    np.testing.assert_allclose([of["step"], of["offset"]], [1, -1], rtol=1e-6)
    np.testing.assert_allclose(quantizers.lsq_plus(2).apply(of, values + 0.3), values, atol=1e-6)


# In a graph


def test_ranges_are_of_the_matching_tensors_that_share_none():
    graph, weights = small_net()
    ranges = quantize.train_ranges(graph, weights, BATCHES[0], quantizers.lsq(4), "stem|add")
    assert sorted(ranges) == ["add", "stem"]
    assert ranges["add"]["signed"] and not ranges["stem"]["signed"]
    values = np.concatenate([np.asarray(graph.values(_operate(weights), BATCHES[0])[n]).reshape(-1) for n in SHARED])
    np.testing.assert_allclose(ranges["stem"]["step"], 2 * np.abs(values).mean() / np.sqrt(15), rtol=1e-5)


SHARED = ("stem", "max", "average", "both")


def _operate(weights):
    return lambda node, inputs: operate(node, weights.get(node.name, {}), inputs)


@every_quantizer
def test_a_graph_rounds_where_ranges_are(make):
    graph, weights = small_net()
    quantizer = make(3)
    ranges = quantize.train_ranges(graph, weights, BATCHES[0], quantizer, "stem")
    out = quantize.with_ranges(graph, weights, ranges, quantizer)(BATCHES[0])

    def step(node, inputs):
        value = _operate(weights)(node, inputs)
        return quantizer.apply(ranges["stem"], value) if node.name in SHARED else value

    np.testing.assert_allclose(out, graph.run(step, BATCHES[0]), rtol=1e-6)
    assert not np.allclose(out, graph(weights, BATCHES[0]), rtol=1e-3)
    np.testing.assert_array_equal(
        quantize.with_ranges(graph, weights, {}, quantizer)(BATCHES[0]), graph(weights, BATCHES[0])
    )


@every_quantizer
def test_ranges_are_trained_beside_the_weights_and_bits_are_not(make):
    graph, weights = small_net()
    quantizer = make(4)
    tree = {"weights": weights, "ranges": quantize.train_ranges(graph, weights, BATCHES[0], quantizer, "stem")}
    trained, fixed = partition(tree)
    assert trained["ranges"]["stem"]["bits"] is None and fixed["ranges"]["stem"]["bits"] == 4

    def loss(trained):
        tree = combine(trained, fixed)
        return jnp.mean(quantize.with_ranges(graph, tree["weights"], tree["ranges"], quantizer)(BATCHES[0]) ** 2)

    before, grads = jax.value_and_grad(loss)(trained)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(grads))
    after = loss(optax.apply_updates(trained, jax.tree.map(lambda g: -0.01 * g, grads)))
    assert after < before
    restored = from_bytes(to_bytes(tree))
    np.testing.assert_array_equal(restored["ranges"]["stem"]["bits"], 4)


@every_quantizer
def test_a_sweep_over_bits_is_one_program(make):
    graph, weights = small_net()

    def run(bits):
        ranges = quantize.train_ranges(graph, weights, BATCHES[0], make(bits), "stem")
        return quantize.with_ranges(graph, weights, ranges, make(bits))(BATCHES[0])

    together = jax.jit(jax.vmap(run))(jnp.array([2, 3, 8]))
    for bits, found in zip((2, 3, 8), together, strict=True):
        # The range may differ in its last bit, by which a value next to a half goes to the other side.
        np.testing.assert_allclose(found, run(bits), atol=0.02)


# Grids


@every_quantizer
@pytest.mark.parametrize("bits", [2, 8])
def test_a_grid_rounds_as_its_range(make, bits):
    quantizer = make(bits)
    values = jnp.concatenate([VALUES, VALUES * 3]) - (0.9 if make in (quantizers.lsq, quantizers.lsq_plus) else 0.0)
    of = quantizer.init(values)
    found, expected = np.asarray(on_grid(values, quantizer.grid(of))), np.asarray(quantizer.apply(of, values))
    step = float(quantizer.grid(of).scale)
    off = step if make is quantizers.lsq_plus else 1e-3 * step  # its offset moves to a whole zero point
    assert np.abs(found - expected).max() <= off


def test_eight_bits_go_to_the_device():
    graph, weights = small_net()
    quantizer = quantizers.lsq(8)
    weights = quantize.weights(".*/kernel", 8).init(weights)
    ranges = quantize.train_ranges(graph, weights, BATCHES[0], quantizer)
    assert set(quantize.grids_of(graph, ranges, quantizer)) == {"input", *(node.name for node in graph.nodes)}
    grids = quantize.calibrate(graph, weights, BATCHES)
    grids |= quantize.grids_of(graph, quantize.train_ranges(graph, weights, BATCHES[0], quantizer, "stem"), quantizer)
    assert grids["stem"] == grids["both"] == quantizer.grid(ranges["stem"])
    x = drawn(50, *SHAPE[1:], seed=7)
    close = quantize.on_device(graph, weights, grids)(x)
    np.testing.assert_allclose(close, quantize.fake_quantized(graph, weights, grids)(x), atol=3 * grids["head"].scale)


# Errors


@every_quantizer
@pytest.mark.parametrize("bits", [0, 9, 2.5, -1])
def test_bits_out_of_range_are_refused(make, bits):
    with pytest.raises(ValueError, match=f"bits {bits} of .* is not an integer from"):
        make(bits)


@pytest.mark.parametrize("make", [quantizers.pact, quantizers.dorefa])
def test_negative_values_are_refused_where_clipping_starts_at_zero(make):
    graph, weights = dense_net(drawn(3, 2))
    with pytest.raises(ValueError, match="tensor fc: .* clips at zero, and the values go down to -"):
        quantize.train_ranges(graph, weights, drawn(9, 3), make(4), "fc")


def test_a_pattern_without_a_match_lists_the_tensors():
    graph, weights = dense_net(drawn(3, 2))
    with pytest.raises(ValueError, match="matches no parameter.*\n  fc\n  input"):
        quantize.train_ranges(graph, weights, drawn(9, 3), quantizers.lsq(4), "conv")


def test_a_range_of_no_tensor_is_named():
    graph, weights = dense_net(drawn(3, 2))
    with pytest.raises(ValueError, match="there are no tensors conv; there are fc, input"):
        quantize.with_ranges(graph, weights, {"conv": {}}, quantizers.lsq(4))


def test_an_offset_that_no_zero_point_meets_is_refused():
    of = {"step": jnp.float32(0.1), "offset": jnp.float32(5.0), "bits": jnp.int32(8)}
    with pytest.raises(ValueError, match="offset 5 leaves zero out of 256 steps"):
        quantizers.lsq_plus(8).grid(of)
