"""What the error of a kernel is weighed by: its inputs, or how much the loss depends on it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.interpreters.rows import rows
from jaxcompress.interpreters.uses import Use, uses
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

    Raises ValueError if there are no batches, for inputs that are not finite, and for a kernel that is not multiplied
    as it stands, or in groups.
    """
    summed = _summed(apply, params, pattern, batches, second_moment)
    return {path: damped(jnp.asarray(moment, jnp.float32), damping) for path, moment in summed.items()}


def activation_scales(
    apply: Callable[..., Any], params: Params, pattern: str, batches: Sequence[Any], *, alpha: float = 0.5
) -> Metric:
    """Returns the mean magnitudes of what multiplies the matched kernels, to the power of twice `alpha`, by path.

    As the diagonal of a metric they scale the rows before the SVD as ASVD does (Yuan et al. 2024, arXiv:2312.05821,
    section 3.2, with its `alpha`). Arguments, and what is raised, are those of `second_moments`.
    """
    summed = _summed(apply, params, pattern, batches, lambda x: jnp.sum(jnp.abs(x), axis=1))
    count = {path: max(float(np.max(total)), 1e-30) for path, total in summed.items()}
    scaled = {path: np.maximum(total / count[path], 1e-6) for path, total in summed.items()}
    return {path: jnp.asarray(scale ** (2 * alpha), jnp.float32) for path, scale in scaled.items()}


def fisher(
    loss: Callable[[Params, Any], Array], params: Params, pattern: str, batches: Sequence[Any], *, least: float = 1e-6
) -> Metric:
    """Returns the Fisher information of the rows of the matched kernels, by path, of batches of examples.

    The squared gradients of ``loss(params, batch)`` are summed over batches and over the outputs of a row; as the
    diagonal of a metric they weigh rows as FWSVD does (Hsu et al. 2022, arXiv:2207.00112). A row has at `least` that
    part of the largest. The smaller the batches, the nearer to the Fisher information of single examples.
    """
    if not len(batches):
        raise ValueError("there are no batches of examples; at least one is needed")
    slopes = jax.jit(jax.grad(loss))
    total: dict[str, np.ndarray] = {}
    for batch in batches:
        for path, slope in select(slopes(params, batch), pattern).items():
            rows_of = np.square(np.asarray(slope, np.float64)).reshape(-1, slope.shape[-1]).sum(-1)
            total[path] = total.get(path, 0) + rows_of
    for path, found in total.items():
        if not np.all(np.isfinite(found)):
            raise ValueError(f"the gradients of {path} are not finite on the batches given")
    floors = {path: max(least * float(found.max()), 1e-30) for path, found in total.items()}
    return {path: jnp.asarray(np.maximum(found, floors[path]), jnp.float32) for path, found in total.items()}


def _summed(
    apply: Callable[..., Any], params: Params, pattern: str, batches: Sequence[Any], statistic: Callable[[Array], Array]
) -> dict[str, np.ndarray]:
    """Sums a statistic of the rows that multiply each matched kernel over all batches."""
    if not len(batches):
        raise ValueError("there are no batches of inputs; at least one is needed")
    chosen = set(select(params, pattern))

    def measure(use: Use) -> Array | None:
        found = rows(use)
        return None if found is None else statistic(found.astype(jnp.float32))

    measured = jax.jit(lambda params, x: {p: of for p, of in uses(apply, measure)(params, x).items() if p in chosen})
    total: dict[str, np.ndarray] = {}
    for x in batches:
        found = measured(params, x)
        for path in sorted(chosen):
            values = found.get(path, [])
            if not values or any(value is None or len(value) != 1 for value in values):
                raise ValueError(f"{path} is not multiplied as it stands, and in one group: its inputs are not known")
            total[path] = total.get(path, 0) + np.sum([np.asarray(v[0], np.float64) for v in values], axis=0)
    for path, moment in total.items():
        if not np.all(np.isfinite(moment)):
            raise ValueError(f"the inputs of {path} are not finite on the batches given")
    return total
