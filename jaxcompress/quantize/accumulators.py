"""Scales of kernels at which the sums of a layer, its bias included, fit the accumulators of a device.

A bias is an integer of the accumulator's scale, the input's times the kernel's. Beside weights that are tiny, as those
of a channel that weight decay has left dead, it is beyond int32; the kernel then needs a wider scale, at which the bias
fits and such weights are small codes or none. So does onnxruntime (microsoft/onnxruntime, pull request 22020).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxcompress.arrays import dense
from jaxcompress.interpreters.codes import Grid

_LEAST = 2.0**-100  # of a scale, so that its product with another is a normal float as well


def fitting(scale: Array, bias: Array, given: Grid, products: int) -> Array:
    """Returns the scale of a kernel, one for all outputs or one for each, no smaller than the accumulator allows.

    `scale` has the outputs last; `bias` is by output; `given` is the grid of the layer's input, and `products` counts
    the products of a sum. Whatever the input, sums stay within int32, beside activations of 16 bits within the 48 bits
    that kernels multiply; the bias is left at least half of that. Departs from onnxruntime, which leaves products a
    margin of 1e-4 of the range, in this guarantee.
    """
    return jnp.maximum(scale, _least(scale, bias, given, products))


@partial(jax.jit, static_argnames="given")
def fitting_codes(codes: Array, scale: Array, zero_point: Array, bias: Array, given: Grid) -> tuple[Array, Array]:
    """Returns the codes and the scale of a kernel as `fitting` has it: the reals of the codes, rounded again.

    A scale of zeros alone means nothing; beside a bias it becomes the smallest one that fits, so that the bias, whose
    unit it decides, is as near as it can be.
    """
    least = _least(scale, bias, given, codes.size // codes.shape[-1])
    wide = jnp.maximum(scale, least)
    again = jnp.round((codes.astype(jnp.float32) - zero_point) * (scale / wide)) + zero_point
    again = jnp.where(wide > scale, again.astype(codes.dtype), codes)
    axes = tuple(range(codes.ndim if scale.size == 1 else codes.ndim - 1))
    bias_there = dense(bias) != 0
    bias_there = jnp.any(bias_there) if scale.size == 1 else bias_there.reshape(scale.shape)
    dead = jnp.all(again == zero_point.astype(codes.dtype), axes, keepdims=True) & bias_there
    return again, jnp.where(dead, least, wide)


def _least(scale: Array, bias: Array, given: Grid, products: int) -> Array:
    span = max(given.zero_point - given.smallest, given.largest - given.zero_point)
    largest = float(largest_sum(given))
    room = largest - min(128.0 * span * products, largest / 2)
    # One product, which is the same compiled and not, by a factor that keeps it from ending below the exact quotient.
    factor = np.float32((1 + 1e-6) / room / float(given.scale))
    least = jnp.abs(lax.stop_gradient(dense(bias)).astype(jnp.float32)) * factor
    least = jnp.maximum(least, np.float32(_LEAST) * np.maximum(np.float32(1), 1 / given.scale))
    return (jnp.max(least).reshape(scale.shape) if scale.size == 1 else least.reshape(scale.shape)).astype(scale.dtype)


def largest_sum(given: Grid) -> int:
    """Returns the largest magnitude of a sum over inputs of a grid."""
    return 2**47 - 1 if given.bits == 16 else 2**31 - 1
