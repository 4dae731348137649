"""Lessons from activations in the middle of a teacher."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from experiments import config
from experiments.convolutions import in_training
from experiments.teaching.lesson import Batch, Lesson, added, plain
from jaxcompress import distill
from jaxcompress.paths import Params, named_key

_PARAPHRASING = 500  # steps in which a paraphraser is trained
_PARAPHRASING_RATE, _PARAPHRASING_BATCH = 1e-3, 100


def _features(spec: config.Features, batch: Batch) -> list[tuple[Array, Array]]:
    """Lists the pairs of features of both networks."""
    ours = [batch.student.taps[name] for name in spec.student]
    theirs = [batch.teacher.taps[name] for name in spec.teacher]
    return list(zip(ours, theirs, strict=True))


def of_features(spec: config.Features) -> Lesson:
    """Returns the lesson of a loss of features."""
    if spec.loss == "fsp":
        return plain(spec.weight, lambda batch: _flows(_features(spec, batch)))
    if spec.loss == "review":
        return _review(spec)
    of_pair = _FEATURES[spec.loss]

    def begin(key: Array, batch: Batch, labels: Array) -> tuple[Params, Any]:
        pairs = _features(spec, batch)
        begun = [of_pair.begin(named_key(key, str(i)), *pair) for i, pair in enumerate(pairs)]
        return [one for one, _ in begun], [other for _, other in begun]

    def loss(learned: Params, kept: Any, batch: Batch) -> tuple[Array, Any]:
        given = zip(learned, kept, _features(spec, batch), strict=True)
        return added([of_pair.loss(one, other, *pair) for one, other, pair in given]), kept

    return Lesson(spec.weight, begin, loss)


def _flows(pairs: list[tuple[Array, Array]]) -> Array:
    steps = [zip(front, behind, strict=True) for front, behind in zip(pairs[:-1], pairs[1:], strict=True)]
    return added([distill.fsp(*networks) for networks in steps])


def _review(spec: config.Features) -> Lesson:
    def begin(key: Array, batch: Batch, labels: Array) -> tuple[Params, Any]:
        ours, theirs = ([x.shape[-1] for x in network] for network in zip(*_features(spec, batch), strict=True))
        return distill.fusions(key, ours, theirs, width=max(ours)), {}

    def loss(learned: Params, kept: Any, batch: Batch) -> tuple[Array, Any]:
        return distill.review(learned, *zip(*_features(spec, batch), strict=True)), kept

    return Lesson(spec.weight, begin, loss)


class _OfPair(NamedTuple):
    """Describes a loss of one feature of each network: how it begins, as a `Lesson`'s, and what it costs."""

    begin: Callable[[Array, Array, Array], tuple[Params, Any]]
    loss: Callable[[Params, Any, Array, Array], Array]


def _nothing(key: Array, student: Array, teacher: Array) -> tuple[Params, Any]:
    return {}, {}


def _regressor(key: Array, student: Array, teacher: Array) -> tuple[Params, Any]:
    return distill.regressor(key, student.shape[-1], teacher.shape[-1]), {}


def _variational(key: Array, student: Array, teacher: Array) -> tuple[Params, Any]:
    return distill.variational(key, student.shape[-1], teacher.shape[-1]), {}


def _connector(key: Array, student: Array, teacher: Array) -> tuple[Params, Any]:
    return distill.connector(key, student.shape[-1], teacher.shape[-1]), {}


def _margins(key: Array, student: Array, teacher: Array) -> tuple[Params, Any]:
    """Adds the mean of what is below zero in each of the teacher's channels, of the first batch."""
    below = teacher < 0
    places = tuple(range(teacher.ndim - 1))
    count = jnp.maximum(jnp.sum(below, axis=places), 1).astype(teacher.dtype)
    return _connector(key, student, teacher)[0], jnp.sum(jnp.where(below, teacher, 0), axis=places) / count


def _paraphraser(key: Array, student: Array, teacher: Array) -> tuple[Params, Any]:
    """Trains a paraphraser of the teacher's features of the first batch; returns a translator, and its encoder."""
    keys = jax.random.split(key, 2)
    params = distill.paraphraser(keys[0], teacher.shape[-1])
    optimiser = optax.adam(_PARAPHRASING_RATE)

    @jax.jit
    def trained(params: Params, teacher: Array) -> Params:
        size = min(_PARAPHRASING_BATCH, len(teacher))

        def step(number: Array, state: Any) -> Any:
            params, moments = state
            batch = jax.lax.dynamic_slice_in_dim(teacher, number % (len(teacher) // size) * size, size)
            slopes = jax.grad(lambda p: jnp.mean(in_training(distill.reconstruction)(p, batch)))(params)
            updates, moments = optimiser.update(slopes, moments)
            return optax.apply_updates(params, updates), moments

        return jax.lax.fori_loop(0, _PARAPHRASING, step, (params, optimiser.init(params)))[0]

    encoder = trained(params, teacher)["encoder"]
    factors = encoder["layer3"]["kernel"].shape[-1]
    return distill.translator(keys[1], student.shape[-1], factors), encoder


_FEATURES = {
    "hint": _OfPair(_regressor, lambda learned, kept, s, t: distill.hint(distill.regress(learned, s), t)),
    "attention": _OfPair(_nothing, lambda learned, kept, s, t: distill.attention(s, t)),
    "nst": _OfPair(_nothing, lambda learned, kept, s, t: distill.nst(s, t)),
    "vid": _OfPair(_variational, lambda learned, kept, s, t: distill.vid(learned, s, t)),
    "activation-boundary": _OfPair(
        _connector, lambda learned, kept, s, t: distill.activation_boundary(distill.connect(learned, s), t)
    ),
    "overhaul": _OfPair(_margins, lambda learned, kept, s, t: distill.overhaul(distill.connect(learned, s), t, kept)),
    "factor-transfer": _OfPair(
        _paraphraser,
        lambda learned, kept, s, t: distill.factor_transfer(
            distill.translated(learned, s), distill.translated(kept, t)
        ),
    ),
}
