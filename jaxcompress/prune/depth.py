"""Layer pruning: whole residual branches leave, so that ``x + f(x)`` becomes ``x``."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.arrays import Zeros
from jaxcompress.interpreters.residuals import Branch, sums
from jaxcompress.interpreters.residuals import branches as branches
from jaxcompress.paths import Params, did_you_mean, flatten, replaced


def drop(params: Params, found: Sequence[Branch], names: Collection[str]) -> Params:
    """Drops the branches of these `names` from a model: all parameters of their own become `Zeros`.

    The model as `jaxcompress.lift` runs it gives what it gives without them, and multiplies nothing in their place;
    a file stores one number for each of their parameters. Identity shortcuts are all that can stand in for a branch, so
    `found` is what `branches` found in the model. Raises ValueError for a name that is not there.
    """
    there = {branch.name: branch for branch in found}
    for name in names:
        if name not in there:
            raise ValueError(
                f"there is no branch {name!r}{did_you_mean(name, list(there))}; there are {', '.join(there)}"
            )
    leaves = flatten(params)
    paths = {path for name in names for path in there[name].parameters}
    return replaced(params, {p: Zeros(jnp.zeros((), leaves[p].dtype), tuple(leaves[p].shape)) for p in paths})


def relative_norms(
    apply: Callable[..., Any], params: Params, found: Sequence[Branch], batches: Iterable[Array]
) -> dict[str, float]:
    """Returns, for every branch, ``|f(x)| / |x|``: what it adds, against what it is added to.

    Norms are Euclidean over all of `batches` of inputs to ``apply(params, x)``. The smaller, the less is lost by
    `drop`. Raises ValueError if there are no batches, and for norms that are not finite.
    """
    at = {branch.addition: branch for branch in found}

    def squares(position: int, left: Array, right: Array) -> Any:
        if position not in at:
            return None
        added, to = (left, right) if at[position].side == 0 else (right, left)
        return jnp.stack([jnp.sum(jnp.square(part.astype(jnp.float32))) for part in (added, to)])

    measure = jax.jit(sums(apply, squares))
    measured = [measure(params, x) for x in batches]
    if not measured:
        raise ValueError("there are no batches of inputs; at least one is needed")
    norms = {}
    for position, branch in at.items():
        added, to = np.sqrt(np.sum([np.asarray(of[position], np.float64) for of in measured], axis=0))
        if not np.isfinite(added) or not np.isfinite(to):
            raise ValueError(f"the branch {branch.name}, or what it is added to, is not finite on the batches given")
        norms[branch.name] = float(added / to) if to > 0 else float("inf") if added > 0 else 0.0
    return norms


def loss_changes(
    loss: Callable[[Params, Any], Array], params: Params, found: Sequence[Branch], batches: Sequence[Any]
) -> dict[str, float]:
    """Returns, for every branch, how much the mean of ``loss(params, batch)`` rises when it alone is dropped.

    `loss` runs a lifted model. One program is compiled for each branch. Raises ValueError if there are no batches.
    """
    if not len(batches):
        raise ValueError("there are no batches; at least one is needed")
    measure = jax.jit(loss)

    def mean(params: Params) -> float:
        return float(np.mean([np.asarray(measure(params, batch), np.float64) for batch in batches]))

    before = mean(params)
    return {branch.name: mean(drop(params, found, [branch.name])) - before for branch in found}
