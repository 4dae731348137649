"""A PostTraining stage does what its configuration says, by the methods of the library."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxcompress as jc
from experiments import config, post_training, runs
from jaxcompress.interpreters.integers import decode, encode
from tests.experiments.test_runs import DENSE

pytestmark = pytest.mark.usefixtures("promotion")


@pytest.fixture(scope="module")
def rounded(tmp_path_factory):
    """Returns ``rounded(**fields)`` of a PostTraining stage on top of a trained perceptron."""
    settings = runs.Settings(tmp_path_factory.getbasetemp() / "shared" / "runs", None, "disabled")
    data, params = runs.dataset(DENSE.data, None), runs.run(DENSE, settings).params()

    def made(**fields):
        stage = config.PostTraining("q", examples=100, **fields)
        return post_training.rounded(replace(DENSE, stages=(*DENSE.stages, stage)), data, params)

    return made


def bits(found):
    return {name: int(layer["kernel"].bits) for name, layer in found.rounded.items()}


def same(one, other):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


@pytest.mark.parametrize("prepare", ["equalize", "smoothquant", "awq"])
def test_weights_are_prepared_and_compute_what_they_did(rounded, prepare):
    plain, found = rounded(), rounded(prepare=(prepare,), bits=4)
    (x, *_) = plain.batches
    before, after = plain.graph(plain.weights, x), found.graph(found.weights, x)
    np.testing.assert_allclose(after, before, atol=1e-4)
    assert not same(found.weights, plain.weights)


def test_biases_are_absorbed_as_the_library_does(rounded):
    plain = rounded()
    # Channels that are hardly ever zero, so that there is something to move.
    weights = plain.weights | {"fc1": plain.weights["fc1"] | {"bias": plain.weights["fc1"]["bias"] + 20.0}}
    stage = config.PostTraining("q")
    _, found = post_training._prepared("absorb-bias", plain.graph, weights, plain.batches, stage)
    moments = jc.quantize.moments(plain.graph, weights, plain.batches)
    assert same(found, jc.quantize.absorb_bias(plain.graph, weights, moments).weights) and not same(found, weights)


def test_a_clipped_relu_is_one_no_more(rounded):
    plain = rounded()
    nodes = tuple(replace(n, activation="relu6" if n.activation else None) for n in plain.graph.nodes)
    clipped, stage = replace(plain.graph, nodes=nodes), config.PostTraining("q")
    graph, _ = post_training._prepared("without-relu6", clipped, plain.weights, [], stage)
    assert clipped != graph == plain.graph


def test_a_budget_gives_each_layer_its_bits(rounded):
    whole = rounded(bits=8)
    assert set(bits(whole).values()) == {8}
    sizes = {
        number: sum(
            jc.budget.layer_bytes(node, whole.weights[node.name], number, stored="litert")
            for node in whole.graph.nodes
            if node.name in whole.weights
        )
        for number in (4, 8)
    }
    assert set(bits(rounded(budget=sizes[8])).values()) == {8}
    assert set(bits(rounded(budget=sizes[4])).values()) == {4}
    assert set(bits(rounded(budget=sizes[8] - 1)).values()) == {4, 8}
    with pytest.raises(ValueError, match=f"{sizes[4]}"):
        rounded(budget=sizes[4] - 1)


@pytest.mark.parametrize("how", ["analytic", "empirical"])
def test_correction_brings_the_mean_output_nearer(rounded, how):
    def shift(found):
        device = found.integers()
        codes = jc.integers(device)(encode(found.batches[0], device.grids["input"]))
        reals = decode(codes, device.grids[device.graph.output])
        return np.abs(np.mean(reals - found.graph(found.weights, found.batches[0]), 0)).mean()

    assert shift(rounded(bits=2, correct_bias=how)) < 0.5 * shift(rounded(bits=2))


def test_blocks_are_reconstructed(rounded):
    nearest, found = rounded(bits=3), rounded(bits=3, rounding="brecq")
    assert set(bits(found).values()) == {3}
    assert found.report().rows[-1].accumulated.sqnr > nearest.report().rows[-1].accumulated.sqnr


@pytest.mark.parametrize("change", [{"prepare": ("equalize",)}, {"budget": 10**6}, {"correct_bias": "analytic"}])
def test_what_was_trained_stays(change):
    with pytest.raises(ValueError, match="rounding 'trained' keeps them"):
        config.PostTraining("q", rounding="trained", **change)
