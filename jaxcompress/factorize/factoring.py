"""What all factorizations share: which leaves they take, and that the factors are smaller than what they replace."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from jaxcompress.arrays import CompressedArray, Factored, data_fields
from jaxcompress.factorize.layouts import Convention, Layout, axes_of, placed, squarest
from jaxcompress.interpreters.axes import Axes
from jaxcompress.paths import Params, rewrite
from jaxcompress.transform import Transform, identity_update, owned
from jaxcompress.weights import checked_weight

# path, kernel as (layers, *window, inputs, outputs), and its axes -> the leaf of the factors of each layer
Form = Callable[[str, Array, Axes], list[Factored]]


class Declined(UserWarning):
    """Says that a kernel stays as it is, because its factors would hold more weights, or take more multiply-adds."""


def factorization(
    pattern: str,
    owner: str,
    form: Form,
    kind: type[CompressedArray] | None,
    *,
    always: bool,
    axes: Layout = None,
    convention: Convention = squarest,
) -> Transform:
    """Replaces the matched kernels by what `form` makes of them, leaves of a `kind` or any, once, at `init`.

    Which matrix a kernel is, `axes` tell, or the `convention` of the form. Factors that hold more weights than the
    kernel, or take more multiply-adds where the axes were read from a program, are declined, by a `Declined` warning,
    unless `always`. From `init`: ValueError, with the path, for leaves that are compressed already, are no kernel,
    empty, not floating-point, or not finite, for axes that are not theirs, and for factors that overflow the kernel's
    dtype; TypeError if it is traced.
    """

    def factor(path: str, leaf: Any) -> Any:
        if owned(leaf, owner):
            return leaf
        kernel = _checked(path, leaf, kind)
        own = axes_of(axes, path, kernel.shape, convention)
        made = placed(form(path, own.layers(kernel), own), own, kernel.shape)
        _check_factors(path, made)
        dearer = None if always else _dearer(kernel, made, own)
        if dearer is not None:
            warnings.warn(f"{path} stays as it is: {dearer}", Declined, stacklevel=2)
            return leaf
        return made

    def init(params: Params) -> Params:
        return rewrite(params, pattern, factor)

    return Transform((owner,), init, identity_update)


def weights_held(leaf: CompressedArray) -> int:
    """Counts the weights of a leaf's factors."""
    return sum(part.size for part in jax.tree.leaves(leaf))


def _dearer(kernel: Array, made: CompressedArray, axes: Axes) -> str | None:
    """Says in what factors would cost more than their kernel; None if in nothing that is known."""
    held = weights_held(made)
    if held > kernel.size:
        return f"its factors would hold {held:,} weights, it holds {kernel.size:,}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that factors are multiplied out is counted here
        with_factors, without = axes.multiply_adds(made), axes.multiply_adds(kernel)
    if with_factors is None or without is None or with_factors <= without:
        return None
    return f"its factors would take {with_factors:,} multiply-adds, it takes {without:,}"


def _checked(path: str, leaf: Any, kind: type[CompressedArray] | None) -> Array:
    if isinstance(leaf, CompressedArray):
        factors = " and ".join(f"{path}/{name}" for name in data_fields(kind)) if kind else "its factors"
        raise ValueError(f"{path} is already {type(leaf).__name__}; factorize first, then mask or quantize {factors}")
    if isinstance(leaf, Tracer):
        raise TypeError(f"{path} is traced; factorize outside jit, since the rank decides shapes")
    kernel = checked_weight(path, leaf, "factorized")
    if kernel.ndim < 2:
        raise ValueError(f"{path} has shape {kernel.shape}; a factorization needs a kernel of at least two axes")
    return kernel


def _check_factors(path: str, leaf: CompressedArray) -> None:
    finite = [bool(jnp.all(jnp.isfinite(part))) for part in (*jax.tree.leaves(leaf), leaf.dense())]
    if not all(finite):
        raise ValueError(f"{path} of dtype {leaf.dtype} cannot be factorized: its factors, or their product, overflow")


def check_window(path: str, layers: Array, form: str, counts: range) -> None:
    """Raises ValueError for kernels (layers, *window, inputs, outputs) of another number of axes than a form takes."""
    if layers.ndim - 3 not in counts:
        raise ValueError(
            f"{path} has shape {layers.shape[1:]}; {form} needs a convolution (height, width, in, out), or one whose"
            f" window has {counts[0]} to {counts[-1]} axes"
        )


def check_groups(path: str, axes: Axes, form: str) -> None:
    """Raises ValueError for a kernel of a grouped convolution, for which a form has no meaning."""
    if axes.groups > 1:
        raise ValueError(f"{path} is the kernel of a convolution of {axes.groups} groups, for which {form} has no form")
