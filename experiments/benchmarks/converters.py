"""The converters that others use, from a function of JAX to a TFLite file, and what their files compute."""

import contextlib
import io
import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxcompress.export.litert import Model
from jaxcompress.export.tflite import convert
from jaxcompress.paths import Params

Apply = Callable[[Params, jax.Array], jax.Array]


def float32(apply: Apply, params: Params, images: np.ndarray) -> bytes:
    """Converts a function to floats by jax2tf, for one image at a time."""
    return convert(apply, params, jax.numpy.asarray(images[:1]))


def stock(apply: Apply, params: Params, images: np.ndarray) -> bytes:
    """Converts a function to int8 throughout by TensorFlow, with the ranges that it observes on `images`."""
    return convert(apply, params, jax.numpy.asarray(images[:1]), "int8-converter", [images])


def edge(apply: Apply, params: Params, images: np.ndarray) -> bytes:
    """Converts a function to floats and then, by ai-edge-quantizer, to int8 with ranges observed on `images`."""
    from ai_edge_quantizer import quantizer, recipe  # pyright: ignore[reportMissingImports]

    made = quantizer.Quantizer(bytearray(float32(apply, params, images)), recipe.static_wi8_ai8())
    one_by_one = [{"input": images[i : i + 1]} for i in range(len(images))]
    samples: dict[str, Iterable[Any]] = {"serving_default": one_by_one}
    with contextlib.redirect_stderr(io.StringIO()):  # a bar of progress that cannot be turned off
        ranges = made.calibrate(samples, num_threads=os.cpu_count() or 1)
    content = made.quantize(ranges, enable_progress_report=False).quantized_model
    assert content is not None
    return bytes(content)


def outputs(content: bytes, images: np.ndarray) -> np.ndarray:
    """Runs a TFLite file of a batch of one in LiteRT, from reals to reals by the scales that the file itself has."""
    model = Model(content)
    return np.concatenate([model.reals(images[i : i + 1]) for i in range(len(images))])
