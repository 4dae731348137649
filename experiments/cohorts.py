"""Cohorts: points of a sweep that one program trains, since they differ in numbers that it takes as arguments."""

import json
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from experiments import config, train
from experiments.config import Place
from experiments.placement import Placement
from experiments.plan import Plan
from jaxcompress.arrays import Factored

Epoch = Callable[..., tuple[train.State, Array]]
Shapes = tuple[tuple[int, ...], ...]  # of the arrays of a state


class Own(NamedTuple):
    """Holds what one point of a cohort has of its own; stacked, what all of them have, along the first axis.

    The count of steps is no part of its state here: points take their steps together, and a condition on the step that
    differed between points would run both of its branches for all.
    """

    values: dict[str, Array]  # numbers of the configuration, by their place
    state: train.State
    key: Array  # its data


class Cohort(NamedTuple):
    """Holds experiments whose last stage is one program, that of the first, and their state before it, stacked.

    Arrays that differ in shape are factors of other ranks: they are padded by zeros, which no step of training moves,
    and `shapes` tells what they are cut to.
    """

    experiments: tuple[config.Experiment, ...]
    plan: Plan
    points: Own
    shapes: tuple[Shapes, ...]

    @classmethod
    def of(
        cls,
        experiments: Sequence[config.Experiment],
        plans: Sequence[Plan],
        states: Sequence[train.State],
        differing: Sequence[str] | None = None,
        largest: Shapes | None = None,
    ) -> "Cohort":
        """Stacks experiments that have the same `signature` and whose states have the same `structure`.

        Some of a cohort are stacked as all of it were by the names of the values that were `differing` there, and the
        `largest` shapes.
        """
        bare = [state._replace(step=()) for state in states]
        shapes, own = _shapes(bare)
        largest = own if largest is None else largest
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(_each(_padded, state, largest) for state in bare))
        keys = jnp.stack([jax.random.key_data(plan.key) for plan in plans])
        return cls(tuple(experiments), plans[0], Own(_differing(experiments, differing), stacked, keys), shapes)

    @classmethod
    def outline(cls, experiments: Sequence[config.Experiment], plan: Plan, states: Sequence[train.State]) -> "Cohort":
        """Makes a cohort of shapes alone, to be compiled and not to be run."""
        bare = [state._replace(step=()) for state in states]
        shapes, largest = _shapes(bare)
        stacked = _each(lambda leaf, shape: jax.ShapeDtypeStruct((len(bare), *shape), leaf.dtype), bare[0], largest)
        of_one = jax.random.key_data(plan.key)
        keys: Any = jax.ShapeDtypeStruct((len(bare), *of_one.shape), of_one.dtype)
        return cls(tuple(experiments), plan, Own(_differing(experiments), stacked, keys), shapes)

    def first(self, count: int) -> "Cohort":
        """Returns the outline of the first so many points, and as many more of the kind of the first as are missing."""
        wanted = [*self.experiments, *[self.experiments[0]] * count][:count]
        resized = lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype)
        return self._replace(experiments=tuple(wanted), points=jax.tree.map(resized, self.points))

    @property
    def largest(self) -> Shapes:
        """The shapes of the arrays of a state, without its count of steps, that those of each point are padded to."""
        return tuple(leaf.shape[1:] for leaf in jax.tree.leaves(self.points.state))

    @property
    def batch(self) -> int:
        """The number of examples of a step."""
        return self.experiments[0].training.batch

    def state(self, states: train.State, index: int, step: int) -> train.State:
        """Returns the state of one point after some steps as it is alone."""
        own = jax.tree.map(lambda leaf: leaf[index], states)
        return _each(_cut, own, self.shapes[index])._replace(step=jnp.int32(step))

    def epoch(self, width: int, placement: Placement) -> Epoch:
        """Returns ``epoch(states, points, step, examples, epoch) -> (states, losses)`` of all points.

        Points are trained `width` at a time on each row of devices, from `states`, whatever theirs are.
        """
        template = self.experiments[0]

        def one(point: Own, step: Array, examples: train.Examples, epoch: Array) -> tuple[train.State, Array]:
            values = {_place(name): value for name, value in point.values.items()}
            training = self.plan.training_of(config.with_values(template, values), spread=placement.spread)
            key = jax.random.fold_in(jax.random.wrap_key_data(point.key), epoch)
            state, loss = training.program(point.state._replace(step=step), examples, key)
            return state._replace(step=()), loss

        def all_of(
            states: train.State, points: Own, step: Array, examples: train.Examples, epoch: Array
        ) -> tuple[train.State, Array]:
            of_one = partial(one, step=step, examples=examples, epoch=epoch)
            return over_points(of_one, points._replace(state=states), width, placement.rows)

        return all_of

    def wrong(self, width: int, placement: Placement) -> Callable[[train.State, Array, Array], Array]:
        """Returns ``wrong(states, images, labels)``, the errors of each point on these images."""

        def all_of(states: train.State, images: Array, labels: Array) -> Array:
            def one(state: train.State) -> Array:
                guesses = self.plan.logits(self.plan.handed_on(state), images).argmax(axis=-1)
                return jnp.sum(guesses != labels, dtype=jnp.int32)

            return over_points(one, states, width, placement.rows)

        return all_of


