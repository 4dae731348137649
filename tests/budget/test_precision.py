"""Bits of layers: their bytes by hand, and the choice within a budget."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import quantize
from jaxcompress.arrays import Quantized
from jaxcompress.budget import layer_bytes, mixed_precision
from jaxcompress.interpreters.graph import Graph, Node
from tests.graphs import DEPTHWISE, chain, inputs, layers

GROUPED = Node("depthwise", "convolution", ("input",), (1, 8, 8, 4), window=DEPTHWISE)
DENSE = Node("fc", "dense", ("input",), (1, 5))
KERNELS = layers({"depthwise": (3, 3, 1, 4), "fc": (7, 5)})


@pytest.mark.parametrize(
    ("bits", "granularity", "stored", "expected"),
    [
        (8, "channel", "exact", 35 + 4 * 10),
        (4, "channel", "exact", 18 + 4 * 10),  # 140 bits
        (3, "channel", "exact", 14 + 4 * 10),  # 105 bits
        (3, "tensor", "exact", 14 + 4 * 6),
        (3, "channel", "litert", 18 + 4 * 10),
        (5, "channel", "litert", 35 + 4 * 10),
    ],
)
def test_bytes_of_a_layer_by_hand(bits, granularity, stored, expected):
    assert layer_bytes(DENSE, KERNELS["fc"], bits, granularity, stored) == expected


def test_grouped_kernels_have_eight_bits_on_the_device():
    sizes = [layer_bytes(GROUPED, KERNELS["depthwise"], 4, stored=stored) for stored in ("exact", "litert")]
    assert sizes == [18 + 32, 36 + 32]


def damages_of(*of_four):
    return {f"fc{i + 1}": {4: damage, 8: 0.0} for i, damage in enumerate(of_four)}


def test_layers_that_suffer_most_for_their_size_keep_their_bits():
    graph, weights = chain(8, 6, 4, 2)  # 48, 24 and 8 weights, biases and scales 96 bytes
    table = damages_of(1.2, 0.9, 0.1)
    assert set(mixed_precision(graph, weights, table, 80 + 96).values()) == {8}
    assert set(mixed_precision(graph, weights, table, 40 + 96).values()) == {4}
    # 24 bytes more are the first layer's, or 16 the other two's.
    assert mixed_precision(graph, weights, table, 63 + 96) == {"fc1": 4, "fc2": 8, "fc3": 8}
    assert mixed_precision(graph, weights, table, 64 + 96) == {"fc1": 8, "fc2": 4, "fc3": 4}


@pytest.mark.slow
def test_the_bits_found_are_what_post_training_takes():
    graph, weights = chain(8, 6, 4, 2)
    batches = [inputs(graph)]
    table = quantize.sensitivity(graph, weights, batches, bits=(2, 4, 8))
    found = mixed_precision(graph, weights, table, 130, (2, 4, 8))
    grids = quantize.calibrate(graph, weights, batches)
    rounded = quantize.post_training(graph, weights, grids, batches, bits=found)
    sizes = 0
    for name, layer in rounded.items():
        leaf = layer["kernel"]
        assert isinstance(leaf, Quantized) and leaf.bits == found[name]
        assert int(jnp.abs(leaf.codes).max()) < 2 ** (found[name] - 1)
        sizes += -(-leaf.bits * leaf.size // 8) + leaf.scale.nbytes + layer["bias"].nbytes
    assert 116 <= sizes <= 130 and len(set(found.values())) > 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"budget_bytes": 100}, "a budget of 100 does not suffice; the cheapest levels cost 136"),
        ({"bits": (2, 4)}, "no sensitivity for 2 bits of fc1, fc2, fc3"),
        ({"bits": (4, 16)}, "bits 16 is not an integer from 2 to 8"),
        ({"sensitivities": damages_of(1.0, 2.0)}, "no sensitivity for fc3; every layer needs one: fc1, fc2, fc3"),
        ({"sensitivities": damages_of(1.0, 2.0, 3.0, 4.0)}, r"'fc4', which is no layer \(did you mean 'fc[123]'"),
        ({"sensitivities": damages_of(1.0, np.nan, 3.0)}, "are not finite"),
        ({"granularity": "row"}, "granularity 'row' is not one of tensor, channel"),
        ({"stored": "zip"}, "stored 'zip' is not one of exact, litert"),
    ],
)
def test_what_cannot_be_allocated_is_refused(changed, message):
    graph, weights = chain(8, 6, 4, 2)
    arguments = {"sensitivities": damages_of(1.0, 2.0, 3.0), "budget_bytes": 200}
    with pytest.raises(ValueError, match=message):
        mixed_precision(graph, weights, **{**arguments, **changed})


def test_layers_of_a_graph_without_weights_have_no_bits():
    graph = Graph((Node("relu", "relu", ("input",), (1, 3)),), (1, 3), "relu")
    assert mixed_precision(graph, {}, {}, 0) == {}
