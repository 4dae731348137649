"""Runs a graph in integers, exactly as the kernels of a device run it.

Each kernel library rounds in its own way, and a model of a few layers shows it: its outputs differ by several units
between libraries. The arithmetics here give, bit for bit, what the kernels of that name compute:

``xnnpack``    XNNPACK, the default of LiteRT on CPUs; rescales in float32. It leaves int4 kernels to LiteRT, but for
               those of dense layers with an even number of inputs; LiteRT's own kernels rescale in fixed point, with
               ties up or, where they do not go by vectors, away from zero.
``reference``  the reference kernels of LiteRT; rescales in fixed point with two roundings, dense layers in float64.
``micro``      the kernels of tflite-micro: the reference's, but for dense layers.

Activations are int8. In int16, symmetric, XNNPACK takes no operation. LiteRT's own kernels that run in its place
compute what its reference kernels do, with sums in int64 that are multiplied with 16 bits of the factor, or in float64
in dense layers; but additions round as vector units do them, for a batch of one.
"""

from collections.abc import Callable, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from jaxcompress.interpreters import additions
from jaxcompress.interpreters.accumulate import accumulate, accumulate_wide
from jaxcompress.interpreters.codes import Arithmetic as Arithmetic
from jaxcompress.interpreters.codes import Grid as Grid
from jaxcompress.interpreters.codes import Integers as Integers
from jaxcompress.interpreters.codes import Layer as Layer
from jaxcompress.interpreters.codes import clamp_of as clamp_of
from jaxcompress.interpreters.codes import decode as decode
from jaxcompress.interpreters.codes import encode as encode
from jaxcompress.interpreters.codes import quotient
from jaxcompress.interpreters.graph import Node, by_channel, is_depthwise, pool, rearrange, window_of
from jaxcompress.numerics import fixed_point, softmax


def integers(model: Integers, arithmetic: Arithmetic = "xnnpack") -> Callable[[Array], Array]:
    """Returns ``run(codes) -> codes`` on a batch of any size, in the arithmetic of a kernel library.

    Codes are int8, or int16 where the grids have 16 bits and zero points of 0. It is a plain function of arrays;
    compile it with `jax.jit`. Convolutions and products run in float32 wherever the sums stay below 2**24 for every
    possible input, where floats are exact, and in int32 elsewhere. Raises ValueError for an unknown arithmetic, for an
    operation that has no rule in integers, and for int4 kernels under ``micro``.
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


def _layer(node: Node, inputs: Sequence[Array], model: Integers, arithmetic: Arithmetic) -> Array:
    layer, (given, made) = model.layers[node.name], _grids(node, model)
    if given.bits == 16:
        return _wide_layer(node, inputs[0], layer, given, made, arithmetic)
    largest = max(given.zero_point - given.smallest, given.largest - given.zero_point)
    total = accumulate(node, inputs[0].astype(jnp.int32) - given.zero_point, layer.kernel, largest)
    total = total + by_channel(layer.bias, total.ndim)
    scales = by_channel(layer.scale, total.ndim)

    def by_floats() -> Array:
        out = jnp.round(total.astype(jnp.float32) * _float_factor(given, scales, made))
        out = jnp.clip(out, -(2.0**20), 2.0**20).astype(jnp.int32)  # beyond int8 anyway, and safe to convert
        return _clamped(out, node, made, "xnnpack")

    def by_fixed_point(ties: fixed_point.Ties = "away", factor: Any = None) -> Array:
        by = fixed_point.multiplier_of(_double_factor(given, scales, made) if factor is None else factor)
        return _clamped(fixed_point.multiply(total, by, ties), node, made, "reference")

    if arithmetic == "reference" and node.kind == "dense":
        return _clamped(_rounded_product(total, _double_factor(given, scales, made)), node, made, arithmetic)
    if arithmetic != "xnnpack":
        return by_fixed_point()
    packs = isinstance(layer.bits, Tracer) or layer.bits == 4
    if not packs or (node.kind == "dense" and layer.kernel.shape[0] % 2 == 0):
        return by_floats()
    if node.kind == "dense":
        packed = by_fixed_point("up", _packed_dense_factor(given, scales, made))
    elif (ups := _outputs_with_ties_up(node, layer.kernel.shape)).all():
        packed = by_fixed_point("up")
    else:
        packed = jnp.where(ups, by_fixed_point("up"), by_fixed_point("away"))
    return jnp.where(layer.bits == 4, packed, by_floats()) if isinstance(layer.bits, Tracer) else packed


def _outputs_with_ties_up(node: Node, kernel: tuple[int, ...]) -> np.ndarray:
    """Tells which outputs of a convolution LiteRT's own kernels for int4 round with ties up.

    These kernels go by vectors, and depthwise by vectors of 8 channels with the rest one by one; grouped convolutions
    run in the reference kernel.
    """
    outputs = np.arange(kernel[-1])
    if is_depthwise(node, kernel):
        return outputs < len(outputs) // 8 * 8
    return np.full(outputs.shape, window_of(node).groups == 1)


def _packed_dense_factor(given: Grid, scales: Any, made: Grid) -> Any:
    """Returns the factor of LiteRT's own dense kernel for int4, float64; with one scale its product is of float32."""
    by_output = _double_factor(given, scales, made)
    if isinstance(scales, np.ndarray):
        by_tensor = (given.scale * scales).astype(np.float64) / np.float64(made.scale)
        return by_output if np.ptp(scales) else by_tensor
    with jax.enable_x64(True):
        by_tensor = quotient((given.scale * scales).astype(jnp.float64), np.float64(made.scale))
        return jnp.where(jnp.ptp(scales) > 0, by_output, by_tensor)


