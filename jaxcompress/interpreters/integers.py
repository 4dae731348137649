"""Runs a graph in integers, exactly as the kernels of a device run it.

Each kernel library rounds in its own way, and a model of a few layers shows it: its outputs differ by several units
between libraries. The arithmetics here give, bit for bit, what the kernels of that name compute:

``xnnpack``    XNNPACK, the default of LiteRT on CPUs; rescales in float32. It leaves convolutions with int4 kernels to
               LiteRT, whose kernels rescale in fixed point with another rounding of ties.
``reference``  the reference kernels of LiteRT; rescales in fixed point with two roundings, dense layers in float64.
``micro``      the kernels of tflite-micro: the reference's, but for dense layers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from jaxcompress.interpreters.graph import Graph, Node, by_channel, convolve, pool, rearrange, window_of
from jaxcompress.numerics import fixed_point, softmax

Arithmetic = Literal["xnnpack", "reference", "micro"]
SMALLEST, LARGEST = -128, 127  # of int8


class Grid(NamedTuple):
    """Maps an activation's codes of `bits` bits to reals, ``scale * (code - zero_point)``; a float32 and an int."""

    scale: np.float32
    zero_point: int
    bits: int = 8

    @property
    def smallest(self) -> int:
        """The smallest code."""
        return -(2 ** (self.bits - 1))

    @property
    def largest(self) -> int:
        """The largest code."""
        return 2 ** (self.bits - 1) - 1


class Layer(NamedTuple):
    """Holds the integers of a convolution or dense layer.

    `kernel` (int8) has the outputs last; `scale` (float32) and `bias` (int32, of scale ``input's * scale``) are by
    output. A file stores a code of the kernel in `bits`, 4 or 8. All four may be traced, as in training.
    """

    kernel: Any
    scale: Any
    bias: Any
    bits: Any = 8


class Integers(NamedTuple):
    """Holds a model that a device can run: its graph, the grid of every tensor, the integers of every layer."""

    graph: Graph
    grids: Mapping[str, Grid]
    layers: Mapping[str, Layer]


def integers(model: Integers, arithmetic: Arithmetic = "xnnpack") -> Callable[[Array], Array]:
    """Returns ``run(codes) -> codes``, int8 to int8 on a batch of any size, in the arithmetic of a kernel library.

    It is a plain function of arrays; compile it with `jax.jit`. Convolutions and products run in float32 wherever the
    sums stay below 2**24 for every possible input, where floats are exact, and in int32 elsewhere. Raises ValueError
    for an unknown arithmetic, for an operation that has no rule in integers, and for int4 kernels under ``micro``.
    """
    if arithmetic not in get_args(Arithmetic):
        raise ValueError(f"arithmetic {arithmetic!r} is not one of {', '.join(get_args(Arithmetic))}")
    for node in model.graph.nodes:
        if node.kind not in _RULES:
            raise ValueError(
                f"{node.name} is a {node.kind!r}, which has no rule in integers; {', '.join(_RULES)} have one"
            )
    packed = [name for name, layer in model.layers.items() if not isinstance(layer.bits, Tracer) and layer.bits == 4]
    if arithmetic == "micro" and packed:
        raise ValueError(f"{', '.join(packed)} have int4 kernels; tflite-micro has no arithmetic for these")

    def run(codes: Array) -> Array:
        return model.graph.run(lambda node, inputs: _RULES[node.kind](node, inputs, model, arithmetic), codes)

    return run


def encode(values: Array, grid: Grid) -> Array:
    """Rounds reals to the codes of a grid, half to even, as the device's quantization of a float input does.

    Codes are int8, and int16 on a grid of 16 bits.
    """
    codes = jnp.clip(jnp.round(values / grid.scale) + grid.zero_point, grid.smallest, grid.largest)
    return codes.astype(jnp.int8 if grid.bits <= 8 else jnp.int16)


def decode(codes: Array, grid: Grid) -> Array:
    """Returns the reals that codes stand for."""
    return (codes.astype(jnp.float32) - grid.zero_point) * grid.scale


def clamp_of(activation: str | None, grid: Grid, arithmetic: Arithmetic = "reference") -> tuple[int, int]:
    """Returns the smallest and largest code that a fused activation lets through.

    XNNPACK adds the zero point in float32 and rounds half to even; the others round half up before.
    """

    def code(real: float) -> int:
        steps = np.float32(real) / grid.scale
        if arithmetic == "xnnpack":
            return int(np.rint(steps + np.float32(grid.zero_point)))
        return grid.zero_point + int(np.floor(np.float64(steps) + 0.5))

    low = SMALLEST if activation is None else max(SMALLEST, code(0.0))
    return low, min(LARGEST, code(6.0)) if activation == "relu6" else LARGEST


