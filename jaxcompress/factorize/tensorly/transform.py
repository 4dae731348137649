"""Any decomposition of tensorly as a transform."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax import Array

from jaxcompress.arrays import Factored, TensorRing, TensorTrain
from jaxcompress.factorize import layouts
from jaxcompress.factorize.factoring import check_groups, factorization
from jaxcompress.factorize.tensorly.backend import numpy_backend
from jaxcompress.factorize.tensorly.leaves import to_leaf
from jaxcompress.interpreters.axes import Axes
from jaxcompress.numerics.precision import widened
from jaxcompress.transform import Transform


def by(
    pattern: str,
    decompose: Callable[[np.ndarray], Any],
    *,
    inputs: Sequence[int] | None = None,
    outputs: Sequence[int] | None = None,
    modes: Sequence[int] | None = None,
    axes: layouts.Layout = None,
    always: bool = False,
    name: str | None = None,
) -> Transform:
    """Replaces the matched kernels by what ``decompose(array)`` returns, a tensor of tensorly.

    The array is the kernel (*window, in, out) in NumPy, float32 or float64, its last two axes split into the modes
    `inputs` and `outputs` where these are given, as a train, a ring or a TT-matrix of many cores needs them. The tensor
    becomes the leaf that `to_leaf` says, `modes` being those of a partial Tucker decomposition, in the kernel's dtype.
    Which matrix or convolution a kernel is, `axes` tell, as those of `svd`, or else the modes; of a stack every layer
    is decomposed, and has factors of the same shapes.
    tensorly's rules of ranks (``validate_cp_rank`` and the like, and the fractions and ``'same'`` that its functions
    take in place of a rank) hold as there. Its numpy backend is set while ``decompose`` runs, and what was set before
    afterwards; randomness is the ``random_state`` that it passes on. For example::

        jc.factorize.by("conv2/kernel", lambda w: parafac(w, rank=8, l2_reg=1e-3, random_state=0))
        jc.factorize.by("fc1/kernel", lambda w: tensor_ring(w, rank=4), inputs=(20, 40), outputs=(20, 25))
        jc.factorize.by("fc1/kernel", lambda w: tensor_train_matrix(w, rank=8), inputs=(20, 40), outputs=(20, 25))

    The decompositions of this package, `svd`, `tucker2`, `tucker`, `cp` and `tensor_train`, are compiled, and mostly
    faster where both have one.

    Factors that would hold more weights than the kernel are declined, with a `Declined` warning, unless `always`.
    Raises ValueError for modes below 1, and, with the path, from `init`, for modes that do not multiply to the kernel,
    for what is no tensor of tensorly's or one of another shape, and as `svd` does; ImportError, from `init`, where
    tensorly is not installed. What `decompose` raises is passed on.
    """
    for what, numbers in (("inputs", inputs), ("outputs", outputs)):
        if numbers is not None and not all(
            isinstance(n, int | np.integer) and n >= 1 for n in (*numbers, len(numbers))
        ):
            raise ValueError(f"{what} {tuple(numbers)} for pattern {pattern!r} are not integers of at least 1")
    owner = name or f"by[{pattern}]"

    def by_modes(path: str, shape: tuple[int, ...]) -> Axes:
        if inputs is None or outputs is None:
            return layouts.squarest(path, shape)
        return layouts.by_sizes(path, shape, math.prod(inputs), math.prod(outputs))

    def leaf(path: str, layer: Array, own: Axes) -> Factored:
        array = np.asarray(widened(layer)).reshape(_split(path, layer.shape, inputs, outputs))
        with numpy_backend():
            tensor = decompose(array)
            try:
                leaf = to_leaf(tensor, layer.shape, modes=modes, owner=owner)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
        if isinstance(leaf, TensorTrain | TensorRing):
            check_groups(path, own, f"a {type(leaf).__name__}")
        return leaf.map_arrays(lambda _, part: part.astype(layer.dtype))  # pyright: ignore (of the same class)

    def factors(path: str, layers: Array, own: Axes) -> list[Factored]:
        leaves = [leaf(path, layer, own) for layer in layers]
        shapes = {tuple(part.shape for part in one.parts()) for one in leaves}
        if len(shapes) > 1:
            raise ValueError(f"the layers of {path} have factors of shapes {sorted(shapes)}; a stack has those of one")
        return leaves

    return factorization(pattern, owner, factors, None, always=always, axes=axes, convention=by_modes)


def _split(
    path: str, shape: tuple[int, ...], inputs: Sequence[int] | None, outputs: Sequence[int] | None
) -> tuple[int, ...]:
    *window, rows, columns = shape
    split = tuple(inputs or (rows,)), tuple(outputs or (columns,))
    if (math.prod(split[0]), math.prod(split[1])) != (rows, columns):
        raise ValueError(f"modes {split[0]} and {split[1]} do not multiply to {path}, shape {shape}")
    return (*window, *split[0], *split[1])
