"""A stage of the LC algorithm: training that is drawn to compressed weights, and these made anew by turns."""

import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from jax import Array

import jaxcompress as jc
from experiments import config, recipes, train
from experiments.variables import split
from jaxcompress.paths import Params

Program = Callable[..., tuple[train.State, Array]]


def strength(spec: config.LC, epoch_steps: int) -> Callable[[Array], Array]:
    """Returns the strength of the penalty at an optimiser step, which may be traced."""

    def at(step: Array) -> Array:
        turns = jnp.maximum(0, 1 + (step // epoch_steps - spec.first) // spec.epochs)
        return jnp.float32(spec.strength) * jnp.float32(spec.growth) ** turns.astype(jnp.float32)

    return at


def compression(stage: config.Stage, setting: recipes.Setting) -> jc.lc.Compression:
    """Returns the C step of a stage: its recipe, applied to plain weights."""

    def compress(params: Params, strength: float) -> Params:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jc.factorize.Declined)  # a rank may pay at the next turn
            return recipes.recipe(stage, setting._replace(strength=strength)).init(params)

    return compress


def with_c_steps(
    program: Program,
    stage: config.Stage,
    compress: jc.lc.Compression,
    optimiser: optax.GradientTransformation,
    epoch_steps: int,
) -> Program:
    """Returns the program of an epoch that takes the C step where an L step ends, and begins the next without momentum.

    The learning rate goes on by the count of steps.
    """
    spec = stage.lc
    assert spec is not None
    strength_at = strength(spec, epoch_steps)

    def epoch(state: train.State, examples: train.Examples, key: Array) -> tuple[train.State, Array]:
        state, loss = program(state, examples, key)
        epochs = int(state.step) // epoch_steps - spec.first
        if epochs < 0 or epochs % spec.epochs:
            return state, loss
        weights, _ = split(train.params_of(state))
        reached = float(strength_at(state.step - 1))
        constraint = jc.lc.compress(compress, weights, state.constraint, reached)
        still = optax.tree.map_params(optimiser, jnp.zeros_like, state.opt_state)
        return state._replace(constraint=constraint, opt_state=still), loss

    return epoch


def begin(compress: jc.lc.Compression, params: Any, optimiser: optax.GradientTransformation) -> train.State:
    """Returns the first state of a stage: plain weights, drawn to what they are compressed to directly."""
    state = train.begin(params, optimiser)
    weights, _ = split(params)
    return state._replace(constraint=jc.lc.direct(compress, weights))


def handed_on(compress: jc.lc.Compression, state: train.State) -> Params:
    """Returns the parameters of a state with the compressed weights of its last C step."""
    weights, statistics = split(train.params_of(state))
    return jc.lc.result(compress, weights, state.constraint) | statistics