def _wide_layer(node: Node, codes: Array, layer: Layer, given: Grid, made: Grid, arithmetic: Arithmetic) -> Array:
    """Computes a layer on int16 codes."""
    with jax.enable_x64(True):
        total = accumulate_wide(node, codes, layer.kernel)
        total = total + by_channel(jnp.asarray(layer.bias).astype(jnp.int64), total.ndim)
        factor = _double_factor(given, by_channel(layer.scale, total.ndim), made)
        if node.kind == "dense" and arithmetic != "micro":
            out = _rounded_product(total, factor)
        else:
            out = fixed_point.multiply_wide(total, fixed_point.multiplier_of(factor))
    return _clamped(out, node, made, "reference")


def _float_factor(given: Grid, scales: Any, made: Grid) -> Any:
    """Returns the factor that rescales sums, in float32."""
    if isinstance(scales, np.ndarray):
        return given.scale * scales / made.scale
    return quotient(given.scale * scales, made.scale)


def _double_factor(given: Grid, scales: Any, made: Grid) -> Any:
    """Returns the factor that rescales sums, in float64."""
    if isinstance(scales, np.ndarray):
        return np.float64(given.scale) * scales.astype(np.float64) / np.float64(made.scale)
    with jax.enable_x64(True):
        return quotient(jnp.float64(given.scale) * scales.astype(jnp.float64), np.float64(made.scale))


def _rounded_product(total: Array, scale: Any) -> Array:
    """Rescales in float64, half away from zero, as the reference kernel of dense layers."""
    with jax.enable_x64(True):
        product = total.astype(jnp.float64) * jnp.asarray(scale, jnp.float64)
        return (jnp.sign(product) * jnp.floor(jnp.abs(product) + 0.5)).astype(jnp.int32)