def over_points(function: Callable[[Any], Any], points: Any, width: int, rows: int) -> Any:
    """Maps a function over the first axis of `points`, `width` at a time on each of so many rows of devices."""
    each = partial(lax.map, function, batch_size=width) if width > 1 else partial(lax.map, function)
    count = jax.tree.leaves(points)[0].shape[0] // rows
    each = jax.vmap(function) if width >= count else each
    if rows == 1:
        return each(points)
    split = jax.tree.map(lambda leaf: leaf.reshape(rows, count, *leaf.shape[1:]), points)
    made = jax.vmap(each, spmd_axis_name="sweep")(split)
    return jax.tree.map(lambda leaf: leaf.reshape(rows * count, *leaf.shape[2:]), made)


def alone(experiment: config.Experiment) -> str | None:
    """Says why the last stage of an experiment has to be run by itself; None if it may be one of a cohort."""
    stage = experiment.stages[-1]
    if not isinstance(stage, config.Stage):
        return "it does not train"
    if not stage.epochs:
        return "it trains for no epochs"
    if stage.lc is not None:
        return "its C steps stand between epochs"
    if stage.distill is not None and (stage.distill.synthesis is not None or stage.distill.views):
        return "its images are drawn by its seed"
    return None


def signature(experiment: config.Experiment) -> str:
    """Returns what the program of the last stage is made of: experiments of a cohort have it in common."""
    roles = config.roles(experiment)
    parts = {_name(place): value for place, value in config.values(experiment).items() if roles[place] is None}
    parts["activations"] = experiment.activations  # those of an earlier stage hold in the last
    return json.dumps({name: repr(value) for name, value in parts.items()}, sort_keys=True)


def structure(state: train.State) -> Hashable:
    """Returns what states must have in common to be stacked: all but the ranks of factors that are plain arrays."""
    leaves, tree = jax.tree.flatten(state)

    def factored(leaf: Any) -> bool:
        return isinstance(leaf, Factored) and all(isinstance(part, jax.Array) for part in leaf.parts())

    shapes = []
    for leaf in jax.tree.leaves(state, is_leaf=factored):
        parts = jax.tree.leaves(leaf)
        shapes.append((leaf.shape, tuple(part.ndim for part in parts)) if factored(leaf) else leaf.shape)
    return tree, tuple(shapes), tuple(leaf.dtype for leaf in leaves)


def _differing(experiments: Sequence[config.Experiment], names: Sequence[str] | None = None) -> dict[str, Array]:
    """Stacks the traced numbers with these names, or those in which experiments differ."""
    roles, all_values = config.roles(experiments[0]), [config.values(experiment) for experiment in experiments]
    found = {}
    for place in all_values[0]:
        numbers = [values[place] for values in all_values]
        differ = len(set(numbers)) > 1 if names is None else _name(place) in names
        if roles[place] == "traced" and differ:
            found[_name(place)] = jnp.asarray(numbers, jnp.int32 if isinstance(numbers[0], int) else jnp.float32)
    return found


def _name(place: Place) -> str:
    return json.dumps(place)


def _place(name: str) -> Place:
    return tuple(json.loads(name))


def _shapes(states: Sequence[train.State]) -> tuple[tuple[Shapes, ...], Shapes]:
    """Returns the shapes of the arrays of each state, and the largest of each array."""
    each = tuple(tuple(leaf.shape for leaf in jax.tree.leaves(state)) for state in states)
    return each, tuple(tuple(map(max, zip(*alike, strict=True))) for alike in zip(*each, strict=True))


def _each(change: Callable[[Any, tuple[int, ...]], Any], state: train.State, shapes: Shapes) -> train.State:
    """Changes each array of a state by the shape that belongs to it."""
    leaves, tree = jax.tree.flatten(state)
    return jax.tree.unflatten(tree, map(change, leaves, shapes))


def _padded(leaf: Array, shape: tuple[int, ...]) -> Array:
    if leaf.shape == shape:
        return leaf
    return jnp.pad(leaf, [(0, wanted - size) for wanted, size in zip(shape, leaf.shape, strict=True)])


def _cut(leaf: Array, shape: tuple[int, ...]) -> Array:
    return leaf[tuple(map(slice, shape))]
