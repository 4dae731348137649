"""Training: the data on the device, a whole epoch in one compiled program."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.core import Tracer

import jaxcompress as jc
from experiments.augmentation import Views
from experiments.build import Heard, Outputs
from experiments.teaching import Batch, Lessons
from experiments.variables import cut_like, split

_AUGMENTATION, _LESSONS = 1, 2  # folded into the key of a step, which dropout is drawn by


class State(NamedTuple):
    """Holds all that training carries from step to step."""

    trainable: Any
    fixed: Any
    opt_state: Any
    step: Array  # optimiser updates so far, int32
    statistics: Any = {}  # running ones of batch normalization, moved by no optimiser and no recipe
    constraint: Any = ()  # what ties the weights to compressed ones, in the LC algorithm
    teaching: Any = ()  # what a student's lessons train and keep, if it has any


class Teaching(NamedTuple):
    """Holds what the lessons of a student train, by an optimiser's state of their own, and what they keep."""

    learned: Any
    opt_state: Any
    kept: Any


class Examples(NamedTuple):
    """Holds the training set on the device: `teacher` has the teacher's logits, or no columns without one.

    Of augmented images that have a number of views these are (examples, views, classes).
    """

    images: Array
    labels: Array
    teacher: Array


class Objective(NamedTuple):
    """Weighs the loss: `distill` of it from the teacher at `temperature`, the rest, of a kind, from the labels.

    To that come the penalty of network slimming, of strength `slimming`, that of the LC algorithm, of the strength
    ``constraint(step)``, and the losses of `lessons`.
    """

    distill: float | Array = 0.0
    temperature: float | Array = 1.0
    labels: Literal["cross-entropy", "square-hinge"] = "cross-entropy"
    slimming: float | Array = 0.0
    constraint: Callable[[Array], Array] | None = None
    lessons: Lessons | None = None


def begin(params: Any, optimiser: optax.GradientTransformation) -> State:
    """Returns the state before the first step."""
    weights, statistics = split(params)
    trainable, fixed = jc.partition(weights)
    return State(trainable, fixed, optimiser.init(trainable), jnp.int32(0), statistics)


def params_of(state: State) -> Any:
    """Returns the parameters of a state."""
    return jc.combine(state.trainable, state.fixed) | state.statistics


def square_hinge(logits: Array, labels: Array) -> Array:
    """Returns the loss (batch,) of an L2-SVM for each class against the others (Tang 2013, arXiv:1306.0239).

    That is ``sum over classes of max(0, 1 - t y)^2`` with the target t of 1 for the class of the label, -1 for others.
    """
    targets = 2 * jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) - 1
    return jnp.sum(jnp.square(jax.nn.relu(1 - targets * logits)), axis=-1)


LOSSES = {"cross-entropy": optax.softmax_cross_entropy_with_integer_labels, "square-hinge": square_hinge}


def epoch_program(
    outputs: Callable[[Any, Array, Array], Outputs],
    optimiser: optax.GradientTransformation,
    recipe: jc.Transform,
    objective: Objective,
    batch: int,
    *,
    moves_masks: bool = False,
    augment: Callable[[Array, Array], Array] | None = None,
    views: Views | None = None,
    teacher: Callable[[Array], Heard] | None = None,
    of_lessons: optax.GradientTransformation | None = None,
    spread: Callable[[Examples], Examples] = lambda examples: examples,
) -> Callable[[State, Examples, Array], tuple[State, Array]]:
    """Compiles ``epoch(state, examples, key) -> (state, mean loss)``: one pass in an order drawn from `key`.

    `outputs` is what `experiments.build.trainer` returns. Examples beyond a whole number of batches are left out of
    that pass. If the recipe `moves_masks`, the optimiser's state of weights out of use is zero after every step. Images
    are changed by ``augment(images, key)``; ``teacher(images)`` is heard on what becomes of them, where the logits of
    the examples are of the images as they were. Or pass after pass shows one of `views` after another, of which the
    examples then have the teacher's logits (examples, views, classes). What lessons train is moved by the optimiser
    `of_lessons`. Batches are laid out on devices by `spread`.
    """
    loss = _loss(outputs, objective)

    @jax.jit
    def epoch(state: State, examples: Examples, key: Array) -> tuple[State, Array]:
        order_key, step_key = jax.random.split(key)
        size = examples.labels.shape[0] // batch
        view = state.step // size % views.count if views is not None else 0
        order = jax.random.permutation(order_key, examples.labels.shape[0])[: size * batch].reshape(size, batch)

        def step(state: State, indices: Array) -> tuple[State, Array]:
            chosen = spread(jax.tree.map(lambda column: column[indices], examples))
            key = jax.random.fold_in(step_key, state.step)
            if augment is not None:
                chosen = chosen._replace(images=augment(chosen.images, jax.random.fold_in(key, _AUGMENTATION)))
            if views is not None:
                seen = views.of(chosen.images, indices, view)
                chosen = chosen._replace(images=seen, teacher=chosen.teacher[:, view])
            heard = Heard(chosen.teacher, {}) if teacher is None else teacher(chosen.images)
            learned = state.teaching.learned if objective.lessons is not None else ()
            slope = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
            (value, after), (grads, lesson_grads) = slope(state.trainable, learned, state, chosen, heard, indices, key)
            updates, opt_state = optimiser.update(grads, state.opt_state, state.trainable)
            moved = jc.combine(optax.apply_updates(state.trainable, updates), state.fixed)
            params = recipe.update(moved, state.step + 1, grads=grads, key=key, batch=chosen)
            trainable, fixed = jc.partition(params)
            if moves_masks:
                opt_state = jc.prune.mask_moments(opt_state, params)
            teaching = state.teaching
            if of_lessons is not None and objective.lessons is not None:
                teaching = _taught(teaching, of_lessons, lesson_grads, after.kept)
            return State(
                trainable, fixed, opt_state, state.step + 1, after.statistics, state.constraint, teaching
            ), value

        state, losses = lax.scan(step, state, order)
        return state, losses.mean()

    return epoch


