"""Scores of single weights: what has the highest stays.

Every score is a pure function of a parameter tree that returns, for each leaf matched by a pattern, its path and a
float32 array of the leaf's shape. Losses are functions of the whole tree, so that a lifted model serves, and gradients
are those by the dense weights. All raise ValueError for a pattern without a match and for leaves that are not
floating-point.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer

from jaxcompress.arrays import densify
from jaxcompress.numerics.masks import keep_largest, kept_count
from jaxcompress.paths import Params
from jaxcompress.prune.weights import Loss, Weights, gradients, weights_of, with_weights

Scores = dict[str, Array]  # path -> float32 array of the shape of the weight


def magnitude(params: Params, pattern: str) -> Scores:
    """Scores by the absolute value."""
    return jax.tree.map(lambda w: jnp.abs(_single(w)), weights_of(params, pattern))


def random(params: Params, pattern: str, key: Array) -> Scores:
    """Scores by independent numbers drawn uniformly from [0, 1)."""
    weights = weights_of(params, pattern)
    keys = jax.random.split(key, len(weights))
    return {path: jax.random.uniform(k, w.shape) for k, (path, w) in zip(keys, weights.items(), strict=True)}


def taylor(params: Params, pattern: str, loss: Loss) -> Scores:
    """Scores by the square of gradient times weight (Molchanov et al. 2019, arXiv:1906.10771).

    That is how much the loss would change if the weight were removed, squared, to first order.
    """
    return jax.tree.map(lambda w, g: (_single(w) * _single(g)) ** 2, *_with_gradients(params, pattern, loss))


def snip(params: Params, pattern: str, loss: Loss) -> Scores:
    """Scores by connection sensitivity: ``|gradient * weight|``, divided by its sum over all matched weights.

    Lee et al. 2019, arXiv:1810.02340; there on one batch at the start of training, ranked globally.
    """
    products = jax.tree.map(lambda w, g: jnp.abs(_single(w) * _single(g)), *_with_gradients(params, pattern, loss))
    total = sum(map(jnp.sum, products.values()))
    return jax.tree.map(lambda product: product / jnp.where(total > 0, total, jnp.ones_like(total)), products)


def grasp(params: Params, pattern: str, loss: Loss) -> Scores:
    """Scores by ``weight * (H @ gradient)``, H the Hessian of the loss by the matched weights, of either sign.

    Wang et al. 2020, arXiv:2002.07376: removing a weight changes the squared norm of the gradient by about -2 times
    this score, so that what has the lowest goes, and the rest trains faster. The paper's S is the score with the other
    sign, and removes the highest. It ranks globally before training, by a loss whose logits are divided by a
    temperature of 200; do both in `loss`.
    """
    weights = weights_of(params, pattern)
    gradient = jax.grad(lambda weights: loss(with_weights(params, pattern, weights)))
    _, product = jax.jvp(gradient, (weights,), (lax.stop_gradient(gradient(weights)),))
    return jax.tree.map(lambda w, hg: _single(w) * _single(hg), weights, product)


def fisher(params: Params, pattern: str, loss: Callable[[Params, Any], Array], batch: Any) -> Scores:
    """Scores by half the squared weight times the mean squared gradient of single examples.

    The saliency of optimal brain damage (LeCun et al. 1990), with the diagonal of the empirical Fisher information in
    the place of the Hessian's (Theis et al. 2018, arXiv:1801.05787). ``loss(params, example)`` is the loss of one
    example; `batch` is a tree of arrays whose first axis counts them. Examples are taken one after the other.
    """
    weights = weights_of(params, pattern)
    count = jax.tree.leaves(batch)[0].shape[0]

    def add(total: Weights, example: Any) -> tuple[Weights, None]:
        slopes = gradients(params, pattern, lambda tree: loss(tree, example))
        return jax.tree.map(lambda t, g: t + _single(g) ** 2, total, slopes), None

    squares, _ = lax.scan(add, jax.tree.map(lambda w: jnp.zeros(w.shape), weights), batch)
    return jax.tree.map(lambda w, square: 0.5 * _single(w) ** 2 * square / count, weights, squares)


def synflow(
    params: Params,
    pattern: str,
    apply: Callable[[Params, Array], Any],
    shape: tuple[int, ...],
    sparsity: float,
    rounds: int = 100,
) -> Scores:
    """Scores by synaptic flow after all but the last of `rounds` in which weights go, ranked globally.

    Tanaka et al. 2020, arXiv:2006.05467: with the absolute values of all parameters, an input of ones of `shape` (its
    batch of 1 included) and R the sum of the outputs of `apply`, the score is ``|dR/dw * w|``. Round k of n keeps the
    fraction ``(1 - sparsity)**(k / n)``, so that a global ranking by what is returned, to `sparsity`, is round n.
    Removed weights score zero. Batch normalization should use its running statistics. No data are needed.

    Raises ValueError for a sparsity outside [0, 1), fewer rounds than one, and an R that is not finite or positive: it
    grows and falls with the product of the layers' widths, and float32 may not hold it.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity {sparsity!r} for pattern {pattern!r} is not in [0, 1)")
    if rounds < 1:
        raise ValueError(f"rounds {rounds} must be at least 1")
    positive = jax.tree.map(lambda a: jnp.abs(a) if jnp.issubdtype(a.dtype, jnp.floating) else a, densify(params))
    weights = weights_of(positive, pattern)
    total = sum(w.size for w in weights.values())

    def flow(weights: Weights) -> Array:
        outputs = apply(with_weights(positive, pattern, weights), jnp.ones(shape))
        return sum((jnp.sum(out) for out in jax.tree.leaves(outputs)), jnp.float32(0))

    def scored(masks: list[Array]) -> tuple[Array, Scores]:
        kept = {path: jnp.where(m, w, jnp.zeros_like(w)) for m, (path, w) in zip(masks, weights.items(), strict=True)}
        value, slopes = jax.value_and_grad(flow)(kept)
        return value, jax.tree.map(lambda w, g: jnp.abs(_single(w) * _single(g)), kept, slopes)

    def prune(k: Array, masks: list[Array]) -> list[Array]:
        density = jnp.float32(1 - sparsity) ** (k.astype(jnp.float32) / rounds)
        return keep_largest(list(scored(masks)[1].values()), kept_count(total, 1 - density))

    whole = [jnp.ones(w.shape, bool) for w in weights.values()]
    value, found = jax.jit(lambda masks: scored(lax.fori_loop(1, rounds, prune, masks)))(whole)
    if not isinstance(value, Tracer) and not 0 < float(value) < float("inf"):
        raise ValueError(f"the synaptic flow for pattern {pattern!r} is {float(value):g}; float32 cannot rank by it")
    return found


def _with_gradients(params: Params, pattern: str, loss: Loss) -> tuple[Weights, Weights]:
    return weights_of(params, pattern), gradients(params, pattern, loss)


def _single(array: Array) -> Array:
    return array.astype(jnp.float32)
