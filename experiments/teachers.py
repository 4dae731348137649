"""The teachers of a stage: what they say, and the images that are made from them, kept in their runs."""

import hashlib
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

import jaxcompress as jc
from experiments import build, config, evaluate, teaching
from experiments.augmentation import Views
from experiments.data import Dataset, Split, fingerprint
from experiments.stored import stored
from experiments.synthesis import synthetic

# What a teacher says: its logits for all training images (examples, classes), without columns if there is none, or for
# all views of them (examples, views, classes); or a function of a batch, where images are changed anew in every step or
# more than logits is asked for.
Taught = np.ndarray | Callable[[jax.Array], build.Heard]


class Finished(Protocol):
    """Is the run of a teacher."""

    @property
    def folder(self) -> pathlib.Path: ...

    @property
    def metrics(self) -> dict[str, Any]: ...

    def params(self) -> Any: ...


def teachers(experiment: config.Experiment) -> tuple[config.Experiment, ...]:
    """Returns the teachers of the last stage; raises ValueError if one is trained on other data."""
    distill = experiment.training.distill
    found = distill.teachers if distill is not None else ()
    for teacher in found:
        if teacher.data != experiment.data:
            raise ValueError(f"the teacher is trained on {teacher.data}, its student on {experiment.data}")
    return found


def in_step(stage: config.Stage) -> bool:
    """Tells whether the teachers of a stage have to be heard in every step; raises ValueError for taps of views."""
    distill = stage.distill or config.Distill(weight=0)
    taps = teaching.tapped(distill.knowledge)[1]
    if distill.views and taps:
        raise ValueError(f"stage {stage.name!r}: of {distill.views} views logits are kept, not activations {taps}")
    return bool(taps or (stage.augment and not distill.views))


def views(experiment: config.Experiment) -> Views | None:
    """Returns the views of the training set in the last stage, None where images are changed anew in every step."""
    stage = experiment.training
    if stage.distill is None or not stage.distill.views:
        return None
    return Views(stage.augment, stage.distill.views, build.seed_key(experiment.seed, "views"))


def heard(experiment: config.Experiment, data: Dataset, params: Sequence[Any]) -> Callable[[jax.Array], build.Heard]:
    """Returns the teachers of the last stage, which have these parameters, as a function of a batch of images."""
    distill = experiment.training.distill
    assert distill is not None
    _, taps = teaching.tapped(distill.knowledge)
    told = [taps, *((),) * len(distill.ensemble)]
    speakers = [
        partial(build.speaker(of.model, data.classes, of.activations, of_teacher), own)
        for of, of_teacher, own in zip(teachers(experiment), told, params, strict=True)
    ]

    def all_heard(images: jax.Array) -> build.Heard:
        first, *others = (speaker(images) for speaker in speakers)
        return first._replace(logits=averaged(distill, [first.logits, *(other.logits for other in others)]))

    return all_heard


def averaged(distill: config.Distill, logits: Sequence[Any]) -> Any:
    """Returns the logits of one teacher as they are, and those that stand for several."""
    return (
        logits[0]
        if len(logits) == 1
        else jc.distill.online.averaged(list(map(jnp.asarray, logits)), distill.temperature)
    )


def synthesis(experiment: config.Experiment) -> config.Synthesis | None:
    """Returns how the images of the last stage are made, None if they are those of the training set."""
    distill = experiment.training.distill
    return distill.synthesis if distill is not None else None


def transfer_set(experiment: config.Experiment, data: Dataset, taught: Taught) -> tuple[Dataset, Taught]:
    """Returns the data with the training images of the last stage's transfer set alone, and what is said of them.

    Raises ValueError for classes that are not in the data.
    """
    distill = experiment.training.distill
    if distill is None or not distill.classes:
        return data, taught
    unknown = sorted(set(distill.classes) - set(range(data.classes)))
    if unknown:
        raise ValueError(f"transfer set: there is no class {unknown[0]}; there are 0 to {data.classes - 1}")
    chosen = np.isin(data.train.labels, distill.classes)
    train_set = data.train._replace(images=data.train.images[chosen], labels=data.train.labels[chosen])
    return data._replace(train=train_set), taught if callable(taught) else taught[chosen]


def taught(experiment: config.Experiment, data: Dataset, run: Callable[[config.Experiment], Finished]) -> Taught:
    """Returns what the frozen teachers say; ``run(teacher)`` trains one first."""
    stage, of = experiment.training, teachers(experiment)
    if stage.distill is None or not of:
        return np.zeros((len(data.train.labels), 0), np.float32)
    made = [run(teacher) for teacher in of]
    if in_step(stage):
        return heard(experiment, data, [each.params() for each in made])
    logits = [_stored_logits(teacher, each, data, views(experiment)) for teacher, each in zip(of, made, strict=True)]
    return np.asarray(averaged(stage.distill, logits))


def _stored_logits(teacher: config.Experiment, made: Finished, data: Dataset, seen: Views | None) -> np.ndarray:
    """Returns the logits of a teacher for all training images, or for all views of them, kept in its run."""
    predictor = build.predictor(teacher.model, data.classes, teacher.activations)
    params, train_set = made.params(), data.train

    def said(images: np.ndarray) -> np.ndarray:
        return evaluate.predict(predictor, params, images)

    if seen is None:
        name, of = f"logits-{fingerprint(data)[:12]}.npz", {}
        compute = lambda: said(train_set.images)
    else:
        drawn = f"{seen.methods} {seen.count} {jax.random.key_data(seen.key)}"
        of = {"set of views": hashlib.sha256(drawn.encode()).hexdigest()}
        name = f"logits-{fingerprint(data)[:12]}-{of['set of views'][:12]}.npz"
        rows, view = jnp.arange(len(train_set.labels)), jax.jit(seen.of)
        compute = lambda: np.stack([said(np.asarray(view(train_set.images, rows, i))) for i in range(seen.count)], 1)
    of |= {"teacher": made.metrics["params_sha256"], "data set": fingerprint(data)}
    return stored(made.folder / name, of, lambda: {"logits": compute()})["logits"]


def transferred(experiment: config.Experiment, data: Dataset, run: Callable[[config.Experiment], Finished]) -> Dataset:
    """Returns the data of the last stage, whose training images may be made from its teacher, and kept in its run."""
    spec = synthesis(experiment)
    if spec is None:
        return data
    of = teachers(experiment)[0]
    made, key = run(of), build.seed_key(experiment.seed, "synthesis")
    asked = hashlib.sha256(f"{spec} seed {experiment.seed}".encode()).hexdigest()
    images = stored(
        made.folder / f"synthetic-{asked[:12]}.npz",
        {"teacher": made.metrics["params_sha256"], "synthesis": asked},
        lambda: synthetic(spec, of, made.params(), data, key)._asdict(),
    )
    return data._replace(train=Split(**images))
