"""From a compressed model to a TFLite file, by jax2tf."""

import os
import pathlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal

import jax
import numpy as np

from jaxcompress.arrays import Factored, Sliced, dense, is_compressed
from jaxcompress.export.files import write_whole
from jaxcompress.export.litert import Model, operators
from jaxcompress.paths import Params

Format = Literal["float32", "float16", "dynamic-int8", "int8-converter"]

# How far a file may be from JAX's output on the example, relative to the largest.
_TOLERANCES: dict[Format, float] = {"float32": 1e-3, "float16": 1e-2, "dynamic-int8": 0.1, "int8-converter": 0.25}


def tflite(
    apply: Callable[[Params, jax.Array], jax.Array],
    params: Params,
    example: jax.Array,
    path: str | os.PathLike[str],
    *,
    format: Format = "float32",
    representative: Iterable[Any] | None = None,
) -> int:
    """Writes ``apply(params, example)`` as a TFLite file and returns its size in bytes.

    `apply` is lifted; `example` gives the input's shape and dtype, its batch size included: use 1, since a dynamic
    batch costs fused operations. Factors stay thin operations, removed channels are not written, and masked or shared
    weights cost as much as dense ones.

    ``float32`` and ``float16`` say how weights are stored; both compute in float32. ``dynamic-int8`` stores the larger
    weights as int8, with scales of the converter's own, and quantizes the inputs of their operations as they come; the
    rest is float32. ``int8-converter`` is TensorFlow's post-training quantization: int8 throughout, inputs and outputs
    included, rounded to nearest in the ranges that the converter observes on `representative`, batches of inputs. It
    writes a mean as a SUM, which LiteRT's reference kernels compute wrongly in int8; its default kernels do not. For
    integers with the scales that were trained, equal to those evaluated in JAX, see `jaxcompress.export.integers`.

    Before the file is written it is run on `example` and held to JAX's output: shape, and values to 1e-3 of the largest
    (float16 1e-2, dynamic-int8 0.1, int8-converter 0.25); of int8-converter no operator may have a float.

    Raises ValueError for an unknown format and for batches that are missing, of other shapes or not asked for,
    ImportError (naming the extra) without TensorFlow, and RuntimeError, writing nothing, if the file is not as said.
    """
    data = convert(apply, params, example, format, representative)
    if format == "int8-converter":
        _hold_integers(data)
    found = Model(data).reals(np.asarray(example))
    _hold_outputs(found, np.asarray(apply(params, example)), _TOLERANCES[format])
    write_whole(pathlib.Path(path), data)
    return len(data)


def convert(
    apply: Callable[[Params, jax.Array], jax.Array],
    params: Params,
    example: jax.Array,
    format: Format = "float32",
    representative: Iterable[Any] | None = None,
) -> bytes:
    """Returns the file that `tflite` writes, held to nothing; the arguments and what they raise are the same."""
    if format not in _TOLERANCES:
        raise ValueError(f"format {format!r} is not one of {', '.join(map(repr, _TOLERANCES))}")
    observed = _observed(representative, example) if format == "int8-converter" else None
    if observed is None and representative is not None:
        raise ValueError(f"format {format!r} observes nothing; representative data are for 'int8-converter'")
    return _converted(apply, jax.tree.map(_as_run, params, is_leaf=is_compressed), example, format, observed)


def _observed(representative: Iterable[Any] | None, example: jax.Array) -> list[np.ndarray]:
    """Cuts batches of inputs into inputs of the example's shape; what is left over is left out."""
    size, found = example.shape[0], []
    for batch in representative or ():
        batch = np.asarray(batch, np.dtype(example.dtype))
        if batch.shape[1:] != example.shape[1:]:
            raise ValueError(f"representative data have shape {batch.shape}; the example's is {example.shape}")
        found += [batch[i : i + size] for i in range(0, len(batch) - size + 1, size)]
    if not found:
        raise ValueError("format 'int8-converter' needs representative data: at least one batch of inputs")
    return found


def _as_run(leaf: Any) -> Any:
    """Returns a leaf as the runtime will hold it: floats, in factors where it is factored, what is left of it alone."""
    match leaf:
        case Sliced():
            return replace(leaf, weight=_as_run(leaf.weight))
        case Factored():
            return leaf.map_arrays(lambda _, factor: _as_run(factor))
        case _:
            return dense(leaf)


def _converted(
    apply: Callable[..., jax.Array], params: Params, example: jax.Array, format: Format, observed: Any
) -> bytes:
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
    if format == "int8-converter":
        converter.representative_dataset = lambda: ([x] for x in observed)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def _hold_integers(data: bytes) -> None:
    floats = [op.name for op in operators(data) if any("float" in kind for kind in op.types)]
    if floats:
        raise RuntimeError(f"the converter left {', '.join(floats)} in floats; nothing written")


def _hold_outputs(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    if found.shape != expected.shape:
        raise RuntimeError(
            f"the TFLite model returns shape {found.shape}, JAX returns {expected.shape}; nothing written"
        )
    difference = float(np.max(np.abs(found - expected)))
    if not difference <= tolerance * max(1.0, float(np.max(np.abs(expected)))):
        raise RuntimeError(f"the TFLite model differs from JAX by {difference:g} on the example; nothing written")
