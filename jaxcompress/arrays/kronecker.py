"""Weights as a sum of Kronecker products."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays.base import CompressedArray, compressed, dense, static
from jaxcompress.arrays.factored import Factored, Move, Product, fitting, layer_shapes, swapped


@compressed
class Kronecker(Factored):
    """Means ``sum over r of kron(a[r], b[r])``; `a` is (rank, inputs, outputs), `b` (rank, *window, inputs, outputs).

    A kernel (in, out), or a convolution kernel (*window, in, out), has the products of their inputs and outputs
    (Hameed et al. 2022, AAAI, arXiv:2109.14710).
    """

    a: Array | CompressedArray
    b: Array | CompressedArray
    owner: str = static(default="")

    @property
    def stack_axes(self) -> int:
        return self.a.ndim - 3

    @property
    def shape(self) -> tuple[int, ...]:
        stack = self.stack_axes
        *window, inputs, outputs = self.b.shape[stack + 1 :]
        return (*self.b.shape[:stack], *window, self.a.shape[-2] * inputs, self.a.shape[-1] * outputs)

    @property
    def rank(self) -> int:
        """The number of products that are summed."""
        return self.a.shape[-3]

    def product(self) -> Array:
        return jnp.einsum("rio,r...jp->...ijop", dense(self.a), dense(self.b)).reshape(self.shape)

    def multiply(self, x: Array, product: Product) -> Array | None:
        if self.b.ndim != 3:
            return None
        x = x.reshape(*x.shape[:-1], self.a.shape[1], self.b.shape[1])
        return self._gathered(product(x, self.b, (x.ndim - 1,), (1,)), product)

    def convolve(self, x: Array, convolution: Callable[[Array, Array], Array], product: Product) -> Array | None:
        if self.b.ndim == 3:
            return None
        rank, *window, inputs, outputs = self.b.shape
        batch, *places, _ = x.shape
        outer = self.a.shape[1]
        x = jnp.moveaxis(x.reshape(batch, *places, outer, inputs), -2, 1).reshape(batch * outer, *places, inputs)
        kernel = jnp.moveaxis(dense(self.b), 0, -2).reshape(*window, inputs, rank * outputs)
        moved = convolution(x, kernel)
        x = moved.reshape(batch, outer, *moved.shape[1:-1], rank, outputs)
        return self._gathered(jnp.moveaxis(x, 1, -3), product)

    def _gathered(self, x: Array, product: Product) -> Array:
        """Sums x (…, inputs of a, rank, outputs of b) over the first two by `a`."""
        x = product(jnp.swapaxes(x, -3, -2), self.a, (x.ndim - 3, x.ndim - 2), (0, 1))
        return jnp.swapaxes(x, -1, -2).reshape(*x.shape[:-2], -1)

    def transposed(self, permuted: Move) -> "Kronecker | None":
        if self.stack_axes:
            return None
        return replace(self, a=swapped(self.a, permuted), b=swapped(self.b, permuted))

    def flipped(self, axes: Sequence[int], reverse: Move) -> "Kronecker | None":
        if self.stack_axes or max(axes) >= self.ndim - 2:
            return None
        return replace(self, b=reverse(self.b, [axis + 1 for axis in axes]))

    def check(self) -> None:
        a, b = layer_shapes(self)
        fitting(self, (max(len(b), 3), len(b)), (a[0], b[0]))
