"""What a student learns besides softened logits, as losses with all that they train and carry."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from experiments import config
from experiments.convolutions import in_training
from jaxcompress import distill
from jaxcompress.paths import Params, named_key

_PARAPHRASING = 500  # steps in which a paraphraser is trained
_PARAPHRASING_RATE, _PARAPHRASING_BATCH = 1e-3, 100


class Heard(NamedTuple):
    """Holds what a network says of a batch: its logits, and its activations by name."""

    logits: Array
    taps: Mapping[str, Array]


class Batch(NamedTuple):
    """Holds what the losses of a batch may look at; `indices` are those in the training set."""

    student: Heard
    teacher: Heard
    labels: Array
    indices: Array
    key: Array


class Lesson(NamedTuple):
    """Describes one loss: ``begin(key, batch, labels) -> (learned, kept)`` from a first batch and all labels.

    ``loss(learned, kept, batch)`` returns the losses, per example, and what is kept for the next batch. What is
    `learned` is trained with the student.
    """

    weight: float
    begin: Callable[[Array, Batch, Array], tuple[Params, Any]]
    loss: Callable[[Params, Any, Batch], tuple[Array, Any]]


class Lessons(NamedTuple):
    """Holds all lessons of a stage, by name."""

    by_name: Mapping[str, Lesson]

    @classmethod
    def of(cls, knowledge: Sequence[config.Knowledge]) -> "Lessons":
        """Makes the lessons that a configuration asks for."""
        return cls({f"{i}-{type(spec).__name__.lower()}": _lesson(spec) for i, spec in enumerate(knowledge, 1)})

    def begin(self, key: Array, batch: Batch, labels: Array) -> tuple[Params, Any]:
        """Returns what all lessons learn and keep, before the first step."""
        begun = {name: lesson.begin(named_key(key, name), batch, labels) for name, lesson in self.by_name.items()}
        return {name: one for name, (one, _) in begun.items()}, {name: other for name, (_, other) in begun.items()}

    def loss(self, learned: Params, kept: Any, batch: Batch) -> tuple[Array, Any]:
        """Returns the sum of the weighed losses, per example, and what is kept for the next batch."""
        total, after = jnp.zeros(len(batch.labels)), {}
        for name, lesson in self.by_name.items():
            own = batch._replace(key=named_key(batch.key, name))
            losses, after[name] = in_training(lesson.loss)(learned[name], kept[name], own)
            total = total + lesson.weight * losses
        return total, after


def tapped(knowledge: Sequence[config.Knowledge]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Lists the activations of the student and those of the teacher that lessons read."""
    student: dict[str, None] = {}
    teacher: dict[str, None] = {}
    for spec in knowledge:
        match spec:
            case config.Features():
                student |= dict.fromkeys(spec.student)
                teacher |= dict.fromkeys(spec.teacher)
            case config.Relations() | config.Contrast():
                student[spec.student] = teacher[spec.teacher] = None
    return tuple(student), tuple(teacher)


def _lesson(spec: config.Knowledge) -> Lesson:
    match spec:
        case config.Features():
            return _of_features(spec)
        case config.Relations():
            return _plain(spec.weight, lambda batch: _RELATIONS[spec.loss](*_pair(spec, batch)))
        case config.Contrast():
            return _of_contrast(spec)
        case _:
            return _plain(spec.weight, partial(_of_logits, spec))


def _plain(weight: float, loss: Callable[[Batch], Array]) -> Lesson:
    """Returns a lesson that learns and keeps nothing."""
    return Lesson(weight, lambda key, batch, labels: ({}, {}), lambda learned, kept, batch: (loss(batch), kept))


def _of_logits(spec: config.Knowledge, batch: Batch) -> Array:
    student, teacher = batch.student.logits, batch.teacher.logits
    match spec:
        case config.DKD():
            weights = {"alpha": spec.alpha, "beta": spec.beta}
            return distill.dkd(student, teacher, batch.labels, temperature=spec.temperature, **weights)
        case config.DIST():
            return distill.dist(student, teacher, temperature=spec.temperature, inter=spec.inter, intra=spec.intra)
        case config.NKD():
            return distill.nkd(student, teacher, batch.labels, temperature=spec.temperature, gamma=spec.gamma)
        case config.StandardizedKD():
            return distill.kd(distill.standardized(student), distill.standardized(teacher), spec.temperature)
        case config.TeacherFree():
            options = {"correct": spec.correct, "temperature": spec.temperature}
            return distill.teacher_free(student, batch.labels, **options)
        case _:
            raise AssertionError(spec)


