"""The LC algorithm: learning and compressing by turns until they agree.

``min L(w) subject to w = D(T)``: the weights w of the network are to be what a compression with the parameters T means.
By the augmented Lagrangian, with multipliers l and a strength m that grows, this becomes turns of steps that know
nothing of each other (Carreira-Perpiñán 2017, arXiv:1707.01209, section 5):

    L step   min over w of  L(w) + m/2 |w - D(T) - l/m|^2      ordinary training with `penalty` in the loss
    C step   min over T of  |(w - l/m) - D(T)|^2               a transform's `init` on the weights less l/m
             l <- l - m (w - D(T))

Any transform whose `init` finds compressed weights near those it is given may take the C step, and any chain of them::

    recipe = jc.chain(jc.prune.magnitude("fc1/kernel", 0.95), jc.factorize.svd("fc2/kernel", 10))
    constraint = jc.lc.direct(lambda params, _: recipe.init(params), params)
    for strength in 9e-5 * 1.4 ** np.arange(40):
        ...  # train params on loss(params) + jc.lc.penalty(params, constraint, strength)
        constraint = jc.lc.compress(lambda params, _: recipe.init(params), params, constraint, strength)
    params = jc.lc.result(lambda params, _: recipe.init(params), params, constraint)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import dense, is_compressed
from jaxcompress.paths import Params, flatten, replaced
from jaxcompress.weights import checked_weight

Compression = Callable[[Params, float], Params]  # plain weights and the strength -> weights, some of them compressed


class Constraint(NamedTuple):
    """Holds what ties weights to their compression, by the path of each that is compressed.

    `compressed` is D(T), `shifted` the weights that it was made of with `strength`, and `multipliers` are l.
    """

    compressed: dict[str, Array]
    shifted: dict[str, Array]
    multipliers: dict[str, Array]
    strength: Array


def direct(compression: Compression, params: Params) -> Constraint:
    """Compresses the weights as they are, with multipliers of zero: where the algorithm starts.

    ``compression(params, strength)`` is the C step, here with a strength of 0. Raises ValueError if it compresses
    nothing.
    """
    made, given = flatten(compression(params, 0.0)), flatten(params)
    chosen = [path for path, leaf in made.items() if is_compressed(leaf) and not is_compressed(given[path])]
    if not chosen:
        raise ValueError("the compression leaves every weight as it is; the LC algorithm needs some to compress")
    weights = {path: checked_weight(path, given[path], "constrained") for path in chosen}
    zeros = {path: jnp.zeros_like(weight) for path, weight in weights.items()}
    return Constraint({path: dense(made[path]) for path in chosen}, weights, zeros, jnp.float32(0))


def penalty(params: Params, constraint: Constraint, strength: Array | float) -> Array:
    """Returns what the L step adds to the loss: ``strength / 2`` times the squared distance to ``D(T) + l/strength``.

    `strength`, above 0, may be traced.
    """
    weights = flatten(params)
    targets = {path: d + constraint.multipliers[path] / strength for path, d in constraint.compressed.items()}
    distance = sum((jnp.sum(jnp.square(weights[p] - target)) for p, target in targets.items()), jnp.float32(0))
    return strength / 2 * distance


def compress(compression: Compression, params: Params, constraint: Constraint, strength: float) -> Constraint:
    """Takes the C step and that of the multipliers, on the weights that an L step of this strength ended with.

    Raises ValueError for a strength that is not above 0, by which the multipliers are divided.
    """
    if not strength > 0:
        raise ValueError(f"strength={strength} of the LC algorithm must be above 0")
    weights = {path: leaf for path, leaf in flatten(params).items() if path in constraint.compressed}
    shifted = {path: weight - constraint.multipliers[path] / strength for path, weight in weights.items()}
    made = flatten(compression(replaced(params, shifted), strength))
    compressed = {path: dense(made[path]) for path in weights}
    multipliers = {
        path: constraint.multipliers[path] - strength * (weight - compressed[path]) for path, weight in weights.items()
    }
    return Constraint(compressed, shifted, multipliers, jnp.float32(strength))


def result(compression: Compression, params: Params, constraint: Constraint) -> Params:
    """Returns the parameters with the compressed leaves of the last C step in the places of the weights."""
    return compression(replaced(params, constraint.shifted), float(constraint.strength))
