"""Leaves as tensors of tensorly."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcompress.arrays import CP, CompressedArray, LowRank, TensorRing, TensorTrain, Tucker, Tucker2, dense
from jaxcompress.factorize.tensorly.backend import load


def to_tensor(leaf: CompressedArray) -> Any:
    """Returns the tensor of tensorly that a leaf means, its arrays those of the backend that is set.

    A `CP` and a `LowRank` matrix become a CPTensor with weights of one; a `Tucker`, a `Tucker2` and a `LowRank`
    convolution a TuckerTensor, with the identity for axes without a factor; a `TensorRing` a TRTensor; a `TensorTrain`
    a TTMatrix, or a TTTensor if every core is of inputs or of outputs alone, inputs first, as in one that was made of a
    TTTensor. The window of a `TensorTrain` is one mode. Arrays of less than 32 bits become float32.

    Raises ValueError for a leaf of another class or whose axes are not (*window, in, out), and ImportError where
    tensorly is not installed.
    """
    tensorly = load()
    tensor = _TENSORS.get(type(leaf))
    if tensor is None:
        known = ", ".join(sorted(kind.__name__ for kind in _TENSORS))
        raise ValueError(f"tensorly has no tensor for {type(leaf).__name__}; it has for {known}")
    if leaf.stack_axes:  # pyright: ignore[reportAttributeAccessIssue] (all that have one are Factored)
        raise ValueError(f"a {type(leaf).__name__} of shape {leaf.shape} is a stack of layers, and no one tensor")
    return tensor(leaf, tensorly)


def _cp(leaf: CP, tensorly: Any) -> Any:
    return _sum([*leaf.window, leaf.u, dense(leaf.v).T], tensorly)


def _low_rank(leaf: LowRank, tensorly: Any) -> Any:
    if leaf.output_axes != 1:
        raise ValueError(f"a LowRank of shape {leaf.shape} with several output axes is no tensor of tensorly's")
    if leaf.input_axes == 1:
        return _sum([leaf.u, dense(leaf.v).T], tensorly)
    return _core(leaf.u, [dense(leaf.v).T], tensorly)


def _tucker2(leaf: Tucker2, tensorly: Any) -> Any:
    return _core(leaf.core, [leaf.u, dense(leaf.v).T], tensorly)


def _tucker(leaf: Tucker, tensorly: Any) -> Any:
    return _core(leaf.core, [*leaf.window, leaf.u, dense(leaf.v).T], tensorly)


def _train(leaf: TensorTrain, tensorly: Any) -> Any:
    window = [dense(core).reshape(1, -1, 1, core.shape[-1]) for core in leaf.places]
    cores = [*window, *(dense(core) for core in leaf.cores)]
    of_outputs = [core.shape[1] == 1 for core in cores]
    if of_outputs != sorted(of_outputs) or any(1 not in core.shape[1:3] for core in cores):
        return tensorly.tt_matrix.TTMatrix(_arrays(cores, tensorly))
    modes = [core.reshape(core.shape[0], -1, core.shape[3]) for core in cores]
    return tensorly.tt_tensor.TTTensor(_arrays(modes, tensorly))


def _ring(leaf: TensorRing, tensorly: Any) -> Any:
    return tensorly.tr_tensor.TRTensor(_arrays(leaf.cores, tensorly))


def _sum(factors: Sequence[Any], tensorly: Any) -> Any:
    return tensorly.cp_tensor.CPTensor((None, _arrays(factors, tensorly)))


def _core(core: Any, factors: Sequence[Any], tensorly: Any) -> Any:
    """Returns a Tucker tensor with factors of its last axes, and the identity for those before."""
    without = core.shape[: core.ndim - len(factors)]
    every = [*(jnp.eye(size, dtype=core.dtype) for size in without), *factors]
    return tensorly.tucker_tensor.TuckerTensor((_arrays([core], tensorly)[0], _arrays(every, tensorly)))


def _arrays(parts: Sequence[Any], tensorly: Any) -> list[Any]:
    arrays = [dense(part) for part in parts]
    wide = [x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x for x in arrays]
    return [tensorly.tensor(np.asarray(x)) for x in wide]


_TENSORS: dict[type[CompressedArray], Callable[[Any, Any], Any]] = {
    CP: _cp,
    LowRank: _low_rank,
    Tucker: _tucker,
    Tucker2: _tucker2,
    TensorTrain: _train,
    TensorRing: _ring,
}
