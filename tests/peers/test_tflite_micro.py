"""Checks the memory that tflite-micro takes, and the reasons why it takes none."""

import numpy as np
import pytest

from jaxcompress.export import litert, micro, writer
from jaxcompress.interpreters.integers import Layer
from tests.nets import grid, layer_model

pytest.importorskip("tflite_micro", reason="pip install 'jaxcompress[peers]'")


def model(inputs=100, outputs=50, bits=8):
    kernel = np.zeros((inputs, outputs), np.int8)
    layer = Layer(kernel, np.full(outputs, 0.1, np.float32), np.zeros(outputs, np.int32), bits)
    return layer_model(layer, grid(0.1), grid(0.1), (1, inputs))


def test_activations_and_structures_are_counted():
    small, large = (micro.arena(writer.to_bytes(model(1600, outputs))) for outputs in (160, 1600))
    assert small.reason == "" and small.bytes > 1600 + 160
    assert large.bytes - small.bytes == 1440  # the weights stay in the file


def test_a_file_is_read_from_its_path_too(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(writer.to_bytes(model()))
    assert micro.arena(path) == micro.arena(path.read_bytes())
    assert micro.arena(path).bytes > litert.arena(path)


@pytest.mark.parametrize("data", [b"no flatbuffer", b""])
def test_a_model_that_it_does_not_load_has_a_reason(data):
    found = micro.arena(data)
    assert found.bytes is None
    assert found.reason.startswith("tflite-micro does not load it: ") and "Traceback" not in found.reason
