"""From an integer model to the TFLite file that holds and computes the same."""

import os
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.export import writer
from jaxcompress.export.files import write_whole
from jaxcompress.export.litert import Kernels, Model, Tensor, tensors
from jaxcompress.interpreters.graph import INPUT
from jaxcompress.interpreters.integers import Arithmetic, Grid, Integers, decode, encode
from jaxcompress.interpreters.integers import integers as evaluate

# The kernels of LiteRT, and the arithmetic that gives what they compute.
KERNELS: dict[Kernels, Arithmetic] = {"default": "xnnpack", "reference": "reference"}
# How many outputs hold a file to JAX: a fault in one of a thousand is missed by 10,000 with probability 0.999**10000,
# that is 0.005 %. Large models are held by as many as cost this number of multiply-adds, and 4 inputs at least; where
# the kernels are not those of XNNPACK they take about a second for 3e8.
_OUTPUTS, _LEAST_INPUTS = 10_000, 4
_MULTIPLY_ADDS = {"xnnpack": 2e10, "plain": 4e9}
_BATCH = 64  # of inputs that JAX runs together


def integers(model: Integers, path: str | os.PathLike[str], *, io: writer.IO = "integers") -> int:
    """Writes an integer model as a TFLite file and returns its size in bytes.

    With `io` ``integers`` the file takes and gives codes, int8 or int16 as the model's grids are; with ``float32`` it
    takes and gives reals, which its first and last operation encode and decode on the same grids: what
    `jaxcompress.interpreters.integers.encode` and ``decode`` do. Nothing else in it is a float.

    Before the file is written it is read back: every code, scale and zero point must be the model's. It is then run in
    LiteRT on inputs drawn from a fixed seed, with its default and its reference kernels, and every output must be that
    of `jaxcompress.integers`. Inputs are drawn for 10,000 outputs or more, so that a fault in one output of a thousand
    is found with a probability of 99.995 %; for large models fewer, since these would take minutes. `compared` tells
    how many outputs these are.

    Raises ImportError (naming the extra) without LiteRT, ValueError for another `io` and an operation that cannot be
    written, and RuntimeError, writing nothing, if the file does not hold or compute what the model does; it says how
    many of the outputs differ.
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


def compared(model: Integers) -> dict[Kernels, int]:
    """Returns how many outputs `integers` compares with LiteRT's before it writes a model, by the kernels that run."""
    return {kernels: _inputs(model, kernels) * _outputs(model) for kernels in KERNELS}


def _outputs(model: Integers) -> int:
    """Returns the number of outputs of one input."""
    graph = model.graph
    return int(np.prod(graph.input_shape if graph.output == INPUT else graph.node(graph.output).shape))


def _inputs(model: Integers, kernels: Kernels) -> int:
    """Returns the number of inputs that hold a file to JAX."""
    cost = 0
    for name, layer in model.layers.items():
        cost += int(np.prod(model.graph.node(name).shape[:-1])) * layer.kernel.size
    fast = kernels == "default" and model.grids[INPUT].bits == 8
    affordable = int(_MULTIPLY_ADDS["xnnpack" if fast else "plain"] / max(cost, 1))
    return max(_LEAST_INPUTS, min(-(-_OUTPUTS // _outputs(model)), affordable))


def _hold_outputs(model: Integers, content: bytes, io: writer.IO) -> None:
    """Raises RuntimeError unless LiteRT computes from the file what JAX computes from the model."""
    given = model.grids[INPUT]
    for kernels, arithmetic in KERNELS.items():
        codes = _drawn(_inputs(model, kernels), model.graph.input_shape, given)
        inputs = _around(codes, given) if io == "float32" else codes
        expected, found = (
            _in_batches(_run(model, arithmetic, io), inputs),
            Model(content, kernels=kernels).batch(inputs),
        )
        if found.shape != expected.shape:
            raise RuntimeError(f"LiteRT gives outputs of shape {found.shape}, not {expected.shape}; nothing written")
        if differ := int(np.sum(found != expected)):
            raise RuntimeError(
                f"LiteRT's {kernels} kernels do not compute what {arithmetic!r} does: {differ} of {found.size} outputs "
                "differ; nothing written"
            )


def _run(model: Integers, arithmetic: Arithmetic, io: writer.IO) -> Callable[[Array], Array]:
    """Returns the compiled function that a file computes, from codes to codes or from reals to reals."""
    run = evaluate(model, arithmetic)
    if io == "integers":
        return jax.jit(run)
    given, made = model.grids[INPUT], model.grids[model.graph.output]
    return jax.jit(lambda x: decode(run(encode(x, given, arithmetic)), made))


def _drawn(count: int, shape: tuple[int, ...], grid: Grid) -> np.ndarray:
    """Draws codes of inputs: of every other one from the whole grid, of the rest from a part of it each."""
    draw, size = np.random.default_rng(0), (count, *shape[1:])
    ends = np.sort(draw.integers(grid.smallest, grid.largest + 1, (2, count)), axis=0)
    ends[:, ::2] = [[grid.smallest], [grid.largest]]
    low, high = (end.reshape(-1, *(1,) * (len(shape) - 1)) for end in ends)
    return draw.integers(low, high + 1, size).astype(np.int8 if grid.bits == 8 else np.int16)


def _in_batches(run: Callable[[Array], Array], inputs: np.ndarray) -> np.ndarray:
    """Runs a compiled function on batches of one size."""
    size = min(_BATCH, len(inputs))
    padded = np.resize(inputs, (-(-len(inputs) // size) * size, *inputs.shape[1:]))
    outputs = [np.asarray(run(jnp.asarray(padded[i : i + size]))) for i in range(0, len(padded), size)]
    return np.concatenate(outputs)[: len(inputs)]


def _around(codes: np.ndarray, grid: Grid) -> np.ndarray:
    """Returns reals that lie on the codes and half way between, some beyond the grid's ends."""
    offsets = np.resize([0.0, 0.5, -0.5, 1.5], codes.shape)
    return ((codes + offsets - grid.zero_point) * np.float64(grid.scale)).astype(np.float32)
