"""What the error of a kernel is weighed by: its inputs, or how much the loss depends on it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.factorize import layouts
from jaxcompress.interpreters.rows import rows
from jaxcompress.interpreters.uses import Use, axes, uses
from jaxcompress.numerics.second_moment import damped, second_moment
from jaxcompress.paths import Params, select

Metric = dict[str, Array]


def second_moments(
    apply: Callable[..., Any], params: Params, pattern: str, batches: Sequence[Any], *, damping: float = 1e-4
) -> Metric:
    """Returns the second moments of what multiplies the matched kernels, each (rows, rows), by path.

    By it a truncated SVD is the best of its rank for the outputs on these inputs: the whitening of SVD-LLM (Wang et al.
    2025, arXiv:2403.07378). Inputs are those that ``apply(params, x)``, which need not be lifted, computes for every x
    of `batches`; `damping` times the mean of the diagonal is added to it. A moment is known up to a common factor.

    Of a kernel that is a stack, in a scan or a batch of products, there is one for each layer, (*stack, rows, rows).
    Rows are in the order of the kernel's axes that the model sums over, as `factorize.axes` tells them.

    Raises ValueError if there are no batches, for inputs that are not finite, and for a kernel that is not multiplied
    as it stands, transposed or reshaped, or in groups.
    """
    summed = _summed(apply, params, pattern, batches, second_moment, 2)
    every = {path: jnp.asarray(moment, jnp.float32) for path, moment in summed.items()}
    one = jnp.vectorize(lambda moment: damped(moment, damping), signature="(r,r)->(r,r)")
    return {path: one(moment) for path, moment in every.items()}


def activation_scales(
    apply: Callable[..., Any], params: Params, pattern: str, batches: Sequence[Any], *, alpha: float = 0.5
) -> Metric:
    """Returns the mean magnitudes of what multiplies the matched kernels, to the power of twice `alpha`, by path.

    As the diagonal of a metric they scale the rows before the SVD as ASVD does (Yuan et al. 2024, arXiv:2312.05821,
    section 3.2, with its `alpha`). Arguments, and what is raised, are those of `second_moments`.
    """
    summed = _summed(apply, params, pattern, batches, lambda x: jnp.sum(jnp.abs(x), axis=1), 1)
    count = {path: np.maximum(np.max(total, axis=-1, keepdims=True), 1e-30) for path, total in summed.items()}
    scaled = {path: np.maximum(total / count[path], 1e-6) for path, total in summed.items()}
    return {path: jnp.asarray(scale ** (2 * alpha), jnp.float32) for path, scale in scaled.items()}


def fisher(
    loss: Callable[[Params, Any], Array],
    params: Params,
    pattern: str,
    batches: Sequence[Any],
    *,
    least: float = 1e-6,
    axes: layouts.Layout = None,
) -> Metric:
    """Returns the Fisher information of the rows of the matched kernels, by path, of batches of examples.

    The squared gradients of ``loss(params, batch)`` are summed over batches and over the outputs of a row; as the
    diagonal of a metric they weigh rows as FWSVD does (Hsu et al. 2022, arXiv:2207.00112). A row has at `least` that
    part of the largest. The smaller the batches, the nearer to the Fisher information of single examples. Rows are
    those of the matrix that `axes`, or the convention, make of a kernel, as for `svd`; of a stack each layer has its
    own.
    """
    if not len(batches):
        raise ValueError("there are no batches of examples; at least one is needed")
    slopes = jax.jit(jax.grad(loss))
    total: dict[str, np.ndarray] = {}
    for batch in batches:
        for path, slope in select(slopes(params, batch), pattern).items():
            own = layouts.axes_of(axes, path, slope.shape, layouts.squarest)
            squared = own.layers(np.square(np.asarray(slope, np.float64))).sum(-1)
            total[path] = total.get(path, 0) + squared.reshape(*own.sizes(slope.shape, own.stack), -1)
    for path, found in total.items():
        if not np.all(np.isfinite(found)):
            raise ValueError(f"the gradients of {path} are not finite on the batches given")
    floors = {path: np.maximum(least * found.max(-1, keepdims=True), 1e-30) for path, found in total.items()}
    return {path: jnp.asarray(np.maximum(found, floors[path]), jnp.float32) for path, found in total.items()}


def _summed(
    apply: Callable[..., Any],
    params: Params,
    pattern: str,
    batches: Sequence[Any],
    statistic: Callable[[Array], Array],
    entry_axes: int,
) -> dict[str, np.ndarray]:
    """Sums a statistic, of `entry_axes` for each layer, of the rows that multiply each matched kernel over batches."""
    if not len(batches):
        raise ValueError("there are no batches of inputs; at least one is needed")
    table = axes(apply, params, pattern, batches[0])
    for path, own in table.items():
        if own.groups > 1:
            raise ValueError(f"{path} is not multiplied as it stands, and in one group: its inputs are not known")

    def measure(use: Use) -> Array | None:
        found = rows(use)
        return None if found is None else statistic(found.astype(jnp.float32))

    measured = jax.jit(lambda params, x: {p: of for p, of in uses(apply, measure)(params, x).items() if p in table})
    leaves, total = select(params, pattern), {}
    for x in batches:
        found = measured(params, x)
        for path, own in table.items():
            if any(value is None for value in found[path]):
                raise ValueError(f"{path} is not multiplied as it stands: its inputs are not known")
            stack = own.sizes(leaves[path].shape, own.stack)
            summed = np.sum([np.asarray(value, np.float64) for value in found[path]], axis=0)
            total[path] = total.get(path, 0) + summed.reshape(*stack, *summed.shape[summed.ndim - entry_axes :])
    for path, moment in total.items():
        if not np.all(np.isfinite(moment)):
            raise ValueError(f"the inputs of {path} are not finite on the batches given")
    return total
