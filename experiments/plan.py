"""What training a stage needs, and the parameters that it begins with."""

import pathlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcompress as jc
from experiments import budgets, build, config, learning, recipes, removal, scoring, teaching, train
from experiments.activations import with_ranges
from experiments.augmentation import Views, augmented
from experiments.data import Dataset, drawn, drawn_rows
from experiments.offsets import shifted
from experiments.teachers import Taught, transfer_set, views
from experiments.variables import on_weights, split
from jaxcompress.arrays import densify
from jaxcompress.paths import flatten, named_key, replaced, select

Made = Callable[[config.Experiment], Any]  # the parameters that an experiment ends with

_RANGE_EXAMPLES = 500  # training images from whose activations trained ranges start
_LESSON_EXAMPLES = 500  # training images from whose activations lessons begin


def given(experiment: config.Experiment, data: Dataset, data_dir: pathlib.Path | None, made: Made) -> Any:
    """Returns the parameters that the last stage of an experiment is given; ``made(experiment)`` those it ends with."""
    *earlier, _ = experiment.stages
    if not earlier:
        return _initial(experiment, data, data_dir, made)
    return made(replace(experiment, stages=tuple(earlier)))


def rewound(experiment: config.Experiment, data: Dataset, data_dir: pathlib.Path | None, made: Made) -> Any:
    """Returns the parameters that the last stage of an experiment rewinds to, None if to none."""
    match experiment.training.rewind:
        case None:
            return None
        case "initial":
            return _initial(experiment, data, data_dir, made)
        case "random":
            return build.random_params(experiment, data, f"reinit of stage {len(experiment.stages)}")
        case stage:
            return made(experiment.until(stage))


def _initial(experiment: config.Experiment, data: Dataset, data_dir: pathlib.Path | None, made: Made) -> Any:
    """Returns the parameters that an experiment starts from, those of another's with a new head if it is a transfer."""
    first = build.initial_params(experiment, data, data_dir)
    if experiment.transfer is None:
        return first
    given, heads = densify(made(experiment.transfer.source)), select(first, experiment.transfer.head)
    leaves = flatten(given)
    for path, leaf in flatten(first).items():
        if path not in heads and (path not in leaves or leaves[path].shape != leaf.shape):
            shape = leaves[path].shape if path in leaves else "nothing"
            raise ValueError(
                f"transfer: {path} has shape {leaf.shape}, and {shape} at its source; it is no part of `head`"
            )
    return replaced(
        first, {path: leaf for path, leaf in leaves.items() if path in flatten(first) and path not in heads}
    )


class Training(NamedTuple):
    """Holds what one stage is trained by, all that is built from its configuration alone.

    Numbers of the configuration that the config classes call ``traced`` may be so: then this is built within a program
    that takes them as arguments.
    """

    outputs: Callable[..., build.Outputs]
    optimiser: optax.GradientTransformation
    of_lessons: optax.GradientTransformation  # moves what lessons train
    lessons: teaching.Lessons | None
    setting: recipes.Setting
    program: Callable[[train.State, train.Examples, jax.Array], tuple[train.State, jax.Array]]

    @classmethod
    def of(
        cls,
        experiment: config.Experiment,
        classes: int,
        size: int,
        taught: Taught,
        spread: Callable[[train.Examples], train.Examples] = lambda examples: examples,
    ) -> "Training":
        """Builds that of the last stage of an experiment, for data of `classes` and a training set of `size`.

        Batches are laid out on devices by `spread`.
        """
        stage = experiment.training
        epoch_steps = size // stage.batch
        steps = max(1, stage.epochs * epoch_steps)
        optimiser = build.optimiser(stage.optimiser, steps, epoch_steps)
        of_lessons = build.optimiser(stage.optimiser, steps, epoch_steps, of_student=False)
        knowledge = stage.distill.knowledge if stage.distill is not None else ()
        taps, _ = teaching.tapped(knowledge)
        outputs = build.trainer(experiment.model, classes, experiment.activations, taps)
        setting = recipes.Setting(epoch_steps, experiment.seed, loss=_plain_loss(outputs, stage.loss))
        recipe = recipes.recipe(stage, setting) if stage.lc is None else jc.chain()
        of_teacher = (stage.distill.weight, stage.distill.temperature) if stage.distill is not None else (0.0, 1.0)
        strength = learning.strength(stage.lc, epoch_steps) if stage.lc is not None else None
        lessons = teaching.Lessons.of(knowledge) if knowledge else None
        seen = views(experiment)
        program = train.epoch_program(
            outputs,
            optimiser,
            recipe,
            train.Objective(*of_teacher, stage.loss, stage.slimming, strength, lessons),
            stage.batch,
            moves_masks=recipes.moves_masks(stage),
            augment=partial(augmented, methods=stage.augment) if stage.augment and seen is None else None,
            views=seen,
            teacher=taught if callable(taught) else None,
            of_lessons=of_lessons,
            spread=spread,
        )
        return cls(outputs, optimiser, of_lessons, lessons, setting, program)


