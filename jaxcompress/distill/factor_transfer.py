"""Factor transfer: a paraphrase of a teacher's features, which its student learns to translate its own into.

Kim, Park & Kwak 2018, arXiv:1802.04977. The paraphraser, an autoencoder of the teacher's features, is trained first and
without labels, by `reconstruction`; then the student learns with its translator, by `factor_transfer`. Losses are
computed in float32 where maps are of half precision; `where`, booleans (batch,), is false for examples of padding.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxcompress.distill.checks import check_maps, check_same_batch, check_same_shape
from jaxcompress.distill.connectors import connect, connector
from jaxcompress.distill.padding import Where, mean, unpadded, zeroed
from jaxcompress.distill.precision import in_float32
from jaxcompress.numerics.resizing import common_size
from jaxcompress.numerics.vectors import unit
from jaxcompress.paths import Params

Maps = Float[Array, "batch height width channels"]
Losses = Float[Array, "batch"]


def paraphraser(key: Array, channels: int, *, rate: float = 0.5) -> Params:
    """Draws an autoencoder of features with `channels`, whose factors have `rate` times as many (section 3.1).

    Three convolutions of 3 x 3 go to the factors and three, which are transposed in the paper, come back; each has a
    batch normalization and a leaky ReLU of slope 0.1 behind it. A departure: convolutions of stride 1 in place of the
    transposed ones, which have the same form. Raises ValueError for a rate that leaves no factor.
    """
    factors = int(channels * rate)
    if factors < 1:
        raise ValueError(f"rate {rate!r} of {channels} channels leaves no factor")
    forth, back = jax.random.split(key)
    return {
        "encoder": _layers(forth, channels, channels, factors, factors),
        "decoder": _layers(back, factors, factors, channels, channels),
    }


def translator(key: Array, channels: int, factors: int) -> Params:
    """Draws the student's way from features with `channels` to factors: three convolutions as a paraphraser's."""
    return _layers(key, channels, channels, factors, factors)


def translated(params: Params, features: Maps, *, where: Where = None) -> Maps:
    """Returns the factors of features by a `translator`, or by the ``encoder`` of a `paraphraser`."""
    check_maps(features)
    for name in sorted(params):
        features = jax.nn.leaky_relu(connect(params[name], features, where=where), 0.1)
    return features


@in_float32
def reconstruction(params: Params, teacher: Maps, *, where: Where = None) -> Losses:
    """Returns the mean squared difference of features and what a `paraphraser` makes of them (eq. 1)."""
    check_maps(teacher)
    (teacher,) = unpadded(where, teacher)
    decoded = translated(params["decoder"], translated(params["encoder"], teacher, where=where), where=where)
    return mean(jnp.square(decoded - lax.stop_gradient(teacher)), where, (1, 2, 3))


@in_float32
def factor_transfer(student: Maps, teacher: Maps, *, where: Where = None) -> Losses:
    """Returns the mean magnitude of the difference of factors, each of length one (eq. 2-3 with p = 1).

    `student` and `teacher` are factors, of a `translator` and of a paraphraser's encoder; the larger maps are averaged
    down to the smaller. No gradient reaches the teacher's. Raises ValueError for factors that are no maps, of another
    batch or of other channels.
    """
    check_maps(student, teacher)
    check_same_batch(student, teacher, "factors")
    pair = common_size(*unpadded(where, student, lax.stop_gradient(teacher)))
    ours, theirs = (unit(maps.reshape(len(maps), -1)) for maps in pair)
    check_same_shape(ours, theirs, "factors", "; the translator makes as many as the paraphraser")
    return zeroed(where, jnp.mean(jnp.abs(ours - theirs), axis=1))


def _layers(key: Array, *channels: int) -> Params:
    keys = jax.random.split(key, len(channels) - 1)
    pairs = zip(keys, channels[:-1], channels[1:], strict=True)
    return {f"layer{i}": connector(k, a, b, size=3) for i, (k, a, b) in enumerate(pairs, 1)}
