"""Training: the data on the device, a whole epoch in one compiled program."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

import jaxcompress as jc


class State(NamedTuple):
    """Holds all that training carries from step to step."""

    trainable: Any
    fixed: Any
    opt_state: Any
    step: Array  # optimiser updates so far, int32


class Examples(NamedTuple):
    """Holds the training set on the device: `teacher` has the teacher's logits, or no columns without one."""

    images: Array
    labels: Array
    teacher: Array


class Objective(NamedTuple):
    """Weighs the loss: `distill` of it from the teacher at `temperature`, the rest from the labels."""

    distill: float = 0.0
    temperature: float = 1.0


def begin(params: Any, optimiser: optax.GradientTransformation) -> State:
    """Returns the state before the first step."""
    trainable, fixed = jc.partition(params)
    return State(trainable, fixed, optimiser.init(trainable), jnp.int32(0))


def params_of(state: State) -> Any:
    """Returns the parameters of a state."""
    return jc.combine(state.trainable, state.fixed)


def epoch_program(
    logits: Callable[[Any, Array, Array], Array],
    optimiser: optax.GradientTransformation,
    recipe: jc.Transform,
    objective: Objective,
    batch: int,
) -> Callable[[State, Examples, Array], tuple[State, Array]]:
    """Compiles ``epoch(state, examples, key) -> (state, mean loss)``: one pass in an order drawn from `key`.

    Examples beyond a whole number of batches are left out of that pass.
    """

    def loss(trainable: Any, fixed: Any, examples: Examples, key: Array) -> Array:
        outputs = logits(jc.combine(trainable, fixed), examples.images, key)
        total = optax.softmax_cross_entropy_with_integer_labels(outputs, examples.labels)
        if objective.distill:
            soft = jc.distill.kd(outputs, examples.teacher, objective.temperature)
            total = (1 - objective.distill) * total + objective.distill * soft
        return total.mean()

    @jax.jit
    def epoch(state: State, examples: Examples, key: Array) -> tuple[State, Array]:
        order_key, step_key = jax.random.split(key)
        size = examples.labels.shape[0] // batch
        order = jax.random.permutation(order_key, examples.labels.shape[0])[: size * batch].reshape(size, batch)

        def step(state: State, indices: Array) -> tuple[State, Array]:
            chosen = jax.tree.map(lambda column: column[indices], examples)
            key = jax.random.fold_in(step_key, state.step)
            value, grads = jax.value_and_grad(loss)(state.trainable, state.fixed, chosen, key)
            updates, opt_state = optimiser.update(grads, state.opt_state, state.trainable)
            moved = jc.combine(optax.apply_updates(state.trainable, updates), state.fixed)
            params = recipe.update(moved, state.step + 1, grads=grads, key=key)
            return State(*jc.partition(params), opt_state, state.step + 1), value

        state, losses = lax.scan(step, state, order)
        return state, losses.mean()

    return epoch


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
    FloatingPointError when the loss is no longer finite.
    """
    for epoch in range(first, last + 1):
        state, mean = program(state, examples, jax.random.fold_in(key, epoch))
        if not math.isfinite(loss := float(mean)):
            raise FloatingPointError(f"the loss of epoch {epoch} is {loss}: training diverged; lower the learning rate")
        yield epoch, state, loss
