"""Convolution kernels as a convolution along one axis and one along the other."""

import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays.base import CompressedArray, compressed, dense, static
from jaxcompress.arrays.factored import Factored, Stage, fitting, window


@compressed
class SpatialLowRank(Factored):
    """Means the kernel (height, width, in, out) of ``sum over r of u[h, i, r] v[w, r, o]``.

    `u` is (height, in, rank), `v` is (width, rank, out): a vertical and then a horizontal convolution (Jaderberg et al.
    2014, arXiv:1405.3866, scheme 2).
    """

    u: Array | CompressedArray
    v: Array | CompressedArray
    owner: str = static(default="")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.u.shape[0], self.v.shape[0], self.u.shape[1], self.v.shape[2])

    @property
    def rank(self) -> int:
        """The number of channels between the two convolutions."""
        return self.u.shape[2]

    def dense(self) -> Array:
        return jnp.einsum("hir,wro->hwio", dense(self.u), dense(self.v))

    def stages(self) -> tuple[Stage, ...]:
        return Stage(window(self.u, 2, 0), (0,)), Stage(window(self.v, 2, 1), (1,))

    def check(self) -> None:
        fitting(self, (self.u.ndim, 3), (self.v.ndim, 3), (self.u.shape[-1], self.v.shape[-2]))
