"""From a compressed model to a TFLite file, by jax2tf."""

import os
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from jaxcompress.arrays import LowRank, dense, is_compressed
from jaxcompress.export.files import write_whole
from jaxcompress.export.litert import Model
from jaxcompress.paths import Params

Format = Literal["float32", "float16", "dynamic-int8"]

# How far a file may be from JAX's output on the example, relative to the largest.
_TOLERANCES: dict[Format, float] = {"float32": 1e-3, "float16": 1e-2, "dynamic-int8": 0.1}


def tflite(
    apply: Callable[[Params, jax.Array], jax.Array],
    params: Params,
    example: jax.Array,
    path: str | os.PathLike[str],
    *,
    format: Format = "float32",
) -> int:
    """Writes ``apply(params, example)`` as a TFLite file and returns its size in bytes.

    `apply` is lifted; `example` gives the input's shape and dtype, its batch size included: use 1, since a dynamic
    batch costs fused operations. Factors stay thin operations, and pruned or shared weights cost as much as dense ones.

    ``float32`` and ``float16`` say how weights are stored; both compute in float32. ``dynamic-int8`` stores the larger
    weights as int8, with scales of the converter's own, and quantizes the inputs of their operations as they come; the
    rest is float32. For integers throughout, and with the scales that were trained, see `jaxcompress.export.integers`.
    Before the file is written it is run on `example` and held to JAX's output: shape, and values to 1e-3 of the largest
    (float16 1e-2, dynamic-int8 0.1).

    Raises ValueError for an unknown format, ImportError (naming the extra) without TensorFlow, and RuntimeError if the
    file does not compute what JAX does.
    """
    if format not in _TOLERANCES:
        raise ValueError(f"format {format!r} is not one of {', '.join(map(repr, _TOLERANCES))}")
    data = _convert(apply, jax.tree.map(_as_run, params, is_leaf=is_compressed), example, format)
    expected = np.asarray(apply(params, example))
    _verify(Model(data)(np.asarray(example)), expected, _TOLERANCES[format])
    write_whole(pathlib.Path(path), data)
    return len(data)


def _as_run(leaf: Any) -> Any:
    """Returns a leaf as the runtime will hold it: floats, but in factors where the leaf is factored."""
    if isinstance(leaf, LowRank):
        return leaf.map_arrays(lambda _, factor: dense(factor))
    return dense(leaf)


def _convert(apply: Callable[..., jax.Array], params: Params, example: jax.Array, format: Format) -> bytes:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow reads it once, while it is imported
    try:
        import tensorflow as tf
        from jax.experimental import jax2tf
    except ImportError as error:
        raise ImportError("TFLite export needs TensorFlow: pip install 'jaxcompress[tflite]'") from error
    tf.get_logger().setLevel("ERROR")
    signature = tf.TensorSpec(example.shape, tf.as_dtype(np.dtype(example.dtype)), name="input")
    function = tf.function(
        jax2tf.convert(lambda x: apply(params, x), with_gradient=False), autograph=False, input_signature=[signature]
    )
    module = tf.Module()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], module)
    if format != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if format == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def _verify(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    if found.shape != expected.shape:
        raise RuntimeError(
            f"the TFLite model returns shape {found.shape}, JAX returns {expected.shape}; nothing written"
        )
    difference = float(np.max(np.abs(found - expected)))
    if not difference <= tolerance * max(1.0, float(np.max(np.abs(expected)))):
        raise RuntimeError(f"the TFLite model differs from JAX by {difference:g} on the example; nothing written")