def _layer(node: Node, inputs: Sequence[Array], model: Integers, arithmetic: Arithmetic) -> Array:
    layer, (given, made) = model.layers[node.name], _grids(node, model)
    total = _accumulated(node, inputs[0], layer, given)
    total = total + by_channel(layer.bias, total.ndim)
    scales = by_channel(layer.scale, total.ndim)

    def by_floats() -> Array:
        out = jnp.round(total.astype(jnp.float32) * _float_factor(given, scales, made))
        out = jnp.clip(out, -(2.0**20), 2.0**20).astype(jnp.int32)  # beyond int8 anyway, and safe to convert
        return _clamped(out, node, made, "xnnpack")

    def by_fixed_point(ties: fixed_point.Ties = "away") -> Array:
        by = fixed_point.multiplier_of(_double_factor(given, scales, made))
        return _clamped(fixed_point.multiply(total, by, ties), node, made, "reference")

    if arithmetic == "reference" and node.kind == "dense":
        return _clamped(_rounded_product(total, _double_factor(given, scales, made)), node, made, arithmetic)
    if arithmetic != "xnnpack":
        return by_fixed_point()
    if node.kind != "convolution":
        return by_floats()
    if isinstance(layer.bits, Tracer):
        return jnp.where(layer.bits == 4, by_fixed_point("up"), by_floats())
    return by_fixed_point("up") if layer.bits == 4 else by_floats()


def _float_factor(given: Grid, scales: Any, made: Grid) -> Any:
    """Returns the factor that rescales sums, in float32."""
    if isinstance(scales, np.ndarray):
        return given.scale * scales / made.scale
    # The compiler must not turn the division by a constant into a product with its inverse.
    return given.scale * scales / lax.optimization_barrier(jnp.float32(made.scale))


def _double_factor(given: Grid, scales: Any, made: Grid) -> Any:
    """Returns the factor that rescales sums, in float64."""
    if isinstance(scales, np.ndarray):
        return np.float64(given.scale) * scales.astype(np.float64) / np.float64(made.scale)
    with jax.enable_x64(True):
        divisor = lax.optimization_barrier(jnp.float64(made.scale))
        return jnp.float64(given.scale) * scales.astype(jnp.float64) / divisor


def _accumulated(node: Node, codes: Array, layer: Layer, given: Grid) -> Array:
    """Sums the products of a layer, int32, in float32 where that is exact."""
    spread = max(given.zero_point - SMALLEST, LARGEST - given.zero_point)

    def sums(kernel: Any, dtype: Any = jnp.float32) -> Array:
        x = codes.astype(dtype) - jnp.asarray(given.zero_point, dtype)
        kernel, precise = jnp.asarray(kernel).astype(dtype), lax.Precision.HIGHEST
        if node.kind == "dense":
            return jnp.matmul(x, kernel, precision=precise).astype(jnp.int32)
        return convolve(x, kernel, window_of(node), precision=precise).astype(jnp.int32)

    if _largest_sum(layer.kernel, 128) * spread < 2**24:
        return sums(layer.kernel)
    # Two halves of the codes, ``16 * high + low``, in floats: on CPU integer convolutions cost several times as much.
    wide = layer.kernel.astype(np.int32)
    high = (wide + 8) >> 4
    low = wide - (high << 4)
    if max(_largest_sum(high, 8), _largest_sum(low, 8)) * spread < 2**24:
        return 16 * sums(high) + sums(low)
    return sums(layer.kernel, jnp.int32)


def _largest_sum(kernel: Any, largest: int) -> int:
    """Returns the largest sum of magnitudes of an output's codes; of traced ones, as if all were `largest`."""
    if isinstance(kernel, Tracer):
        return largest * int(np.prod(kernel.shape[:-1]))
    return int(np.abs(np.asarray(kernel).astype(np.int64)).sum(tuple(range(kernel.ndim - 1))).max())


def _rounded_product(total: Array, scale: Any) -> Array:
    """Rescales in float64, half away from zero, as the reference kernel of dense layers."""
    with jax.enable_x64(True):
        product = total.astype(jnp.float64) * jnp.asarray(scale, jnp.float64)
        return (jnp.sign(product) * jnp.floor(jnp.abs(product) + 0.5)).astype(jnp.int32)


def _add(node: Node, inputs: Sequence[Array], model: Integers, arithmetic: Arithmetic) -> Array:
    *given, made = _grids(node, model)
    x, y = (codes.astype(jnp.int32) for codes in inputs)
    ratios = [grid.scale / made.scale for grid in given]
    if arithmetic == "xnnpack" and max(ratios) >= 2**8:
        raise ValueError(f"{node.name} adds a scale {max(ratios):g} times its own; XNNPACK takes less than 256 times")
    if arithmetic == "xnnpack" and min(ratios) < 2.0**-10:
        arithmetic = "reference"  # XNNPACK leaves these to LiteRT
    rule = _add_xnnpack if arithmetic == "xnnpack" else _add_reference
    return _clamped(rule(x, y, given[0], given[1], made), node, made, arithmetic)


