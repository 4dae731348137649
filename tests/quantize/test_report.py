"""Checks the report of errors against float64 NumPy, and at its ends."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import quantize
from jaxcompress.arrays import dense
from jaxcompress.interpreters.graph import Graph, operate
from jaxcompress.quantize.activations import fake_quantized, on_grid
from jaxcompress.quantize.report import Distance, _distance, _sums
from tests.graphs import chain, inputs, residual
from tests.nets import grid


def exactly(original, changed):
    """SQNR and cosine as they are written in books, in float64."""
    x, q = (np.asarray(a, np.float64).reshape(-1) for a in (original, changed))
    return 10 * np.log10(np.sum(x**2) / np.sum((x - q) ** 2)), x @ q / (np.linalg.norm(x) * np.linalg.norm(q))


def assert_near(found, expected):
    np.testing.assert_allclose(found.sqnr, expected[0], atol=2e-3)
    np.testing.assert_allclose(1 - found.cosine, 1 - expected[1], rtol=2e-3, atol=1e-9)


@pytest.fixture(scope="module")
def rounded():
    graph, weights = residual()
    x = inputs(graph)
    grids = quantize.calibrate(graph, weights, [x])
    bits = {"stem": 8, "first": 4, "second": 3, "short": 6, "head": 2}
    return graph, weights, quantize.post_training(graph, weights, grids, [x], bits=bits), grids, [x[:16], x[16:]]


@pytest.fixture(scope="module")
def found(rounded):
    return quantize.report(*rounded)


def test_every_number_is_that_of_numpy(rounded, found):
    graph, weights, changed, grids, batches = rounded
    x = jnp.concatenate(batches)
    plain = graph.values(lambda node, values: operate(node, weights.get(node.name, {}), values), x)
    rows = found.rows
    assert [(row.layer, row.bits) for row in rows] == [
        ("stem", 8),
        ("first", 4),
        ("second", 3),
        ("short", 6),
        ("head", 2),
    ]
    for row in rows:
        node, (source,) = graph.node(row.layer), graph.node(row.layer).inputs
        assert_near(row.weight, exactly(weights[row.layer]["kernel"], dense(changed[row.layer]["kernel"])))
        unit = grids[source].scale * changed[row.layer]["kernel"].scale.reshape(-1)
        layer = changed[row.layer] | {"bias": jnp.round(changed[row.layer]["bias"] / unit) * unit}
        alone = on_grid(operate(node, layer, [on_grid(plain[source], grids[source])]), grids[row.layer])
        assert_near(row.alone, exactly(plain[row.layer], alone))
        until = Graph(graph.nodes, graph.input_shape, row.layer)
        assert_near(row.accumulated, exactly(plain[row.layer], fake_quantized(until, changed, grids)(x)))
    assert rows[0].alone == rows[0].accumulated  # nothing comes before the first layer
    assert rows[-1].accumulated.sqnr < rows[-1].alone.sqnr


def test_batches_may_be_cut_anyhow(rounded, found):
    *network, batches = rounded
    whole = quantize.report(*network, [jnp.concatenate(batches)])
    for a, b in zip(found.rows, whole.rows, strict=True):
        np.testing.assert_allclose(a.alone, b.alone, rtol=1e-4)
        np.testing.assert_allclose(a.accumulated, b.accumulated, rtol=1e-4)


def test_printed_it_is_a_line_for_each_layer(found):
    lines = str(found).splitlines()
    assert len(lines) == 2 + 5 and len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["layer", "bits", *["dB", "cosine"] * 3]
    name, bits, *numbers = lines[2].split()
    assert (name, bits) == ("stem", "8")
    row = found.rows[0]
    expected = [*row.weight, *row.alone, *row.accumulated]
    np.testing.assert_allclose([float(n) for n in numbers], expected, atol=0.0051)


def test_float_kernels_have_no_bits_and_no_error():
    graph, weights = chain(4, 3)
    x = inputs(graph)
    found = quantize.report(graph, weights, weights, quantize.calibrate(graph, weights, [x]), [x])
    (row,) = found.rows
    assert row.bits is None and row.weight == (math.inf, 1.0) and 20 < row.alone.sqnr < 60
    assert str(found).splitlines()[2].split()[:4] == ["fc1", "-", "inf", "1.00000"]


@pytest.mark.parametrize(
    ("original", "changed", "expected"),
    [
        ([3.0, 4.0], [3.0, 4.0], (math.inf, 1.0)),
        ([0.0, 0.0], [0.0, 0.0], (math.inf, 1.0)),
        ([0.0, 0.0], [0.0, 1.0], (-math.inf, 0.0)),
        ([3.0, 4.0], [0.0, 0.0], (0.0, 0.0)),
        ([3.0, 4.0], [-3.0, -4.0], (10 * math.log10(1 / 4), -1.0)),
        ([1.0, 0.0], [0.0, 1.0], (10 * math.log10(1 / 2), 0.0)),
        ([10.0, 0.0], [9.0, 0.0], (20.0, 1.0)),
    ],
)
def test_distances_by_hand(original, changed, expected):
    found = _distance(_sums(jnp.array(original), jnp.array(changed)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 10), st.floats(1e-10, 1e10))
def test_distances_of_any_size_are_those_of_numpy(seed, noise, unit):
    rng = np.random.default_rng(seed)
    x = np.float32(unit * rng.normal(size=50))
    q = np.float32(x + noise * unit * rng.normal(size=50))
    found = _distance(_sums(jnp.asarray(x), jnp.asarray(q)))
    assert isinstance(found, Distance) and -1 <= found.cosine <= 1
    np.testing.assert_allclose(found.sqnr, exactly(x, q)[0], atol=1e-3)
    np.testing.assert_allclose(found.cosine, exactly(x, q)[1], atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rounded": {}}, "no rounded weights for fc1"),
        ({"grids": {"input": grid(1.0)}}, "the range of fc1 was never observed"),
        ({"batches": []}, "there are no batches"),
    ],
)
def test_what_cannot_be_compared_is_refused(changed, message):
    graph, weights = chain(4, 3)
    arguments = {"rounded": weights, "grids": {"input": grid(1.0), "fc1": grid(1.0)}, "batches": [inputs(graph)]}
    with pytest.raises(ValueError, match=message):
        quantize.report(graph, weights, **{**arguments, **changed})
