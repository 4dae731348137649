"""What all factorized weights share: parts that multiply, as products or as convolutions, to the array they mean."""

import abc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.arrays.base import CompressedArray, decode, dense, encode, pack, static_fields
from jaxcompress.coding import Coded

# (a, b, axes of a, axes of b) -> their product summed over these axes: what is left of a, then what is left of b. Both
# axes rise: TensorFlow's converter gets others wrong.
Product = Callable[[Any, Any, Sequence[int], Sequence[int]], Any]


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

    A weight of two axes is (inputs, outputs); one of more is a convolution kernel, (*window, inputs, outputs).
    """

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


def fitting(leaf: Any, *pairs: tuple[int, int]) -> None:
    """Raises ValueError unless the sizes of every pair are equal."""
    if any(a != b for a, b in pairs):
        shapes = ", ".join(str(part.shape) for part in leaf.parts())
        raise ValueError(f"factors of shapes {shapes} do not multiply to a {type(leaf).__name__}")