class Plan(NamedTuple):
    """Holds what training one stage needs besides its state.

    ``begin(params, rewound)`` makes the first state of what the stage before made and, for a stage that rewinds, of the
    weights that it rewinds to; ``handed_on(state)`` are the parameters that a state stands for. ``training_of`` builds
    what another experiment is trained by that differs in numbers alone, and those traced.
    """

    program: Callable[..., tuple[train.State, jax.Array]]
    logits: Callable[[Any, jax.Array], jax.Array]
    examples: train.Examples
    key: jax.Array
    begin: Callable[[Any, Any], train.State]
    handed_on: Callable[[train.State], Any]
    training_of: Callable[..., Training]

    @classmethod
    def of(cls, experiment: config.Experiment, data: Dataset, taught: Taught) -> "Plan":
        """Builds the last stage of an experiment."""
        stage = experiment.training
        data, taught = transfer_set(experiment, data, taught)
        size = len(data.train.labels)
        _check(stage, data)
        training_of = partial(Training.of, classes=data.classes, size=size, taught=taught)
        training = training_of(experiment)
        logits = np.zeros((size, 0), np.float32) if callable(taught) else taught
        examples = train.Examples(jnp.asarray(data.train.images), jnp.asarray(data.train.labels), jnp.asarray(logits))
        predictor = build.predictor(experiment.model, data.classes, experiment.activations)
        key = build.seed_key(experiment.seed, f"stage {len(experiment.stages)}")
        if stage.lc is not None:
            compress, epoch_steps = learning.compression(stage, training.setting), training.setting.epoch_steps
            return cls(
                learning.with_c_steps(training.program, stage, compress, training.optimiser, epoch_steps),
                predictor,
                examples,
                key,
                lambda params, _: learning.begin(compress, params, training.optimiser),
                partial(learning.handed_on, compress),
                training_of,
            )
        without_noise, seen = recipes.handed_on(stage), views(experiment)

        def begin(params: Any, rewound: Any) -> train.State:
            params = _begun(experiment, data, training.setting, params, rewound)
            state = train.begin(params, training.optimiser)
            if training.lessons is None:
                return state
            batch = _first_batch(training.outputs, taught, seen, data, params, experiment.seed, key)
            learned, kept = training.lessons.begin(batch.key, batch, examples.labels)
            jax.eval_shape(training.lessons.loss, learned, kept, batch)  # what does not fit is found before training
            return state._replace(teaching=train.Teaching(learned, training.of_lessons.init(learned), kept))

        handed_on = lambda state: without_noise(train.params_of(state))
        return cls(training.program, predictor, examples, key, begin, handed_on, training_of)