_RELATIONS = {
    "rkd-distance": distill.rkd_distance,
    "rkd-angle": distill.rkd_angle,
    "similarity": distill.similarity,
    "correlation-congruence": distill.correlation_congruence,
    "pkt": distill.pkt,
}


def _pair(spec: config.Relations | config.Contrast, batch: Batch) -> tuple[Array, Array]:
    """Returns the embeddings of both networks, one vector an example."""
    found = batch.student.taps[spec.student], batch.teacher.taps[spec.teacher]
    student, teacher = (x.reshape(len(x), -1) for x in found)
    return student, jax.lax.stop_gradient(teacher)


def _of_contrast(spec: config.Contrast) -> Lesson:
    def begin(key: Array, batch: Batch, labels: Array) -> tuple[Params, Any]:
        student, teacher = _pair(spec, batch)
        keys = jax.random.split(key, 3)
        learned = {
            "student": distill.regressor(keys[0], student.shape[1], spec.features),
            "teacher": distill.regressor(keys[1], teacher.shape[1], spec.features),
        }
        if spec.loss == "in-batch":
            return learned, {}
        return learned, {"memory": distill.memory(keys[2], len(labels), spec.features), "labels": labels}

    def loss(learned: Params, kept: Any, batch: Batch) -> tuple[Array, Any]:
        student, teacher = _pair(spec, batch)
        student = distill.regress(learned["student"], student)
        teacher = distill.regress(learned["teacher"], teacher)
        if spec.loss == "in-batch":
            return distill.in_batch(student, teacher, temperature=spec.temperature), kept
        others = distill.negatives(batch.key, kept["labels"], batch.indices, spec.negatives)
        losses, memory = distill.crd(
            kept["memory"], student, teacher, batch.indices, others, temperature=spec.temperature
        )
        return losses, kept | {"memory": memory}

    return Lesson(spec.weight, begin, loss)


def _features(spec: config.Features, batch: Batch) -> list[tuple[Array, Array]]:
    """Lists the pairs of features of both networks."""
    ours = [batch.student.taps[name] for name in spec.student]
    theirs = [batch.teacher.taps[name] for name in spec.teacher]
    return list(zip(ours, theirs, strict=True))


def _of_features(spec: config.Features) -> Lesson:
    if spec.loss == "fsp":
        return _plain(spec.weight, lambda batch: _flows(_features(spec, batch)))
    if spec.loss == "review":
        return _review(spec)
    of_pair = _FEATURES[spec.loss]

    def begin(key: Array, batch: Batch, labels: Array) -> tuple[Params, Any]:
        pairs = _features(spec, batch)
        begun = [of_pair.begin(named_key(key, str(i)), *pair) for i, pair in enumerate(pairs)]
        return [one for one, _ in begun], [other for _, other in begun]

    def loss(learned: Params, kept: Any, batch: Batch) -> tuple[Array, Any]:
        given = zip(learned, kept, _features(spec, batch), strict=True)
        return _added([of_pair.loss(one, other, *pair) for one, other, pair in given]), kept

    return Lesson(spec.weight, begin, loss)


def _flows(pairs: list[tuple[Array, Array]]) -> Array:
    steps = [zip(front, behind, strict=True) for front, behind in zip(pairs[:-1], pairs[1:], strict=True)]
    return _added([distill.fsp(*networks) for networks in steps])


def _review(spec: config.Features) -> Lesson:
    def begin(key: Array, batch: Batch, labels: Array) -> tuple[Params, Any]:
        ours, theirs = ([x.shape[-1] for x in network] for network in zip(*_features(spec, batch), strict=True))
        return distill.fusions(key, ours, theirs, width=max(ours)), {}

    def loss(learned: Params, kept: Any, batch: Batch) -> tuple[Array, Any]:
        return distill.review(learned, *zip(*_features(spec, batch), strict=True)), kept

    return Lesson(spec.weight, begin, loss)


def _added(losses: Sequence[Array]) -> Array:
    return jnp.sum(jnp.stack(losses), axis=0)


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
