"""From an integer model to the TFLite file that holds and computes the same."""

import os
import pathlib

import jax.numpy as jnp
import numpy as np

from jaxcompress.export import writer
from jaxcompress.export.files import write_whole
from jaxcompress.export.litert import Kernels, Model, Tensor, tensors
from jaxcompress.interpreters.graph import INPUT
from jaxcompress.interpreters.integers import Arithmetic, Grid, Integers, decode, encode
from jaxcompress.interpreters.integers import integers as evaluate

# The kernels of LiteRT, and the arithmetic that gives what they compute.
KERNELS: dict[Kernels, Arithmetic] = {"default": "xnnpack", "reference": "reference"}
_INPUTS = 4  # the number of inputs drawn to hold the file to JAX


def integers(model: Integers, path: str | os.PathLike[str], *, io: writer.IO = "integers") -> int:
    """Writes an integer model as a TFLite file and returns its size in bytes.

    With `io` ``integers`` the file takes and gives codes, int8 or int16 as the model's grids are; with ``float32`` it
    takes and gives reals, which its first and last operation encode and decode on the same grids: what
    `jaxcompress.interpreters.integers.encode` and ``decode`` do. Nothing else in it is a float.

    Before the file is written it is read back: every code, scale and zero point must be the model's. It is then run in
    LiteRT on a few inputs drawn from a fixed seed, with its default and its reference kernels, and every output must be
    that of `jaxcompress.integers`.

    Raises ImportError (naming the extra) without LiteRT, ValueError for another `io` and an operation that cannot be
    written, and RuntimeError, writing nothing, if the file does not hold or compute what the model does.
    """
    content = writer.to_bytes(model, io)
    _hold_content(model, tensors(content), floats=writer.real_ends(model) if io == "float32" else ())
    _hold_outputs(model, content, io)
    write_whole(pathlib.Path(path), content)
    return len(content)


def _hold_content(model: Integers, found: dict[str, Tensor], floats: tuple[str, ...]) -> None:
    """Raises RuntimeError unless the file's tensors are the model's, with floats in none but those of these names."""
    for name, tensor in found.items():
        if tensor.dtype.kind not in "iV" and name not in floats:
            raise RuntimeError(f"the TFLite file holds {name} as {tensor.dtype}; nothing written")
    for name in (INPUT, *(node.name for node in model.graph.nodes)):
        grid, of = model.grids[name], found[name]
        if (of.scale.tolist(), of.zero_point.tolist(), 8 * of.dtype.itemsize) != ([grid[0]], [grid[1]], grid[2]):
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


def _hold_outputs(model: Integers, content: bytes, io: writer.IO) -> None:
    """Raises RuntimeError unless LiteRT computes from the file what JAX computes from the model."""
    given, made = model.grids[INPUT], model.grids[model.graph.output]
    shape = (_INPUTS, *model.graph.input_shape[1:])
    codes = np.random.default_rng(0).integers(given.smallest, given.largest + 1, shape)
    inputs = _around(codes, given) if io == "float32" else codes.astype(np.int8 if given.bits == 8 else np.int16)
    for kernels, arithmetic in KERNELS.items():
        run, x = evaluate(model, arithmetic), jnp.asarray(inputs)
        outputs = decode(run(encode(x, given, arithmetic)), made) if io == "float32" else run(x)
        found, expected = Model(content, kernels=kernels).batch(inputs), np.asarray(outputs)
        if found.shape != expected.shape or np.any(found != expected):
            raise RuntimeError(f"LiteRT's {kernels} kernels do not compute what {arithmetic!r} does; nothing written")


def _around(codes: np.ndarray, grid: Grid) -> np.ndarray:
    """Returns reals that lie on the codes and half way between, some beyond the grid's ends."""
    offsets = np.resize([0.0, 0.5, -0.5, 1.5], codes.shape)
    return ((codes + offsets - grid.zero_point) * np.float64(grid.scale)).astype(np.float32)
