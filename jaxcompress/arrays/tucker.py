"""Weights as a small core between factors of their axes (Tucker 1966)."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays.base import CompressedArray, compressed, dense, static
from jaxcompress.arrays.factored import Factored, Product, Stage, fitting, window


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
    def shape(self) -> tuple[int, ...]:
        return (*self.core.shape[:-2], self.u.shape[0], self.v.shape[1])

    @property
    def ranks(self) -> tuple[int, int]:
        """The sizes of the last two axes of the core."""
        return self.core.shape[-2], self.core.shape[-1]

    def dense(self) -> Array:
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

    def check(self) -> None:
        matrices = (self.u.ndim, 2), (self.v.ndim, 2), (min(self.core.ndim, 2), 2)
        fitting(self, *matrices)
        fitting(self, (self.u.shape[1], self.core.shape[-2]), (self.v.shape[0], self.core.shape[-1]))


@compressed
class Tucker(Factored):
    """Means the kernel (height, width, in, out) of a `core` of four axes, each multiplied by a factor.

    The factors are `height` (height, a), `width` (width, b), `u` (in, c) and `v` (d, out), the core is (a, b, c, d). It
    runs as `Tucker2` does: what the factors of the window save in running is less than an operation of its own costs.
    """

    height: Array | CompressedArray
    width: Array | CompressedArray
    u: Array | CompressedArray
    core: Array | CompressedArray
    v: Array | CompressedArray
    owner: str = static(default="")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.height.shape[0], self.width.shape[0], self.u.shape[0], self.v.shape[1])

    def dense(self) -> Array:
        return self._inner().dense()

    def stages(self) -> tuple[Stage, ...]:
        return self._inner().stages()

    def _inner(self) -> Tucker2:
        core = jnp.einsum("ha,wb,abcd->hwcd", dense(self.height), dense(self.width), dense(self.core))
        return Tucker2(self.u, core, self.v)

    def check(self) -> None:
        fitting(self, (self.core.ndim, 4), *((part.ndim, 2) for part in (self.height, self.width, self.u, self.v)))
        ranks: Any = (self.height.shape[1], self.width.shape[1], self.u.shape[1], self.v.shape[0])
        fitting(self, *zip(ranks, self.core.shape, strict=True))