def _add_xnnpack(x: Array, y: Array, of_x: Grid, of_y: Grid, made: Grid) -> Array:
    by_x, by_y = of_x.scale / made.scale, of_y.scale / made.scale
    shift = 20 - (int(np.frexp(max(by_x, by_y))[1]) - 1)
    mx, my = (int(np.rint(by * np.float32(2.0) ** shift)) for by in (by_x, by_y))
    start = (1 << (shift - 1)) - mx * of_x.zero_point - my * of_y.zero_point
    return jnp.right_shift(start + x * mx + y * my, shift)


def _add_reference(x: Array, y: Array, of_x: Grid, of_y: Grid, made: Grid) -> Array:
    left = 20  # bits of headroom while the two are brought to one scale
    sx, sy, so = (np.float64(grid.scale) for grid in (of_x, of_y, made))
    twice = 2 * max(sx, sy)

    def scaled(codes: Array, grid: Grid, scale: np.float64) -> Array:
        shifted = jnp.left_shift(codes - grid.zero_point, left)
        return fixed_point.multiply(shifted, fixed_point.multiplier_of(scale / twice))

    total = scaled(x, of_x, sx) + scaled(y, of_y, sy)
    return fixed_point.multiply(total, fixed_point.multiplier_of(twice / ((1 << left) * so)))


def _mean(node: Node, inputs: Sequence[Array], model: Integers, arithmetic: Arithmetic) -> Array:
    given, made = _grids(node, model)
    count = int(np.prod([inputs[0].shape[axis] for axis in node.axes]))
    total = jnp.sum(inputs[0].astype(jnp.int32), node.axes, keepdims=len(node.shape) == inputs[0].ndim)
    if arithmetic == "xnnpack":
        scale = (given.scale / made.scale) * (np.float32(1) / np.float32(count))
        start = np.float32(made.zero_point) - np.float32(count * given.zero_point) * scale
        codes = jnp.round(total.astype(jnp.float32) * scale + start).astype(jnp.int32)
        return jnp.clip(codes, SMALLEST, LARGEST).astype(jnp.int8)
    multiplier, shift = fixed_point.multiplier_of(np.float64(given.scale) / np.float64(made.scale))
    room = min(count.bit_length() - 1, 32, 31 + int(shift))
    divided = np.int32((int(multiplier) << room) // count)
    by = fixed_point.Multiplier(divided, np.int32(int(shift) - room))
    return _clamped(fixed_point.multiply(total - given.zero_point * count, by), node, made, arithmetic)


def _average_pool(node: Node, inputs: Sequence[Array], model: Integers, arithmetic: Arithmetic) -> Array:
    """Averages codes, half away from zero; of all arithmetics, since none delegates it."""
    window, codes = window_of(node), inputs[0].astype(jnp.int32)
    total = pool(codes, lax.add, 0, window)
    count = pool(jnp.ones_like(codes[:1, ..., :1]), lax.add, 0, window)
    nudged = jnp.where(total > 0, total + count // 2, total - count // 2)
    return (jnp.sign(nudged) * (jnp.abs(nudged) // count)).astype(jnp.int8)


def _max_pool(node: Node, inputs: Sequence[Array], model: Integers, arithmetic: Arithmetic) -> Array:
    return pool(inputs[0], lax.max, SMALLEST, window_of(node))


def _softmax(node: Node, inputs: Sequence[Array], model: Integers, arithmetic: Arithmetic) -> Array:
    given, made = _grids(node, model)
    if (made.scale, made.zero_point, made.bits) != (softmax.OUTPUT_SCALE, softmax.OUTPUT_ZERO_POINT, 8):
        raise ValueError(f"{node.name} is a softmax on {made}; its kernels want the scale 1/256, zero point -128")
    rule = softmax.by_table if arithmetic == "xnnpack" else softmax.in_fixed_point
    return rule(inputs[0], given.scale)


def _rearranged(node: Node, inputs: Sequence[Array], model: Integers, arithmetic: Arithmetic) -> Array:
    return rearrange(node, inputs, model.grids[node.name].zero_point)


def _clamped(codes: Array, node: Node, made: Grid, arithmetic: Arithmetic) -> Array:
    return jnp.clip(codes + made.zero_point, *clamp_of(node.activation, made, arithmetic)).astype(jnp.int8)


def _grids(node: Node, model: Integers) -> list[Grid]:
    """Lists the grids of a node's inputs, then that of its output."""
    return [model.grids[name] for name in (*node.inputs, node.name)]


_RULES: dict[str, Callable[[Node, Sequence[Array], Integers, Arithmetic], Array]] = {
    "convolution": _layer,
    "dense": _layer,
    "add": _add,
    "mean": _mean,
    "average_pool": _average_pool,
    "max_pool": _max_pool,
    "softmax": _softmax,
    "concatenate": _rearranged,
    "reshape": _rearranged,
    "transpose": _rearranged,
    "slice": _rearranged,
    "pad": _rearranged,
}
