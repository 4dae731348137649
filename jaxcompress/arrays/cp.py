"""Convolution kernels as a sum of products of one vector for every axis."""

import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays.base import CompressedArray, compressed, dense, static
from jaxcompress.arrays.factored import Factored, Stage, fitting, window


@compressed
class CP(Factored):
    """Means the kernel (height, width, in, out) of ``sum over r of height[h, r] width[w, r] u[i, r] v[r, o]``.

    The canonical polyadic form. It runs as a 1x1 convolution to `rank` channels, a depthwise one along each axis of the
    window, and a 1x1 convolution (Lebedev et al. 2015, arXiv:1412.6553, section 3.1).
    """

    height: Array | CompressedArray
    width: Array | CompressedArray
    u: Array | CompressedArray
    v: Array | CompressedArray
    owner: str = static(default="")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.height.shape[0], self.width.shape[0], self.u.shape[0], self.v.shape[1])

    @property
    def rank(self) -> int:
        """The number of products that are summed."""
        return self.u.shape[1]

    def dense(self) -> Array:
        factors = dense(self.height), dense(self.width), dense(self.u), dense(self.v)
        return jnp.einsum("hr,wr,ir,ro->hwio", *factors)

    def stages(self) -> tuple[Stage, ...]:
        tall, wide = (dense(part)[:, None, :] for part in (self.height, self.width))
        return (
            Stage(window(self.u, 2)),
            Stage(window(tall, 2, 0), (0,), depthwise=True),
            Stage(window(wide, 2, 1), (1,), depthwise=True),
            Stage(window(self.v, 2)),
        )

    def check(self) -> None:
        parts = (self.height, self.width, self.u, self.v)
        fitting(self, *((part.ndim, 2) for part in parts))
        fitting(self, *((part.shape[1], self.v.shape[0]) for part in parts[:3]))
