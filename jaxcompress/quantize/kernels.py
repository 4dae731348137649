"""The kernels of a graph as symmetric integers: how many bits each gets, its scale, and its leaf."""

from collections.abc import Mapping
from typing import get_args

import jax
import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import Quantized, dense
from jaxcompress.interpreters.codes import Grid
from jaxcompress.interpreters.graph import Graph
from jaxcompress.numerics import affine
from jaxcompress.paths import Params, did_you_mean
from jaxcompress.quantize.accumulators import fitting
from jaxcompress.quantize.weights import Granularity


def layers(graph: Graph, weights: Params) -> list[str]:
    """Lists the layers of a graph that have a kernel, in the order in which they run."""
    return [node.name for node in graph.nodes if node.name in weights]


def bits_by_layer(names: list[str], bits: int | Mapping[str, int]) -> dict[str, int]:
    """Returns the bits of every layer of `names`, from one number for all or from one for each.

    Raises ValueError for bits outside 2..8, a layer that is missing and one that is not there; the message lists them.
    """
    given = dict(bits) if isinstance(bits, Mapping) else dict.fromkeys(names, bits)
    check_layers("bits", given, names)
    for name, number in given.items():
        if not (isinstance(number, int) and 2 <= number <= 8):
            of = f" of {name}" if isinstance(bits, Mapping) else ""
            raise ValueError(f"bits {number!r}{of} is not an integer from 2 to 8")
    return given


def check_layers(what: str, given: Mapping[str, object], names: list[str]) -> None:
    """Raises ValueError unless `given`, which is said to hold `what`, has one entry for each of `names`."""
    listed = ", ".join(names) or "(none)"
    for name in given:
        if name not in names:
            raise ValueError(f"{what} of {name!r}, which is no layer{did_you_mean(name, names)}; the layers: {listed}")
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"no {what} for {', '.join(missing)}; every layer needs one: {listed}")


def check_granularity(granularity: str) -> None:
    """Raises ValueError for a granularity that is not known."""
    if granularity not in get_args(Granularity):
        raise ValueError(f"granularity {granularity!r} is not one of {', '.join(get_args(Granularity))}")


def finite_kernel(weights: Params, name: str) -> Array:
    """Returns the dense kernel of a layer; raises ValueError if it is not finite."""
    kernel = dense(weights[name]["kernel"])
    if not bool(jnp.all(jnp.isfinite(kernel))):
        raise ValueError(f"{name}/kernel holds NaN or infinity; only finite weights can be rounded")
    return kernel


def kernel_scale(kernel: Array, bits: Array | int, granularity: Granularity) -> Array:
    """Returns the scale of the smallest squared error, clipping between half of the largest weight and all of it.

    It has the axes of `kernel`, all of size one (``tensor``) or all but the last (``channel``). `bits` may be traced.
    """
    axes = tuple(range(kernel.ndim if granularity == "tensor" else kernel.ndim - 1))
    largest, _ = affine.weight_range(kernel, bits, axes, symmetric=True)
    _, exponent = jnp.frexp(largest)  # errors are squared in a unit in which they neither vanish nor overflow
    scaled, most = jnp.ldexp(kernel, -exponent), jnp.ldexp(largest, -exponent)

    def error(fraction: Array) -> Array:
        scale = fraction * most
        codes = affine.quantize(scaled, scale, jnp.zeros_like(scale), bits, symmetric=True)
        return jnp.sum((affine.dequantize(codes, scale, jnp.zeros_like(scale)) - scaled) ** 2, axes, keepdims=True)

    fractions = jnp.linspace(0.5, 1.0, 51)
    return fractions[jnp.argmin(jax.lax.map(error, fractions), axis=0)] * largest


def fitting_scale(kernel: Array, bias: Array, given: Grid, bits: Array | int, granularity: Granularity) -> Array:
    """Returns `kernel_scale`, widened where sums over inputs of the grid `given` would not fit the accumulator."""
    return fitting(kernel_scale(kernel, bits, granularity), bias, given, kernel.size // kernel.shape[-1])


def rounded_kernel(kernel: Array, bits: Array | int, granularity: Granularity) -> Array:
    """Returns the reals of a kernel rounded to the nearest of its integers. `bits` may be traced."""
    scale = kernel_scale(kernel, bits, granularity)
    codes = affine.quantize(kernel, scale, jnp.zeros_like(scale), bits, symmetric=True)
    return affine.dequantize(codes, scale, jnp.zeros_like(scale))


def integer_leaf(kernel: Array, codes: Array, scale: Array, bits: int) -> Quantized:
    """Returns the leaf of `codes`, in which a weight of zero stays zero: what is pruned stays so."""
    codes = jnp.where(kernel == 0, jnp.int8(0), codes)
    return Quantized(codes, scale, jnp.zeros(scale.shape, jnp.int8), bits)
