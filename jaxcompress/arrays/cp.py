"""Convolution kernels as a sum of products of one vector for every axis."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from jax import Array

from jaxcompress.arrays.base import CompressedArray, compressed, dense, static
from jaxcompress.arrays.factored import Factored, Move, Stage, fitting, layer_shapes, swapped, window
from jaxcompress.arrays.windows import filed, of_window, reversed_factors
from jaxcompress.coding import Coded


@compressed
class CP(Factored):
    """Means the kernel (height, width, in, out) of ``sum over r of height[h, r] width[w, r] u[i, r] v[r, o]``.

    The canonical polyadic form, with a factor (size, rank) in `window` for every axis of the window, however many. It
    runs as a 1x1 convolution to `rank` channels, a depthwise one along each axis of the window, and a 1x1 convolution
    (Lebedev et al. 2015, arXiv:1412.6553, section 3.1).
    """

    window: tuple[Array | CompressedArray, ...]
    u: Array | CompressedArray
    v: Array | CompressedArray
    owner: str = static(default="")

    @property
    def stack_axes(self) -> int:
        return self.u.ndim - 2

    @property
    def shape(self) -> tuple[int, ...]:
        places = (factor.shape[-2] for factor in self.window)
        return (*self.u.shape[:-2], *places, self.u.shape[-2], self.v.shape[-1])

    @property
    def rank(self) -> int:
        """The number of products that are summed."""
        return self.u.shape[-1]

    def product(self) -> Array:
        columns = dense(self.window[0])
        for factor in (*self.window[1:], self.u):
            columns = (columns[:, None, :] * dense(factor)[None, :, :]).reshape(-1, self.rank)
        return (columns @ dense(self.v)).reshape(self.shape)

    def stages(self) -> tuple[Stage, ...]:
        spatial = len(self.window)
        along = [
            Stage(window(dense(factor)[:, None, :], spatial, axis), (axis,), depthwise=True)
            for axis, factor in enumerate(self.window)
        ]
        return Stage(window(self.u, spatial)), *along, Stage(window(self.v, spatial))

    def transposed(self, permuted: Move) -> "CP | None":
        if self.stack_axes:
            return None
        return replace(self, u=swapped(self.v, permuted), v=swapped(self.u, permuted))

    def flipped(self, axes: Sequence[int], reverse: Move) -> "CP | None":
        factors = None if self.stack_axes else reversed_factors(self.window, axes, reverse)
        return None if factors is None else replace(self, window=factors)

    def check(self) -> None:
        *parts, v = layer_shapes(self)
        fitting(self, (min(len(self.window), 1), 1), (len(v), 2), *((len(part), 2) for part in parts))
        fitting(self, *((part[1], v[0]) for part in parts))

    def encode(self, kept: np.ndarray | None = None) -> Coded:
        return filed(super().encode(kept))

    @classmethod
    def of(cls, parts: dict[str, Any], coded: Coded) -> Self:
        return cls(**of_window(cls, parts))
