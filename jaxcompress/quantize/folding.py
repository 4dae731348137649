"""Rounding the kernel that a device will have: with the batch normalization behind it multiplied in."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxcompress.arrays import FakeQuantized, Scaled, dense
from jaxcompress.arrays.sliced import shrunk
from jaxcompress.numerics.binary import reciprocal
from jaxcompress.paths import Params, did_you_mean, flatten, rewrite
from jaxcompress.quantize.learned import reduced_axes
from jaxcompress.quantize.weights import Bits, Granularity, bits_at, initial_bits
from jaxcompress.transform import Transform, owned, rewrite_owned
from jaxcompress.weights import checked_weight

Norm = str | Callable[[str], tuple[str | None, str]]

_SMALLEST = 2.0**-24  # of a factor beside the largest of its layer: what is folded with less rounds to zero anyway
_LARGEST = 2.0**60  # of a factor and of its inverse: products with weights are far from overflow


def folded(
    pattern: str,
    norm: Norm,
    bits: Bits,
    *,
    granularity: Granularity = "tensor",
    epsilon: float = 1e-5,
    name: str | None = None,
) -> Transform:
    r"""Rounds the matched kernels, folded with the batch normalization behind them, to `bits`-bit integers in training.

    A device has no normalization: it holds ``gamma / sigma`` times the kernel, with sigma the root of the running
    variance and `epsilon`, which must be the normalization's own. That product is what is rounded, symmetrically, with
    one scale per array (``tensor``) or per output (``channel``), and then divided by ``gamma / sigma`` again, since the
    unedited model goes on to normalize it: ``Scaled(FakeQuantized(Scaled(kernel, gamma/sigma)), sigma/gamma)``. A scale
    per output follows the factor of its output, so that folding changes nothing there but roundings of the last bit;
    `jaxcompress.quantize.weights` does the same with less.

    While the model normalizes with the statistics of the batch, this is folding with the correction by ``sigma /
    sigma_batch`` that keeps the rounded weights from following them (Krishnamoorthi 2018, arXiv:1806.08342, section
    3.2.2); once it normalizes with the running ones (``use_running_average``), it is his frozen form, the same as
    inference. There is nothing to be switched here. Departures: the statistics are those of what the rounded kernel
    gives, where he and Jacob et al. (2018, arXiv:1712.05877, section 3.2) convolve a second time with the real one; and
    gamma gets the gradient of the model's own normalization, none through the rounding, so that of an output whose
    weights all round to zero, beside larger ones of its array, is zero.

    A tree of variables is transformed, ``{"params": ..., "batch_stats": ...}`` of Linen. `pattern` matches whole paths
    of kernels, outputs last, as ``params/(.*conv\d)/kernel``. `norm` names the normalization: as a template of the
    match, ``r"\1_norm"``, its scope for ``params/SCOPE/scale`` and ``batch_stats/SCOPE/var``; or as a function from the
    path of a kernel to the paths of its scale, None for one without, and of its variance, for trees of another make.

    `update` takes gamma and the running variance anew, so call it after both have moved. Where gamma is zero, or 2**-24
    of the largest of its layer by ``|gamma / sigma|``, the largest takes its place: the factor stays finite, and so the
    kernel stays alive for a gamma that starts from zero. `jaxcompress.read` finds the integers: the two factors cancel.

    Raises ValueError for `bits` outside 2..8, an unknown granularity, an `epsilon` that is negative, and, from `init`,
    for a pattern or a normalization without a match, scales and variances that are not one per output, and kernels that
    are not finite.
    """
    first = initial_bits(pattern, bits)
    if granularity not in get_args(Granularity):
        raise ValueError(f"granularity {granularity!r} for pattern {pattern!r} is not 'tensor' or 'channel'")
    if not epsilon >= 0:
        raise ValueError(f"epsilon {epsilon!r} for pattern {pattern!r} is not a number of at least 0")
    owner = name or f"folded[{pattern}]"

    def factors(leaves: dict[str, Any], path: str, leaf: Any) -> Array:
        scale, variance = _norm_paths(pattern, norm, path)
        outputs = leaf.shape[-1]
        ratio = lax.rsqrt(_vector(leaves, variance, path, outputs) + epsilon)
        ratio = ratio if scale is None else ratio * _vector(leaves, scale, path, outputs)
        return usable_factor(lax.stop_gradient(ratio)).reshape((1,) * (leaf.ndim - 1) + (-1,))

    def init(params: Params) -> Params:
        leaves = flatten(shrunk(params))

        def wrap(path: str, leaf: Any) -> Any:
            if owned(leaf, owner):
                return leaf
            leaf = checked_weight(path, leaf, "quantized")
            factor = factors(leaves, path, leaf)
            axes = reduced_axes(path, leaf, -1 if granularity == "channel" else None)
            rounded = FakeQuantized(Scaled(leaf, factor, owner), first, axes, True, owner)
            return Scaled(rounded, reciprocal(factor), owner)

        return rewrite(params, pattern, wrap)

    def update(params: Params, step: Array | int, **_: Any) -> Params:
        leaves = flatten(shrunk(params))

        def refresh(path: str, leaf: Any) -> Any:
            factor = factors(leaves, path, leaf)
            number = bits_at(bits, step) if callable(bits) else None
            return rewrite_owned(leaf, owner, lambda own: _refreshed(own, factor, number))

        return rewrite(params, pattern, refresh)

    return Transform((owner,), init, update)


def usable_factor(ratio: Float[Array, "outputs"]) -> Float[Array, "outputs"]:
    """Returns a factor by output to multiply with and to divide by: the largest of a layer where `ratio` is too small.

    It is 1 where none of them is usable. What is not finite, or beyond 2**60, is not usable either.
    """
    magnitude = jnp.where(jnp.abs(ratio) <= _LARGEST, jnp.abs(ratio), 0.0)
    largest = jnp.max(magnitude)
    largest = jnp.where(largest >= 1 / _LARGEST, largest, 1.0)
    return jnp.where(magnitude > _SMALLEST * largest, ratio, largest)


def _refreshed(leaf: Scaled, factor: Array, bits: Array | None) -> Scaled:
    rounded = leaf.weight
    assert isinstance(rounded, FakeQuantized) and isinstance(rounded.weight, Scaled)  # as `init` made them
    bits = rounded.bits if bits is None else jnp.broadcast_to(bits, rounded.bits.shape)
    rounded = replace(rounded, weight=replace(rounded.weight, factor=factor), bits=bits)
    return replace(leaf, weight=rounded, factor=reciprocal(factor))


def _norm_paths(pattern: str, norm: Norm, path: str) -> tuple[str | None, str]:
    if callable(norm):
        return norm(path)
    match = re.fullmatch(pattern, path)
    assert match is not None
    try:
        scope = match.expand(norm)
    except (re.error, IndexError) as error:
        raise ValueError(f"norm {norm!r} is no template for pattern {pattern!r}: {error}") from error
    return f"params/{scope}/scale", f"batch_stats/{scope}/var"


def _vector(leaves: dict[str, Any], name: str, path: str, outputs: int) -> Array:
    """Returns the float32 vector at a path; raises ValueError unless it has one entry per output of the kernel."""
    if name not in leaves:
        raise ValueError(f"the normalization of {path} has no {name}{did_you_mean(name, list(leaves))}")
    vector = dense(leaves[name]).astype(jnp.float32)
    if vector.shape != (outputs,):
        raise ValueError(f"{name} of shape {vector.shape} does not normalize the {outputs} outputs of {path}")
    return vector
