"""Weights as a train of small tensors, one for every pair of an input and an output mode."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays.base import CompressedArray, compressed, dense, static
from jaxcompress.arrays.factored import Factored, Move, Product, fitting, layer_shapes
from jaxcompress.coding import Coded


@compressed
class TensorTrain(Factored):
    """Means the kernel whose entry at the inputs (i1, …, id) and outputs (o1, …, od) is a product of matrices.

    That is ``cores[0][:, i1, o1, :] @ … @ cores[d-1][:, id, od, :]``, each core being (rank before, inputs, outputs,
    rank after); the first rank and the last are 1, and an index of inputs is that of its modes in row-major order
    (Novikov et al. 2015, arXiv:1509.06569, section 4). A convolution has a first core (*window, rank) before these, as
    the matrices of its places (Garipov et al. 2016, arXiv:1611.03214, section 5).
    """

    cores: tuple[Array | CompressedArray, ...]
    places: tuple[Array | CompressedArray, ...] = ()  # the core of the window, if there is one
    owner: str = static(default="")

    @property
    def stack_axes(self) -> int:
        return self.cores[0].ndim - 4 if self.cores else 0

    @property
    def shape(self) -> tuple[int, ...]:
        modes = [core.shape[-3:-1] for core in self.cores]
        window = self.places[0].shape[:-1] if self.places else self.cores[0].shape[: self.stack_axes]
        return (*window, math.prod(i for i, _ in modes), math.prod(o for _, o in modes))

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks between the cores, the first and the last of one left out."""
        first = tuple(core.shape[-1] for core in self.places)
        return first + tuple(core.shape[-1] for core in self.cores[:-1])

    def product(self) -> Array:
        whole = dense(self.places[0]) if self.places else jnp.ones((1,), self.dtype)
        spatial = whole.ndim - 1
        for core in self.cores:
            whole = jnp.tensordot(whole, dense(core), 1)
        pairs = range(spatial, spatial + 2 * len(self.cores), 2)
        order = (*range(spatial), *pairs, *(axis + 1 for axis in pairs), whole.ndim - 1)
        return whole.transpose(order).reshape(self.shape)

    def multiply(self, x: Array, product: Product) -> Array | None:
        return None if self.places else self._through(x[..., None], product)

    def convolve(self, x: Array, convolution: Callable[[Array, Array], Array], product: Product) -> Array | None:
        if not self.places:
            return None
        batch, *_, inputs = x.shape
        planes = jnp.moveaxis(x, -1, 1).reshape(batch * inputs, *x.shape[1:-1], 1)
        moved = convolution(planes, dense(self.places[0])[..., None, :])
        planes = jnp.moveaxis(moved.reshape(batch, inputs, *moved.shape[1:]), 1, -2)
        return self._through(planes, product)

    def _through(self, x: Array, product: Product) -> Array:
        """Multiplies x (…, inputs, rank) by one core after the other."""
        batch = x.shape[:-2]
        x = x.reshape(*batch, *(core.shape[1] for core in self.cores), x.shape[-1])
        for core in self.cores:  # the modes of inputs still to come stand first, those of outputs then follow
            x = jnp.moveaxis(x, -1, len(batch))
            x = product(x, core, (len(batch), len(batch) + 1), (0, 1))
        return x.reshape(*batch, -1)

    def transposed(self, permuted: Move) -> "TensorTrain | None":
        if self.stack_axes:
            return None
        return replace(self, cores=tuple(permuted(core, (0, 2, 1, 3)) for core in self.cores))

    def flipped(self, axes: Sequence[int], reverse: Move) -> "TensorTrain | None":
        if self.stack_axes or max(axes) >= self.ndim - 2:
            return None
        return replace(self, places=tuple(reverse(core, axes) for core in self.places))

    def check(self) -> None:
        fitting(self, (min(len(self.cores), 1), 1), (max(len(self.places), 1), 1))
        shapes = layer_shapes(self)
        cores, places = shapes[: len(self.cores)], shapes[len(self.cores) :]
        fitting(self, *((len(core), 4) for core in cores), *((min(len(core), 2), 2) for core in places))
        before = [places[0][-1] if places else 1, *(core[3] for core in cores)]
        fitting(self, *zip(before, [*(core[0] for core in cores), 1], strict=True))

    @classmethod
    def of(cls, parts: dict[str, Any], coded: Coded) -> Self:
        cores = {name: parts[name] for name in (f"cores/{i}" for i in range(len(parts))) if name in parts}
        places = {name: part for name, part in parts.items() if name == "places/0"}
        if len(cores) + len(places) != len(parts) or not cores:
            raise ValueError(f"a {cls.__name__} has the parts cores/0, cores/1, …, not {', '.join(parts)}")
        return cls(tuple(cores.values()), tuple(places.values()))