class _After(NamedTuple):
    """Holds what a batch leaves besides gradients: statistics, and what lessons keep."""

    statistics: Any
    kept: Any


def _taught(teaching: Teaching, optimiser: optax.GradientTransformation, grads: Any, kept: Any) -> Teaching:
    """Moves what lessons train."""
    updates, opt_state = optimiser.update(grads, teaching.opt_state, teaching.learned)
    return Teaching(optax.apply_updates(teaching.learned, updates), opt_state, kept)


def _loss(outputs: Callable[[Any, Array, Array], Outputs], objective: Objective) -> Callable[..., tuple[Array, _After]]:
    """Returns ``loss(trainable, learned, state, examples, heard, indices, key) -> (mean loss, what it leaves)``."""

    def loss(
        trainable: Any, learned: Any, state: State, examples: Examples, heard: Heard, indices: Array, key: Array
    ) -> tuple[Array, _After]:
        params = params_of(state._replace(trainable=trainable))
        made = outputs(params, examples.images, key)
        total, kept = LOSSES[objective.labels](made.logits, examples.labels), ()
        if _asked(objective.distill):
            soft = jc.distill.kd(made.logits, heard.logits, objective.temperature)
            total = (1 - objective.distill) * total + objective.distill * soft
        if objective.lessons is not None:
            own = jax.random.fold_in(key, _LESSONS)
            student = Heard(made.logits, made.taps)
            batch = Batch(examples.images, student, heard, examples.labels, indices, own)
            losses, kept = objective.lessons.loss(learned, state.teaching.kept, batch)
            total = total + losses
        mean = total.mean()
        if _asked(objective.slimming):
            mean = mean + jc.prune.slimming_penalty(params, strength=objective.slimming)
        if objective.constraint is not None:
            mean = mean + jc.lc.penalty(params, state.constraint, objective.constraint(state.step))
        return mean, _After(cut_like(made.statistics, state.statistics), kept)

    return loss


def _asked(strength: float | Array) -> bool:
    """Tells whether a loss is a part of the whole; one whose strength is traced may be."""
    return isinstance(strength, Tracer) or bool(strength != 0)


class Diverged(FloatingPointError):
    """Says that a loss is no longer finite, after which epoch."""

    def __init__(self, epoch: int, loss: float):
        super().__init__(f"the loss of epoch {epoch} is {loss}: training diverged; lower the learning rate")
        self.epoch, self.loss = epoch, loss


def epochs(
    program: Callable[[State, Examples, Array], tuple[State, Array]],
    state: State,
    examples: Examples,
    key: Array,
    first: int,
    last: int,
) -> Iterator[tuple[int, State, float]]:
    """Trains epochs `first` to `last`, counted from 1; yields each with the state after it and its mean loss.

    The order of an epoch depends on `key` and its number alone, so training may stop and go on at any epoch. Raises
    Diverged when the loss is no longer finite.
    """
    for epoch in range(first, last + 1):
        state, mean = program(state, examples, jax.random.fold_in(key, epoch))
        if not math.isfinite(loss := float(mean)):
            raise Diverged(epoch, loss)
        yield epoch, state, loss
