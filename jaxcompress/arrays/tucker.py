"""Weights as a small core between factors of their axes (Tucker 1966)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.arrays.base import CompressedArray, compressed, dense, static
from jaxcompress.arrays.factored import Factored, Move, Product, Stage, fitting, layer_shapes, swapped, window
from jaxcompress.arrays.windows import filed, of_window, reversed_factors
from jaxcompress.coding import Coded


@compressed
class Tucker2(Factored):
    """Means ``core`` with its last two axes multiplied by `u` (in, inputs) and by `v` (outputs, out).

    `core` is (*window, inputs, outputs). A convolution runs as a 1x1 convolution, a smaller one and a 1x1 convolution
    (Kim et al. 2016, arXiv:1511.06530, section 3.1); a dense kernel, of no window, as three products.
    """

    u: Array | CompressedArray
    core: Array | CompressedArray
    v: Array | CompressedArray
    owner: str = static(default="")

    @property
    def stack_axes(self) -> int:
        return self.u.ndim - 2

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.core.shape[:-2], self.u.shape[-2], self.v.shape[-1])

    @property
    def ranks(self) -> tuple[int, int]:
        """The sizes of the last two axes of the core."""
        return self.core.shape[-2], self.core.shape[-1]

    def product(self) -> Array:
        return jnp.einsum("ia,...ab,bo->...io", dense(self.u), dense(self.core), dense(self.v))

    def stages(self) -> tuple[Stage, ...]:
        spatial = self.core.ndim - 2
        return (
            Stage(window(self.u, spatial)),
            Stage(self.core, tuple(range(spatial))),
            Stage(window(self.v, spatial)),
        )

    def multiply(self, x: Array, product: Product) -> Array | None:
        if self.core.ndim != 2:
            return None
        for factor in (self.u, self.core, self.v):
            x = product(x, factor, (x.ndim - 1,), (0,))
        return x

    def transposed(self, permuted: Move) -> "Tucker2 | None":
        if self.stack_axes:
            return None
        u, core, v = (swapped(part, permuted) for part in (self.v, self.core, self.u))
        return replace(self, u=u, core=core, v=v)

    def flipped(self, axes: Sequence[int], reverse: Move) -> "Tucker2 | None":
        inside = not self.stack_axes and max(axes) < self.ndim - 2
        return replace(self, core=reverse(self.core, axes)) if inside else None

    def check(self) -> None:
        u, core, v = layer_shapes(self)
        fitting(self, (len(u), 2), (len(v), 2), (min(len(core), 2), 2))
        fitting(self, (u[1], core[-2]), (v[0], core[-1]))


@compressed
class Tucker(Factored):
    """Means the kernel (height, width, in, out) of a `core` of as many axes, each multiplied by a factor.

    The factors are those of the `window`, (height, a) and (width, b), `u` (in, c) and `v` (d, out), the core is (a, b,
    c, d); a window may have one axis, or three. It runs as `Tucker2` does: what the factors of the window save in
    running is less than an operation of its own costs.
    """

    window: tuple[Array | CompressedArray, ...]
    u: Array | CompressedArray
    core: Array | CompressedArray
    v: Array | CompressedArray
    owner: str = static(default="")

    @property
    def stack_axes(self) -> int:
        return self.u.ndim - 2

    @property
    def shape(self) -> tuple[int, ...]:
        places = (factor.shape[-2] for factor in self.window)
        return (*self.u.shape[:-2], *places, self.u.shape[-2], self.v.shape[-1])

    def product(self) -> Array:
        return self._inner().product()

    def stages(self) -> tuple[Stage, ...]:
        return self._inner().stages()

    def _inner(self) -> Tucker2:
        core = dense(self.core)
        for axis, factor in enumerate(self.window):
            core = jnp.moveaxis(jnp.tensordot(core, dense(factor), ((axis,), (1,))), -1, axis)
        return Tucker2(self.u, core, self.v)

    def transposed(self, permuted: Move) -> "Tucker | None":
        if self.stack_axes:
            return None
        u, core, v = (swapped(part, permuted) for part in (self.v, self.core, self.u))
        return replace(self, u=u, core=core, v=v)

    def flipped(self, axes: Sequence[int], reverse: Move) -> "Tucker | None":
        factors = None if self.stack_axes else reversed_factors(self.window, axes, reverse)
        return None if factors is None else replace(self, window=factors)

    def check(self) -> None:
        *places, u, core, v = layer_shapes(self)
        fitting(self, (min(len(places), 1), 1), (len(core), len(places) + 2))
        fitting(self, *((len(part), 2) for part in (*places, u, v)))
        fitting(self, *zip((*(part[1] for part in places), u[1], v[0]), core, strict=True))

    def encode(self, kept: np.ndarray | None = None) -> Coded:
        return filed(super().encode(kept))

    @classmethod
    def of(cls, parts: dict[str, Any], coded: Coded) -> Self:
        return cls(**of_window(cls, parts))