def _check(stage: config.Stage, data: Dataset) -> None:
    """Raises ValueError for a stage that its data are too few for, or whose best epoch would be one before its end."""
    size = len(data.train.labels)
    if not 0 < stage.batch <= size:
        raise ValueError(f"stage {stage.name!r} has batches of {stage.batch}; there are {size} training examples")
    if stage.select == "best-validation" and not len(data.validation.labels):
        raise ValueError(f"stage {stage.name!r} selects by validation error, but no examples are held out")
    if stage.select == "best-validation" and any(map(_unfinished, stage.recipe)):
        raise ValueError(f"stage {stage.name!r} changes its sparsity: its best epoch would be one before the end")


def _first_batch(
    outputs: Callable[..., build.Outputs],
    taught: Taught,
    seen: Views | None,
    data: Dataset,
    params: Any,
    seed: int,
    key: jax.Array,
) -> teaching.Batch:
    """Returns what both networks say of training images drawn by the seed, from which lessons begin."""
    rows = drawn_rows(len(data.train.labels), _LESSON_EXAMPLES, seed)
    images, labels = jnp.asarray(data.train.images[rows]), jnp.asarray(data.train.labels[rows])
    images = images if seen is None else seen.of(images, jnp.asarray(rows), 0)
    made = jax.jit(outputs)(params, images, key)
    student = build.Heard(made.logits, made.taps)
    if callable(taught):
        teacher = jax.jit(taught)(images)
    else:
        teacher = build.Heard(jnp.asarray(taught[rows] if seen is None else taught[rows, 0]), {})
    return teaching.Batch(images, student, teacher, labels, jnp.asarray(rows), named_key(key, "lessons"))


def _unfinished(technique: config.Technique) -> bool:
    """Tells whether what a technique compresses to is reached in the course of its stage."""
    return isinstance(technique, config.ACDC) or getattr(technique, "ramp", None) is not None


def _plain_loss(outputs: Callable[..., build.Outputs], kind: str) -> Callable[[Any, train.Examples], jax.Array]:
    """Returns the loss of a batch by its labels alone; dropout is drawn alike for all batches."""

    def loss(params: Any, examples: train.Examples) -> jax.Array:
        logits = outputs(params, examples.images, jax.random.key(0)).logits
        return train.LOSSES[kind](logits, examples.labels).mean()

    return loss


def _begun(experiment: config.Experiment, data: Dataset, setting: recipes.Setting, params: Any, rewound: Any) -> Any:
    """Applies the recipe of the last stage to the parameters that it starts from."""
    stage = experiment.training
    if stage.remove is not None:
        params = removal.removed(stage.remove, experiment, data, params)
    if stage.offset is not None:
        params = shifted(stage.offset, experiment, data, params)
    weights, statistics = split(params)

    def scores(technique: config.Connections, weights: Any) -> jc.prune.scores.Scores:
        return scoring.scores(technique, experiment, data, weights | statistics)

    def within(technique: config.Budget | config.Joint, weights: Any) -> Any:
        return budgets.within(technique, experiment, data, weights, statistics)

    recipe = recipes.recipe(stage, setting._replace(score=scores, within=within))
    if rewound is None:
        return _ranged(experiment, data, on_weights(recipe.init, params))
    # Removed weights are zeros in the dense arrays, so that ranked anew they are the first to go.
    masked = recipe.init(densify(weights))
    weights, statistics = split(rewound)
    return _ranged(experiment, data, jc.prune.rewind(masked, densify(weights)) | statistics)


def _ranged(experiment: config.Experiment, data: Dataset, params: Any) -> Any:
    """Adds the first ranges of activations, from training images drawn by the seed, where an experiment rounds any."""
    if experiment.activations is None:
        return params
    images = jnp.asarray(drawn(data.train, _RANGE_EXAMPLES, experiment.seed).images)
    module = build.model(experiment.model, data.classes)
    return with_ranges(module, experiment.activations, params, build.scaled(images))