def _add(node: Node, inputs: Sequence[Array], model: Integers, arithmetic: Arithmetic) -> Array:
    *given, made = _grids(node, model)
    x, y = (codes.astype(jnp.int32) for codes in inputs)
    ratios = [grid.scale / made.scale for grid in given]
    if made.bits == 16:
        if max(ratios) >= 2**14:
            raise ValueError(
                f"{node.name} adds a scale {max(ratios):g} times its own; in int16 kernels take less than 2**14"
            )
        if arithmetic == "xnnpack" and x.shape == y.shape:
            total = additions.vectors(x, y, given[0], given[1], made, int(np.prod(node.shape)))
        else:
            total = additions.reference(x, y, given[0], given[1], made)
        return _clamped(total, node, made, "reference")
    if arithmetic == "xnnpack" and max(ratios) >= 2**8:
        raise ValueError(f"{node.name} adds a scale {max(ratios):g} times its own; XNNPACK takes less than 256 times")
    if arithmetic == "xnnpack" and min(ratios) < 2.0**-10:
        arithmetic = "reference"  # XNNPACK leaves these to LiteRT
    rule = additions.xnnpack if arithmetic == "xnnpack" else additions.reference
    return _clamped(rule(x, y, given[0], given[1], made), node, made, arithmetic)


def _mean(node: Node, inputs: Sequence[Array], model: Integers, arithmetic: Arithmetic) -> Array:
    given, made = _grids(node, model)
    count = int(np.prod([inputs[0].shape[axis] for axis in node.axes]))
    total = jnp.sum(inputs[0].astype(jnp.int32), node.axes, keepdims=len(node.shape) == inputs[0].ndim)
    if arithmetic == "xnnpack" and made.bits == 8:
        scale = (given.scale / made.scale) * (np.float32(1) / np.float32(count))
        start = np.float32(made.zero_point) - np.float32(count * given.zero_point) * scale
        codes = jnp.round(total.astype(jnp.float32) * scale + start).astype(jnp.int32)
        return jnp.clip(codes, made.smallest, made.largest).astype(jnp.int8)
    multiplier, shift = fixed_point.multiplier_of(np.float64(given.scale) / np.float64(made.scale))
    room = min(count.bit_length() - 1, 32, 31 + int(shift))
    divided = np.int32((int(multiplier) << room) // count)
    by = fixed_point.Multiplier(divided, np.int32(int(shift) - room))
    return _clamped(fixed_point.multiply(total - given.zero_point * count, by), node, made, "reference")


def _average_pool(node: Node, inputs: Sequence[Array], model: Integers, arithmetic: Arithmetic) -> Array:
    """Averages codes, half away from zero; of all arithmetics, since none delegates it."""
    window, codes = window_of(node), inputs[0].astype(jnp.int32)
    total = pool(codes, lax.add, 0, window)
    count = pool(jnp.ones_like(codes[:1, ..., :1]), lax.add, 0, window)
    nudged = jnp.where(total > 0, total + count // 2, total - count // 2)
    return (jnp.sign(nudged) * (jnp.abs(nudged) // count)).astype(inputs[0].dtype)


def _max_pool(node: Node, inputs: Sequence[Array], model: Integers, arithmetic: Arithmetic) -> Array:
    return pool(inputs[0], lax.max, model.grids[node.name].smallest, window_of(node))


def _softmax(node: Node, inputs: Sequence[Array], model: Integers, arithmetic: Arithmetic) -> Array:
    given, made = _grids(node, model)
    if (made.scale, made.zero_point, made.bits) != (softmax.OUTPUT_SCALE, softmax.OUTPUT_ZERO_POINT, 8):
        raise ValueError(f"{node.name} is a softmax on {made}; its kernels want the scale 1/256, zero point -128")
    rule = softmax.by_table if arithmetic == "xnnpack" else softmax.in_fixed_point
    return rule(inputs[0], given.scale)


def _rearranged(node: Node, inputs: Sequence[Array], model: Integers, arithmetic: Arithmetic) -> Array:
    return rearrange(node, inputs, model.grids[node.name].zero_point)


def _clamped(codes: Array, node: Node, made: Grid, arithmetic: Arithmetic) -> Array:
    codes = jnp.clip(codes + made.zero_point, *clamp_of(node.activation, made, arithmetic))
    return codes.astype(jnp.int16 if made.bits == 16 else jnp.int8)


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
