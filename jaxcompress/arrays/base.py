"""The interface of a compressed weight: a typed leaf that stands where the array stood."""

import abc
import dataclasses
import functools
import typing
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.coding import Coded, decode_array, encode_array

T = TypeVar("T")


class CompressedArray(abc.ABC):
    """Stands in a parameter tree for the dense array that it means.

    Final classes are frozen dataclasses registered as pytrees by `compressed`. Their data fields are arrays or further
    compressed arrays, so leaves nest. A field marked `fixed` (masks, codes, scales) is never trained; a field marked
    `static` is part of the tree's structure. `shape` and `dtype` follow from the data, so that a leaf may be stacked,
    vmapped and scanned over.
    """

    owner: str  # the transform that updates this leaf; "" once packed

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of the dense array."""

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """The dtype of the dense array."""

    @abc.abstractmethod
    def dense(self) -> jax.Array:
        """Returns the array this leaf means; differentiable in the trained fields."""

    @abc.abstractmethod
    def pack(self) -> "CompressedArray":
        """Returns the storage form. Changes no bit of `dense`; packing twice changes nothing more."""

    @abc.abstractmethod
    def encode(self, kept: np.ndarray | None = None) -> Coded:
        """Lays the packed leaf out as streams; with `kept` (bool, flat) only those entries need be stored."""

    @classmethod
    @abc.abstractmethod
    def decode(cls, coded: Coded, kept: np.ndarray | None = None) -> "CompressedArray":
        """Restores a packed leaf bit for bit; raises ValueError on streams that are not one."""

    @property
    def ndim(self) -> int:
        """The number of axes of the dense array."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of entries of the dense array."""
        return int(np.prod(self.shape, dtype=np.int64))

    def stacked(self) -> "CompressedArray | None":
        """Returns an equal leaf whose every part has the first axis of `shape`; None where there is no such leaf.

        Slices of its parts along that axis are the leaves of its layers, which a scan over layers needs.
        """
        return None

    def integers(self) -> "tuple[jax.Array, jax.Array, jax.Array] | None":
        """Returns ``(codes, scale, zero_point)`` of weights rounded to integers, int8 and float32; None of others.

        The leaf means ``scale * (codes - zero_point)``; scale and zero point broadcast against the codes.
        """
        return None

    def storage_bits(self) -> int:
        """Returns the exact bits of the packed leaf's streams: values, indices, scales and codebooks included."""
        return 8 * sum(encode(pack(self)).bytes_by_coding().values())

    def map_arrays(self, function: Callable[[str, Any], Any]) -> "CompressedArray":
        """Replaces every data field by ``function(name, value)``; of a tuple each, under the name ``field/0``."""

        def visit(name: str, value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(visit(f"{name}/{i}", part) for i, part in enumerate(value))
            return function(name, value)

        changed = {name: visit(name, getattr(self, name)) for name in data_fields(type(self))}
        return dataclasses.replace(self, **changed)  # pyright: ignore (final classes are dataclasses)


class TrainingForm(CompressedArray):
    """Stands around a trained `weight` and means something made of it; packed it is a leaf of another class."""

    weight: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def dtype(self) -> Any:
        return self.weight.dtype

    def encode(self, kept: np.ndarray | None = None) -> Coded:
        return self.pack().encode(kept)

    @classmethod
    def decode(cls, coded: Coded, kept: np.ndarray | None = None) -> CompressedArray:
        raise ValueError(f"a file holds packed leaves; {cls.__name__} is a training form")


def fixed() -> Any:
    """Declares a data field that no optimiser may move."""
    return dataclasses.field(metadata={"fixed": True})


def static(default: Any = dataclasses.MISSING) -> Any:
    """Declares a field that belongs to the tree's structure and is known while tracing."""
    return dataclasses.field(default=default, metadata={"static": True})


@dataclass_transform(frozen_default=True, field_specifiers=(fixed, static))
def compressed(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen dataclass and registers it as a pytree.

    What JAX puts together from its parts is an instance, or what its class method ``rebuilt(**fields)`` makes of them.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    data, known = list(data_fields(cls)), list(static_fields(cls))
    rebuilt = getattr(cls, "rebuilt", None)
    if rebuilt is None:
        return jax.tree_util.register_dataclass(cls, data, known)
    keys, names = [jax.tree_util.GetAttrKey(name) for name in data], (*data, *known)

    def flatten(leaf: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(leaf, name) for name in data), tuple(getattr(leaf, name) for name in known)

    def flatten_with_keys(leaf: Any) -> tuple[list[Any], tuple[Any, ...]]:
        parts, rest = flatten(leaf)
        return list(zip(keys, parts, strict=True)), rest

    def unflatten(rest: Any, parts: Any) -> Any:
        return rebuilt(**dict(zip(names, (*parts, *rest), strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def data_fields(cls: type) -> dict[str, bool]:
    """Lists the data fields of a compressed class and whether each is fixed."""
    fields = dataclasses.fields(cls)
    return {f.name: f.metadata.get("fixed", False) for f in fields if not f.metadata.get("static")}


@functools.cache
def field_kinds(cls: type) -> dict[str, tuple[type, ...]]:
    """Lists the data fields of a compressed class and the classes of leaves that each takes, by its annotation."""
    hints = typing.get_type_hints(cls)
    return {name: tuple(_classes(hints[name])) for name in data_fields(cls)}


def _classes(hint: Any) -> Iterator[type]:
    """Lists the classes of a union, or of the entries of a tuple."""
    if typing.get_args(hint):
        for inner in typing.get_args(hint):
            yield from _classes(inner)
    elif isinstance(hint, type):
        yield hint


def static_fields(cls: type) -> list[str]:
    """Lists the static fields of a compressed class."""
    return [f.name for f in dataclasses.fields(cls) if f.metadata.get("static")]


def kinds() -> dict[str, type[CompressedArray]]:
    """Lists the final classes by name."""
    found: list[type[CompressedArray]] = [CompressedArray]
    for cls in found:  # grows while it is walked
        found.extend(cls.__subclasses__())
    return {cls.__name__: cls for cls in found if dataclasses.is_dataclass(cls)}


def is_compressed(leaf: Any) -> bool:
    """Tells whether `leaf` is a compressed array."""
    return isinstance(leaf, CompressedArray)


def dense(leaf: Any) -> jax.Array:
    """Returns the array that a leaf means; an array means itself."""
    return leaf.dense() if is_compressed(leaf) else leaf


def stacked(leaf: Any) -> Any:
    """Returns a leaf in a form that may be sliced along its first axis part by part; the dense array if need be."""
    if not is_compressed(leaf):
        return leaf
    sliced = leaf.stacked()
    return leaf.dense() if sliced is None else sliced


def by_layer(setting: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns a scalar setting as one for each layer of a stack of `shape`."""
    return setting if setting.ndim else jnp.broadcast_to(setting, shape[:1])


def densify(params: Any) -> Any:
    """Replaces every compressed leaf of a tree by the array it means."""
    return jax.tree.map(dense, params, is_leaf=is_compressed)


def dtype_name(dtype: Any) -> str:
    """Returns the name of the dtype that JAX computes with: without jax_enable_x64 float64 is float32."""
    return jax.dtypes.canonicalize_dtype(dtype).name


def pack(leaf: Any) -> Any:
    """Returns the storage form of a leaf; an array is its own."""
    return leaf.pack() if is_compressed(leaf) else jnp.asarray(leaf)


def encode(leaf: Any, kept: np.ndarray | None = None) -> Coded:
    """Lays a packed leaf or a plain array out as streams."""
    return leaf.encode(kept) if is_compressed(leaf) else encode_array(leaf, kept)


def decode(coded: Coded, kept: np.ndarray | None = None) -> Any:
    """Restores what `encode` laid out; raises ValueError on a kind that is not known."""
    if coded.kind == "array":
        return decode_array(coded, kept)
    known = kinds()
    if coded.kind not in known:
        raise ValueError(f"leaf kind {coded.kind!r} is not one of array, {', '.join(sorted(known))}")
    return known[coded.kind].decode(coded, kept)
