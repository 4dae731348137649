"""Canonical polyadic decomposition of convolutions."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.arrays import CP, CompressedArray
from jaxcompress.factorize.factoring import check_axes, factorization
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
    always: bool = False,
    name: str | None = None,
) -> Transform:
    """Replaces the matched convolutions by sums of `rank` products of one vector for every axis.

    Each runs as a 1x1 convolution to `rank` channels, a depthwise one along each axis of the window, and a 1x1
    convolution (Lebedev et al. 2015, arXiv:1412.6553). `rank`, a number or a table by path, may be above any size of
    the kernel. It is found by `sweeps` of alternating least squares from `tries` draws of `key`, folded with each path;
    the best is taken of those whose largest component has at most a hundred times the norm of the kernel, since a fit
    by components that cancel cannot be trained (de Silva & Lim 2008).

    Factors that would hold more weights than the kernel are declined, with a `Declined` warning, unless `always`.
    Raises ValueError for numbers below 1, and, from `init`, for a kernel that is not (height, width, in, out), and as
    `svd` does; `Unsound`, a ValueError, when no try stays within these bounds.
    """
    for what, number in (("rank", rank), ("tries", tries), ("sweeps", sweeps)):
        if not isinstance(number, Mapping) and not (isinstance(number, int | np.integer) and number >= 1):
            raise ValueError(f"{what} {number!r} for pattern {pattern!r} is not an integer of at least 1")
    owner = name or f"cp[{pattern}]"

    def factors(path: str, kernel: Array) -> CompressedArray:
        check_axes(path, kernel, "cp", 4)
        number = rank[path] if isinstance(rank, Mapping) else rank
        own = named_key(key, path)
        fits = [numerics.cp(kernel, number, jax.random.fold_in(own, i), sweeps) for i in range(tries)]
        sound = [fit for fit in fits if float(fit.largest) <= _LARGEST and bool(jnp.isfinite(fit.error))]
        if not sound:
            least = min(float(fit.largest) for fit in fits)
            raise Unsound(
                f"no canonical polyadic fit of rank {number} of {path} is sound in {tries} tries: components of"
                f" {least:.3g} times the norm of the kernel cancel; take another rank or key, or tucker2"
            )
        height, width, u, v = min(sound, key=lambda fit: float(fit.error)).factors
        return CP(height, width, u, v.T, owner)

    return factorization(pattern, owner, factors, CP, always=always)
