"""Convolution kernels as a convolution along one axis and one along the others."""

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays.base import CompressedArray, compressed, dense, static
from jaxcompress.arrays.factored import Factored, Move, Stage, fitting, layer_shapes


@compressed
class SpatialLowRank(Factored):
    """Means the kernel (height, width, in, out) of ``sum over r of u[h, i, r] v[w, r, o]``.

    `u` is (height, in, rank), `v` is (width, rank, out): a vertical and then a horizontal convolution (Jaderberg et al.
    2014, arXiv:1405.3866, scheme 2). Of a window of three axes `v` has the other two: a convolution in time or depth
    and one in space, as Tran et al. (2018, arXiv:1711.11248) have in the other order.
    """

    u: Array | CompressedArray
    v: Array | CompressedArray
    owner: str = static(default="")

    @property
    def stack_axes(self) -> int:
        return self.u.ndim - 3

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.u.shape[:-2], *self.v.shape[self.stack_axes : -2], self.u.shape[-2], self.v.shape[-1])

    @property
    def rank(self) -> int:
        """The number of channels between the two convolutions."""
        return self.u.shape[-1]

    def product(self) -> Array:
        whole = jnp.tensordot(dense(self.u), dense(self.v), ((2,), (dense(self.v).ndim - 2,)))
        return jnp.moveaxis(whole, 1, -2)

    def stages(self) -> tuple[Stage, ...]:
        first, rest = dense(self.u), dense(self.v)
        spatial = rest.ndim - 1
        tall = first.reshape(first.shape[0], *(1,) * (spatial - 1), *first.shape[1:])
        return Stage(tall, (0,)), Stage(rest[None], tuple(range(1, spatial)))

    def flipped(self, axes: Sequence[int], reverse: Move) -> "SpatialLowRank | None":
        if self.stack_axes or max(axes) >= self.ndim - 2:
            return None
        u = reverse(self.u, (0,)) if 0 in axes else self.u
        others = tuple(axis - 1 for axis in axes if axis)
        return replace(self, u=u, v=reverse(self.v, others) if others else self.v)

    def check(self) -> None:
        u, v = layer_shapes(self)
        fitting(self, (max(len(v), 3), len(v)), (u[-1], v[-2]))
