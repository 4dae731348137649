"""What all factorizations share: which leaves they take, and that the factors are smaller than what they replace."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from jaxcompress.arrays import CompressedArray, data_fields
from jaxcompress.paths import Params, rewrite
from jaxcompress.transform import Transform, identity_update, owned

Form = Callable[[str, Array], CompressedArray]  # path and kernel -> the leaf of its factors


class Declined(UserWarning):
    """Says that a kernel stays as it is, because its factors would hold more weights."""


def factorization(
    pattern: str, owner: str, form: Form, kind: type[CompressedArray] | None, *, always: bool
) -> Transform:
    """Replaces the matched kernels by what `form` makes of them, leaves of a `kind` or any, once, at `init`.

    Factors that hold more weights than the kernel are declined, by a `Declined` warning, unless `always`. From
    `init`: ValueError for leaves that are compressed already, are no kernel, or not finite; TypeError if it is traced.
    """

    def factor(path: str, leaf: Any) -> Any:
        if owned(leaf, owner):
            return leaf
        _check(path, leaf, kind)
        made = form(path, leaf)
        held = weights_held(made)
        if held > leaf.size and not always:
            told = f"{path} stays as it is: its factors would hold {held:,} weights, it holds {leaf.size:,}"
            warnings.warn(told, Declined, stacklevel=2)
            return leaf
        return made

    def init(params: Params) -> Params:
        return rewrite(params, pattern, factor)

    return Transform((owner,), init, identity_update)


def weights_held(leaf: CompressedArray) -> int:
    """Counts the weights of a leaf's factors."""
    return sum(part.size for part in jax.tree.leaves(leaf))


def _check(path: str, leaf: Any, kind: type[CompressedArray] | None) -> None:
    if isinstance(leaf, CompressedArray):
        factors = " and ".join(f"{path}/{name}" for name in data_fields(kind)) if kind else "its factors"
        raise ValueError(f"{path} is already {type(leaf).__name__}; factorize first, then mask or quantize {factors}")
    if isinstance(leaf, Tracer):
        raise TypeError(f"{path} is traced; factorize outside jit, since the rank decides shapes")
    if leaf.ndim < 2:
        raise ValueError(f"{path} has shape {leaf.shape}; a factorization needs a kernel of at least two axes")
    if not bool(jnp.all(jnp.isfinite(leaf))):
        raise ValueError(f"{path} holds values that are not finite and cannot be factorized")


def check_axes(path: str, kernel: Array, form: str, axes: int) -> None:
    """Raises ValueError for a kernel of another number of axes than a form needs."""
    if kernel.ndim != axes:
        raise ValueError(f"{path} has shape {kernel.shape}; {form} needs a convolution (height, width, in, out)")
