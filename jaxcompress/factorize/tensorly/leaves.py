"""Tensors of tensorly as leaves."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.arrays import CP, CompressedArray, LowRank, TensorRing, TensorTrain, Tucker, Tucker2
from jaxcompress.factorize.tensorly.reading import Tensor, read


def to_leaf(
    tensor: Any, shape: Sequence[int] | None = None, *, modes: Sequence[int] | None = None, owner: str = ""
) -> CompressedArray:
    """Returns a tensor of tensorly as the leaf of a kernel of `shape` (*window, in, out).

    Without a `shape` every mode is an axis; with one, modes are gathered in their order to its axes, those of the
    window one to one (or all to one, in a train). A CPTensor becomes a `LowRank` matrix or the `CP` of a convolution,
    its weights shared evenly among the factors; a TuckerTensor a `Tucker2` matrix or the `Tucker` of a convolution; a
    TTTensor or TTMatrix a `TensorTrain`; a TRTensor a `TensorRing`. Plain pairs and lists of the same arrays are taken
    as well: (weights, factors), (core, factors), cores; and from pairs with the errors of a fit these are left out. A
    core with fewer factors than axes, as ``partial_tucker`` gives, has those of the axes `modes`, by default the last.
    A symmetric pair (weights, factor) has the one factor for every mode. Arrays keep their dtype, as far as JAX has it.

    Raises ValueError for what is none of these, modes that do not multiply to the shape, and a partial Tucker tensor
    without the factors that a leaf needs; ImportError where tensorly is not installed.
    """
    read_tensor = read(tensor)
    if read_tensor.kind == "Tucker":
        return _tucker(read_tensor, shape, modes, owner)
    if read_tensor.kind == "symmetric CP":
        read_tensor = _unfolded(read_tensor, shape)
    sizes = read_tensor.sizes
    whole = tuple(shape if shape is not None else _matrix(read_tensor) or sizes)
    if len(whole) < 2:
        raise ValueError(f"a tensor of modes {sizes} is no kernel (*window, in, out)")
    leaf = _FORMS[read_tensor.kind](read_tensor, whole)
    if leaf is None or leaf.shape != whole:
        raise ValueError(f"a {read_tensor.kind} tensor of modes {sizes} is no kernel of shape {whole}")
    return replace(leaf, owner=owner)  # pyright: ignore (a final dataclass)


def _matrix(tensor: Tensor) -> tuple[int, ...] | None:
    """Returns the shape of the matrix that a TT-matrix is."""
    if tensor.kind != "TT-matrix":
        return None
    return math.prod(core.shape[1] for core in tensor.factors), math.prod(core.shape[2] for core in tensor.factors)


def _unfolded(tensor: Tensor, shape: Sequence[int] | None) -> Tensor:
    """Returns a symmetric sum with its factor repeated for as many modes as make up the shape."""
    (factor,) = tensor.factors
    entries = len(factor) ** 2 if shape is None else math.prod(shape)
    order = next((n for n in range(2, 65) if len(factor) ** n >= entries), 2)
    return Tensor("CP", [factor] * order, tensor.core)


def _gathered(sizes: Sequence[int], shape: Sequence[int]) -> list[int] | None:
    """Returns how many modes, in their order, multiply to each axis of the shape; None if they do not."""
    counts, at = [], 0
    for axis, size in enumerate(shape):
        last, start, product = axis == len(shape) - 1, at, 1
        while at < len(sizes) and (at == start or product < size or last):
            product, at = product * sizes[at], at + 1
        if product != size or at == start:
            return None
        counts.append(at - start)
    return counts


def _sum(tensor: Tensor, shape: tuple[int, ...]) -> CompressedArray | None:
    """Returns a sum of products, modes of one axis multiplied out."""
    counts = _gathered(tensor.sizes, shape)
    if counts is None or tensor.core is None:
        return None
    number = len(tensor.factors)
    share = np.abs(tensor.core) ** (1 / number)
    weighted = [factor * share for factor in tensor.factors]
    weighted[-1] = weighted[-1] * np.sign(tensor.core)
    axes = []
    for count in counts:
        together, weighted = weighted[:count], weighted[count:]
        axes.append(_pairs(together))
    *window, u, v = map(jnp.asarray, axes)
    if not window:
        return LowRank(u, v.T, 1, 1)
    return CP(tuple(window), u, v.T)


def _pairs(factors: list[np.ndarray]) -> np.ndarray:
    """Returns the products of all choices of one row of each factor, those of the last running fastest."""
    whole = factors[0]
    for factor in factors[1:]:
        whole = (whole[:, None] * factor[None]).reshape(-1, whole.shape[1])
    return whole


def _tucker(tensor: Tensor, shape: Sequence[int] | None, modes: Sequence[int] | None, owner: str) -> CompressedArray:
    """Returns a core and factors of some of its axes as the smallest leaf that means them."""
    assert tensor.core is not None
    axes, number = tensor.core.ndim, len(tensor.factors)
    chosen = [axis % axes for axis in (range(axes - number, axes) if modes is None else modes)]
    factors = dict(zip(chosen, tensor.factors, strict=False))
    if len(factors) != number or len(chosen) != number:
        raise ValueError(f"{number} factors of a core {tensor.core.shape} are not those of its modes {tuple(chosen)}")
    sizes = tuple(len(factors[i]) if i in factors else size for i, size in enumerate(tensor.core.shape))
    if any(factor.shape[1] != tensor.core.shape[axis] for axis, factor in factors.items()):
        shapes = [factor.shape for factor in tensor.factors]
        raise ValueError(f"factors of shapes {shapes} do not fit modes {tuple(chosen)} of a core {tensor.core.shape}")
    if shape is not None and sizes != tuple(shape):
        raise ValueError(f"a Tucker tensor of modes {sizes} is no kernel of shape {tuple(shape)}")
    return replace(_of_core(tensor.core, factors), owner=owner)  # pyright: ignore (a final dataclass)


def _of_core(core: np.ndarray, factors: dict[int, np.ndarray]) -> CompressedArray:
    last, before = core.ndim - 1, core.ndim - 2
    if before > 0 and len(factors) == core.ndim:
        *window, u, v = (jnp.asarray(factors[axis]) for axis in range(core.ndim))
        return Tucker(tuple(window), u, jnp.asarray(core), v.T)
    for axis in range(before):  # factors of a window alone are small beside the core that they make
        if axis in factors:
            core = np.moveaxis(np.tensordot(factors[axis], core, ((1,), (axis,))), 0, axis)
    u, v = factors.get(before), factors.get(last)
    whole = jnp.asarray(core)
    if u is not None and v is not None:
        return Tucker2(jnp.asarray(u), whole, jnp.asarray(v).T)
    if v is not None:
        return LowRank(whole, jnp.asarray(v).T, core.ndim - 1, 1)
    if u is not None and core.ndim == 2:
        return LowRank(jnp.asarray(u), whole, 1, 1)
    raise ValueError(f"a Tucker tensor with factors of modes {sorted(factors)} alone has no leaf; it needs the last's")


def _train(tensor: Tensor, shape: tuple[int, ...]) -> CompressedArray | None:
    """Returns a train of modes as one of pairs, each with a mode of 1."""
    spatial = len(shape) - 2
    merged = (math.prod(shape[:-2]), *shape[-2:]) if spatial else shape
    counts = _gathered(tensor.sizes, merged)
    if counts is None:
        return None
    cores = [jnp.asarray(core) for core in tensor.factors]
    places, cores = cores[: counts[0]] if spatial else [], cores[counts[0] if spatial else 0 :]
    of_inputs = counts[-2]
    pairs = [core[:, :, None] if i < of_inputs else core[:, None] for i, core in enumerate(cores)]
    return TensorTrain(tuple(pairs), _places(places, shape[:-2]))


def _paired_train(tensor: Tensor, shape: tuple[int, ...]) -> CompressedArray | None:
    cores = [jnp.asarray(core) for core in tensor.factors]
    if len(shape) == 2:
        return TensorTrain(tuple(cores))
    first, *others = cores
    if first.shape[:3] != (1, math.prod(shape[:-2]), 1) or not others:
        return None
    return TensorTrain(tuple(others), _places([first[:, :, 0]], shape[:-2]))


def _places(cores: list[Array], window: tuple[int, ...]) -> tuple[Array, ...]:
    """Returns the cores of a window as one (*window, rank); none if there are none."""
    if not cores:
        return ()
    whole = cores[0]
    for core in cores[1:]:
        whole = jnp.tensordot(whole, core, 1)
    return (whole.reshape(*window, -1),)


def _ring(tensor: Tensor, shape: tuple[int, ...]) -> CompressedArray | None:
    counts = _gathered(tensor.sizes, shape)
    if counts is None or any(count != 1 for count in counts[:-2]):
        return None
    cores = tuple(jnp.asarray(core) for core in tensor.factors)
    spatial, inputs = len(shape) - 2, len(shape) - 2 + counts[-2]
    return TensorRing(cores[:spatial], cores[spatial:inputs], cores[inputs:])


_FORMS = {"CP": _sum, "TT": _train, "TT-matrix": _paired_train, "TR": _ring}
