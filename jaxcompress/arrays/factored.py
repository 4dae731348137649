"""What all factorized weights share: parts that multiply, as products or as convolutions, to the array they mean."""

import abc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxcompress.arrays.base import CompressedArray, decode, dense, encode, pack, stacked, static_fields
from jaxcompress.coding import Coded

# (a, b, axes of a, axes of b) -> their product summed over these axes: what is left of a, then what is left of b. Both
# axes rise: TensorFlow's converter gets others wrong.
Product = Callable[[Any, Any, Sequence[int], Sequence[int]], Any]
Move = Callable[[Any, Sequence[int]], Any]  # (a factor, axes) -> the factor with them permuted, or reversed


class Stage(NamedTuple):
    """One of the convolutions that a factorized convolution runs as, one after the other.

    `kernel` is (*window, inputs, outputs); its window is of one entry along the axes that are not among `axes`, which
    are those that are strided, padded and dilated here. If `depthwise`, it is (*window, 1, channels).
    """

    kernel: Array | CompressedArray
    axes: tuple[int, ...] = ()
    depthwise: bool = False


class Factored(CompressedArray):
    """Holds factors of an array; `stages` or `multiply` say how it runs without being built.

    A weight of two axes is (inputs, outputs); one of more is a convolution kernel, (*window, inputs, outputs). If all
    factors have further axes in front of theirs, these are a stack of layers, each with factors of its own.
    """

    @property
    @abc.abstractmethod
    def stack_axes(self) -> int:
        """The number of leading axes, of all factors, that stack layers."""

    @abc.abstractmethod
    def product(self) -> Array:
        """Returns the array that factors mean which are arrays and no stack."""

    def dense(self) -> Array:
        product = type(self).product
        for _ in range(self.stack_axes):
            product = jax.vmap(product)
        # Behind the barrier no factor is a constant of the program: XLA rounds the product of constants otherwise.
        factors = self.map_arrays(lambda _, part: lax.optimization_barrier(dense(part)))
        return product(factors)  # pyright: ignore (of the same class)

    def stacked(self) -> CompressedArray | None:
        return self.map_arrays(lambda _, part: stacked(part)) if self.stack_axes else None

    def layers(self, axis: int) -> "Factored | None":
        """Returns the leaf of which slices of all parts along their first axis are those of it along `axis`.

        That is a stack, of layers along that axis; None if it is none.
        """
        return self.stacked() if axis == 0 and self.stack_axes else None  # pyright: ignore (of the same class)

    def stages(self) -> tuple[Stage, ...] | None:
        """Returns the convolutions that a convolution by this kernel is; None if it is none of that kind."""
        return None

    def multiply(self, x: Array, product: Product) -> Array | None:
        """Returns ``x @ self`` for x (…, inputs) by products of the factors; None if this is no kernel of two axes."""
        return None

    def convolve(self, x: Array, convolution: Callable[[Array, Array], Array], product: Product) -> Array | None:
        """Returns a convolution of x (batch, *places, inputs) where `stages` has none; None without such a form.

        ``convolution(x, kernel)`` strides, pads and dilates as the whole one does.
        """
        return None

    def transposed(self, permuted: Move) -> "Factored | None":
        """Returns the kernel whose inputs are the outputs of this one; None if it is none of this kind."""
        return None

    def flipped(self, axes: Sequence[int], reverse: Move) -> "Factored | None":
        """Returns the kernel with these axes of its window reversed; None if that is none of this kind."""
        return None

    @abc.abstractmethod
    def check(self) -> None:
        """Raises ValueError for factors that do not multiply."""

    def pack(self) -> Self:
        return replace(self.map_arrays(lambda _, part: pack(part)), owner="")  # pyright: ignore (a final dataclass)

    def encode(self, kept: np.ndarray | None = None) -> Coded:
        parts: dict[str, Coded] = {}

        def add(name: str, part: Any) -> Any:
            parts[name] = encode(part)
            return part

        self.map_arrays(add)
        attributes = {name: getattr(self, name) for name in static_fields(type(self)) if name != "owner"}
        return Coded(type(self).__name__, attributes, (), parts)

    @classmethod
    def decode(cls, coded: Coded, kept: np.ndarray | None = None) -> Self:
        leaf = cls.of({name: decode(part) for name, part in coded.parts.items()}, coded)
        if len({part.dtype for part in leaf.parts()}) > 1:
            raise ValueError(f"factors of a {cls.__name__} are of several dtypes")
        leaf.check()
        return leaf

    @classmethod
    def of(cls, parts: dict[str, Any], coded: Coded) -> Self:
        """Returns the leaf of the parts that were read; raises ValueError if some are missing."""
        known = [name for name in cls.__dataclass_fields__ if name != "owner"]  # pyright: ignore (a final dataclass)
        if sorted(parts) != sorted(known):
            raise ValueError(f"a {cls.__name__} has the parts {', '.join(known)}, not {', '.join(parts)}")
        return cls(**parts)

    def parts(self) -> list[Any]:
        """Lists the factors."""
        found: list[Any] = []

        def add(_: str, part: Any) -> Any:
            found.append(part)
            return part

        self.map_arrays(add)
        return found

    @property
    def dtype(self) -> Any:
        return self.parts()[0].dtype


def window(kernel: Any, spatial: int, axis: int | None = None) -> Array:
    """Returns a matrix, or a kernel over one `axis` of a window, as a kernel over a window of `spatial` axes."""
    array = dense(kernel)
    places = [1] * spatial
    if axis is not None:
        places[axis] = array.shape[0]
    return jnp.reshape(array, (*places, *array.shape[-2:]))


def swapped(part: Any, permuted: Move) -> Any:
    """Returns a factor with its last two axes the other way round."""
    return permuted(part, (*range(part.ndim - 2), part.ndim - 1, part.ndim - 2))


def layer_shapes(leaf: Factored) -> list[tuple[int, ...]]:
    """Lists the shapes of the factors of one layer; raises ValueError unless all have the same stack in front."""
    stack, shapes = leaf.stack_axes, [part.shape for part in leaf.parts()]
    if stack < 0 or len({shape[:stack] for shape in shapes}) > 1:
        raise ValueError(f"factors of shapes {', '.join(map(str, shapes))} are no stack of a {type(leaf).__name__}")
    return [shape[stack:] for shape in shapes]


def fitting(leaf: Any, *pairs: tuple[int, int]) -> None:
    """Raises ValueError unless the sizes of every pair are equal."""
    if any(a != b for a, b in pairs):
        shapes = ", ".join(str(part.shape) for part in leaf.parts())
        raise ValueError(f"factors of shapes {shapes} do not multiply to a {type(leaf).__name__}")
