"""What tensorly's functions return, read as one of a few kinds of tensor."""

from typing import Any, NamedTuple

import numpy as np

from jaxcompress.factorize.tensorly.backend import load

KINDS = ("CP", "symmetric CP", "Tucker", "TT", "TT-matrix", "TR")


class Tensor(NamedTuple):
    """Holds a tensor: its kind, of `KINDS`, its factors or cores, and the weights of a CP or the core of a Tucker."""

    kind: str
    factors: list[np.ndarray]
    core: np.ndarray | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of its modes, those of the inputs before those of the outputs in a TT-matrix."""
        if self.kind == "TT-matrix":
            return (*(core.shape[1] for core in self.factors), *(core.shape[2] for core in self.factors))
        axis = 1 if self.kind in ("TT", "TR") else 0
        return tuple(factor.shape[axis] for factor in self.factors)


def read(tensor: Any) -> Tensor:
    """Reads one of tensorly's tensors, or the pairs and lists of arrays that stand for them.

    These are (weights, factors), (core, factors), the (weights, factor) of a symmetric decomposition, lists of cores of
    three or four axes, and a pair of any of them and the errors of its fit, which are left out. Raises ValueError for
    anything else, and for arrays that are not real numbers.
    """
    tensorly = load()
    classes = {
        "CP": tensorly.cp_tensor.CPTensor,
        "Tucker": tensorly.tucker_tensor.TuckerTensor,
        "TT": tensorly.tt_tensor.TTTensor,
        "TT-matrix": tensorly.tt_matrix.TTMatrix,
        "TR": tensorly.tr_tensor.TRTensor,
    }
    for kind, cls in classes.items():
        if isinstance(tensor, cls):
            return _of_pair(*tensor) if kind in ("CP", "Tucker") else Tensor(kind, _arrays(tensor.factors))
    if not isinstance(tensor, tuple | list) or not tensor:
        raise ValueError(f"a {type(tensor).__name__} is no tensor of tensorly's; those are {', '.join(classes)}")
    if isinstance(tensor[0], (tuple, list, *classes.values())):  # a tensor and the errors of its fit
        return read(tensor[0])
    if len(tensor) == 2 and isinstance(tensor[1], tuple | list):
        return _of_pair(*tensor)
    return _of_arrays(_arrays(tensor))


def _of_pair(first: Any, factors: Any) -> Tensor:
    factors = _arrays(factors)
    if any(factor.ndim != 2 for factor in factors) or not factors:
        raise ValueError(f"factors of shapes {_shapes(factors)} are not matrices (size, rank)")
    core = np.ones(factors[0].shape[1], factors[0].dtype) if first is None else _arrays([first])[0]
    kind = "CP" if core.ndim == 1 else "Tucker"
    ranks = [len(core)] * len(factors) if core.ndim == 1 else [*core.shape]
    if kind == "CP" and [factor.shape[1] for factor in factors] != ranks:
        raise ValueError(f"factors of shapes {_shapes(factors)} do not have the {len(core)} columns of their weights")
    return Tensor(kind, factors, core)


def _of_arrays(arrays: list[np.ndarray]) -> Tensor:
    axes = [array.ndim for array in arrays]
    if axes == [1, 2] and len(arrays[0]) == arrays[1].shape[1]:
        return Tensor("symmetric CP", arrays[1:], arrays[0])
    ends = all(a.shape[-1] == b.shape[0] for a, b in zip(arrays, arrays[1:] + arrays[:1], strict=True))
    if set(axes) == {4} and ends:
        return Tensor("TT-matrix", arrays)
    if set(axes) == {3} and ends:
        return Tensor("TT" if len(arrays[0]) == 1 else "TR", arrays)
    raise ValueError(f"arrays of shapes {_shapes(arrays)} are no tensor of tensorly's")


def _arrays(parts: Any) -> list[np.ndarray]:
    tensorly = load()
    arrays = [part if isinstance(part, np.ndarray) else np.asarray(tensorly.to_numpy(part)) for part in parts]
    for array in arrays:
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"factors of dtype {array.dtype} are not real numbers")
    return arrays


def _shapes(arrays: list[np.ndarray]) -> str:
    return ", ".join(str(array.shape) for array in arrays)
