"""From an integer model to the TFLite file that holds and computes the same."""

import os
import pathlib

import jax.numpy as jnp
import numpy as np

from jaxcompress.export import writer
from jaxcompress.export.files import write_whole
from jaxcompress.export.litert import Kernels, Model, Tensor, tensors
from jaxcompress.interpreters.graph import INPUT
from jaxcompress.interpreters.integers import LARGEST, SMALLEST, Arithmetic, Integers
from jaxcompress.interpreters.integers import integers as evaluate

# The kernels of LiteRT, and the arithmetic that gives what they compute.
KERNELS: dict[Kernels, Arithmetic] = {"default": "xnnpack", "reference": "reference"}
_INPUTS = 4  # the number of inputs drawn to hold the file to JAX


def integers(model: Integers, path: str | os.PathLike[str]) -> int:
    """Writes an integer model as a TFLite file, int8 in and int8 out, and returns its size in bytes.

    Before the file is written it is read back: every code, scale and zero point must be the model's, and no tensor a
    float. It is then run in LiteRT on a few inputs drawn from a fixed seed, with its default and its reference kernels,
    and every output must be that of `jaxcompress.integers`.

    Raises ImportError (naming the extra) without LiteRT, ValueError for an operation that cannot be written, and
    RuntimeError, writing nothing, if the file does not hold or compute what the model does.
    """
    content = writer.to_bytes(model)
    _hold_content(model, tensors(content))
    _hold_outputs(model, content)
    write_whole(pathlib.Path(path), content)
    return len(content)


def _hold_content(model: Integers, found: dict[str, Tensor]) -> None:
    """Raises RuntimeError unless the file's tensors are the model's."""
    for name, tensor in found.items():
        if tensor.dtype.kind not in "iV":
            raise RuntimeError(f"the TFLite file holds {name} as {tensor.dtype}; nothing written")
    for name in (INPUT, *(node.name for node in model.graph.nodes)):
        grid = model.grids[name]
        if (found[name].scale.tolist(), found[name].zero_point.tolist()) != ([grid.scale], [grid.zero_point]):
            raise RuntimeError(f"the TFLite file has another grid of {name} than {grid}; nothing written")
    for name, layer in model.layers.items():
        kernel, bias = found[f"{name}/kernel"], found[f"{name}/bias"]
        equal = np.array_equal(np.broadcast_to(kernel.scale, layer.scale.shape), layer.scale)
        equal &= bias.values is not None and np.array_equal(bias.values, layer.bias)
        if layer.bits == 8:  # LiteRT hands int4 out packed; what they compute is held below
            equal &= kernel.values is not None and np.array_equal(
                np.sort(kernel.values, None), np.sort(layer.kernel, None)
            )
        if not equal:
            raise RuntimeError(
                f"the TFLite file has other integers or scales of {name} than the model; nothing written"
            )


def _hold_outputs(model: Integers, content: bytes) -> None:
    """Raises RuntimeError unless LiteRT computes from the file what JAX computes from the model."""
    shape = (_INPUTS, *model.graph.input_shape[1:])
    codes = np.random.default_rng(0).integers(SMALLEST, LARGEST + 1, shape, np.int8)
    for kernels, arithmetic in KERNELS.items():
        expected = np.asarray(evaluate(model, arithmetic)(jnp.asarray(codes)))
        found = Model(content, kernels=kernels).batch(codes)
        if found.shape != expected.shape or np.any(found != expected):
            raise RuntimeError(f"LiteRT's {kernels} kernels do not compute what {arithmetic!r} does; nothing written")
