"""Canonical polyadic decomposition of convolutions."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import CP, Factored
from jaxcompress.factorize import layouts, ranks
from jaxcompress.factorize.factoring import check_window, factorization
from jaxcompress.interpreters.axes import Axes
from jaxcompress.numerics import cp as numerics
from jaxcompress.paths import named_key
from jaxcompress.transform import Transform

_LARGEST = 100.0  # norm of a component over that of the kernel: beyond it components cancel, and training diverges


class Unsound(ValueError):
    """Says that no fit of a rank is sound: components cancel, or are not finite."""


def cp(
    pattern: str,
    rank: int | Mapping[str, int],
    *,
    key: Array,
    tries: int = 3,
    sweeps: int = 100,
    axes: layouts.Layout = None,
    always: bool = False,
    name: str | None = None,
) -> Transform:
    """Replaces the matched convolutions by sums of `rank` products of one vector for every axis.

    Each runs as a 1x1 convolution to `rank` channels, a depthwise one along each axis of the window, and a 1x1
    convolution (Lebedev et al. 2015, arXiv:1412.6553). A kernel is (*window, in, out), its window of one axis, or two,
    or three; another order of its axes, and stacks of kernels, whose layers get factors of their own, `axes` tell as
    those of `svd`. `rank`, a number or a table by path, may be above any size of
    the kernel. It is found by `sweeps` of alternating least squares from `tries` draws of `key`, folded with each path;
    the best is taken of those whose largest component has at most a hundred times the norm of the kernel, since a fit
    by components that cancel cannot be trained (de Silva & Lim 2008).

    Factors that would hold more weights than the kernel are declined, with a `Declined` warning, unless `always`.
    Raises ValueError for numbers below 1, and, from `init`, for a kernel without a window, and as `svd` does;
    `Unsound`, a ValueError, when no try stays within these bounds.
    """
    for what, number in (("rank", rank), ("tries", tries), ("sweeps", sweeps)):
        if not isinstance(number, Mapping):
            ranks.number(number, f"pattern {pattern!r}", what)
    owner = name or f"cp[{pattern}]"

    def factors(path: str, layers: Array, _: Axes) -> list[Factored]:
        check_window(path, layers, "cp", range(1, 4))
        number, own = ranks.number(ranks.at(rank, path), path), named_key(key, path)
        keys = [own] if len(layers) == 1 else [jax.random.fold_in(own, layer) for layer in range(len(layers))]
        return [best(path, layer, number, own) for layer, own in zip(layers, keys, strict=True)]

    def best(path: str, kernel: Array, number: int, own: Array) -> Factored:
        fits = [numerics.cp(kernel, number, jax.random.fold_in(own, i), sweeps) for i in range(tries)]
        sound = [fit for fit in fits if float(fit.largest) <= _LARGEST and bool(jnp.isfinite(fit.error))]
        if not sound:
            least = min(float(fit.largest) for fit in fits)
            raise Unsound(
                f"no canonical polyadic fit of rank {number} of {path} is sound in {tries} tries: components of"
                f" {least:.3g} times the norm of the kernel cancel; take another rank or key, or tucker2"
            )
        *window, u, v = min(sound, key=lambda fit: float(fit.error)).factors
        return CP(tuple(window), u, v.T, owner)

    return factorization(pattern, owner, factors, CP, always=always, axes=axes, convention=layouts.convolution)
