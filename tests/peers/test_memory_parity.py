"""Holds the memory of activations to where LiteRT lays them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from experiments import build, config
from experiments.data import Dataset, Split
from jaxcompress.export import litert
from jaxcompress.export.tflite import convert

DIGIT, IMAGE = (1, 28, 28, 1), (1, 32, 32, 3)


@pytest.mark.parametrize(
    ("model", "shape", "convolutions"),
    [
        (config.MLP(), DIGIT, None),
        (config.LeNet5(), DIGIT, None),
        (config.LeNet5(relu=True), DIGIT, "conv2/kernel"),
        (config.ResNet8(), IMAGE, None),
        (config.ResNet8(), IMAGE, ".*conv./kernel"),
        (config.ResNet(depth=8), IMAGE, None),
        (config.ResNet(depth=8), IMAGE, ".*conv./kernel"),
    ],
)
def test_the_peak_is_the_arena_but_for_the_input_that_litert_keeps(model, shape, convolutions):
    one = Split(np.zeros(shape, np.uint8), np.zeros(1, np.int32))
    experiment = config.Experiment(config.Data(), model, (config.Stage("s", 1),))
    params = build.random_params(experiment, Dataset("none", one, one, one, 10), "init")
    logits, x = build.predictor(model, 10), jnp.zeros(shape)
    if convolutions is not None:
        rule = jc.factorize.ratio(0.2)
        params = jc.factorize.svd(convolutions, rule, split="spatial", always=True).init(params)
    expected = litert.arena(convert(logits, jc.pack(params), x))
    memory = jc.memory(logits, params, x)
    # The first operation reads the input, which is counted in it already.
    assert expected == max(memory[0], *(alive + x.nbytes for alive in memory[1:]))
    example = jax.ShapeDtypeStruct(shape, jnp.float32)
    assert jc.peak_memory(logits, params, example) == max(memory)
