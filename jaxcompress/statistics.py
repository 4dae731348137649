"""Running statistics of batch normalization, measured anew for a model whose weights were compressed."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.arrays import Sliced, Zeros, dense, is_compressed, sliced
from jaxcompress.paths import Params, flatten, replaced


def reestimate(
    update: Callable[[Params, Any], Params], statistics: Params, batches: Iterable[Any], *, momentum: float
) -> Params:
    """Returns the running means and variances of batch normalization as `batches` give them.

    ``update(statistics, batch)`` returns the statistics after one batch of training, which the model moves by the rule
    ``momentum * old + (1 - momentum) * batch's``, as Linen and NNX do (PyTorch's momentum is one minus this one). It is
    called with zeros for the old ones, on which a model in training does not depend, so that the batch's own are known
    exactly; these are averaged over the batches, by their numbers of examples, as PyTorch's ``update_bn`` averages
    them. Every layer is normalized by its batch meanwhile. `momentum` may be zero.

    Statistics of removed channels (`Sliced`), and of removed layers (`Zeros`), stay removed. For a model of
    Linen that was cut::

        apply = jc.lift(model.apply)

        def update(statistics, x):
            variables = {"params": params, "batch_stats": statistics}
            return apply(variables, x, train=True, mutable=["batch_stats"])[1]["batch_stats"]

    Raises ValueError for a momentum outside [0, 1), no batches, statistics that are compressed in another way, results
    that are not the statistics given or not finite.
    """
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum {momentum!r} is not in [0, 1): it is what running statistics keep of the old ones")
    leaves = {path: leaf for path, leaf in flatten(statistics).items() if not isinstance(leaf, Zeros)}
    for path, leaf in leaves.items():
        if is_compressed(leaf) and not isinstance(leaf, Sliced):
            raise ValueError(f"{path} is a {type(leaf).__name__}; statistics are arrays, or Sliced ones")
    start = jax.tree.map(jnp.zeros_like, statistics)

    @jax.jit
    def measure(start: Params, batch: Any) -> dict[str, Array]:
        found = flatten(update(start, batch))
        if found.keys() != flatten(statistics).keys():
            raise ValueError(f"update returns {sorted(found)}; the statistics are {sorted(flatten(statistics))}")
        return {path: _left(dense(found[path]), leaf).astype(jnp.float32) for path, leaf in leaves.items()}

    sizes, means = [], []
    for batch in batches:
        sizes.append(len(jax.tree.leaves(batch)[0]))
        means.append(measure(start, batch))
    if not sizes:
        raise ValueError("there are no batches; at least one is needed")
    found = {p: np.average([np.asarray(m[p], np.float64) for m in means], 0, sizes) / (1 - momentum) for p in leaves}
    for path, values in found.items():
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{path} is not finite on the batches given")
    return replaced(
        statistics, {path: _like(jnp.asarray(found[path], leaf.dtype), leaf) for path, leaf in leaves.items()}
    )


def _left(whole: Array, like: Any) -> Array:
    """Returns what is left of an array where `like` is cut."""
    return sliced(whole, like.keep).weight if isinstance(like, Sliced) else whole


def _like(left: Array, like: Any) -> Any:
    return Sliced(left, like.full_shape, like.keep, like.fill, like.owner) if isinstance(like, Sliced) else left
