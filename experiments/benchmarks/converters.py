"""The converters that others use, from a function of JAX to a TFLite file; they are imported when called."""

import contextlib
import io
import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

Apply = Callable[[jax.Array], jax.Array]


def float32(apply: Apply, example: np.ndarray) -> bytes:
    """Converts a function to floats, for inputs of the shape of `example`."""
    return _converter(apply, example).convert()


def stock(apply: Apply, images: np.ndarray) -> bytes:
    """Converts a function to int8 throughout, with ranges that TensorFlow observes on `images`, one at a time."""
    import tensorflow as tf  # pyright: ignore[reportMissingImports]

    converter = _converter(apply, images[:1])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([images[i : i + 1]] for i in range(len(images)))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def edge(apply: Apply, images: np.ndarray) -> bytes:
    """Converts a function to floats and then, by ai-edge-quantizer, to int8 with ranges observed on `images`."""
    from ai_edge_quantizer import quantizer, recipe  # pyright: ignore[reportMissingImports]

    made = quantizer.Quantizer(bytearray(float32(apply, images[:1])), recipe.static_wi8_ai8())
    samples: dict[str, Iterable[Any]] = {_SIGNATURE: [{_INPUT: images[i : i + 1]} for i in range(len(images))]}
    with contextlib.redirect_stderr(io.StringIO()):  # a bar of progress that cannot be turned off
        ranges = made.calibrate(samples, num_threads=os.cpu_count() or 1)
    content = made.quantize(ranges, enable_progress_report=False).quantized_model
    assert content is not None
    return bytes(content)


def outputs(content: bytes, images: np.ndarray) -> np.ndarray:
    """Runs a TFLite file of a batch of one in LiteRT, from reals to reals by the scales that the file itself has."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for i in range(len(images)):
        interpreter.set_tensor(given["index"], _encoded(images[i : i + 1], given))
        interpreter.invoke()
        found.append(_decoded(interpreter.get_tensor(made["index"]), made))
    return np.concatenate(found)


_SIGNATURE, _INPUT = "serving_default", "input"


def _converter(apply: Apply, example: np.ndarray) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow reads it once, while it is imported
    import tensorflow as tf  # pyright: ignore[reportMissingImports]
    from jax.experimental import jax2tf

    tf.get_logger().setLevel("ERROR")
    function = tf.function(
        jax2tf.convert(apply, with_gradient=False),
        autograph=False,
        input_signature=[tf.TensorSpec(example.shape, tf.float32, name=_INPUT)],
    )
    return tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())


def _encoded(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    scale, zero_point = tensor["quantization"]
    if tensor["dtype"] == np.float32:
        return values
    return np.clip(np.round(values / np.float32(scale)) + zero_point, -128, 127).astype(np.int8)


def _decoded(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    scale, zero_point = tensor["quantization"]
    return values if tensor["dtype"] == np.float32 else (values.astype(np.float32) - zero_point) * np.float32(scale)
