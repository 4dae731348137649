"""Axes are read as they are written, and every point of the grid is an experiment that was checked."""

import pytest

from experiments import config, grid
from experiments.config import MLP, Data, Distill, Experiment, Magnitude, Optimiser, Ramp, Stage

TEACHER = Experiment(Data("digits"), MLP((8,)), (Stage("teacher", 1, optimiser=Optimiser(learning_rate=0.5)),), seed=7)
PRUNE = Magnitude("fc1/kernel", 0.5, Ramp(1.0))
EXPERIMENT = Experiment(
    Data("digits"),
    MLP((16,)),
    (Stage("dense", 2), Stage("pruned", 2, recipe=(PRUNE,), distill=Distill(TEACHER, temperature=4.0))),
)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seed=0:3", (0, 1, 2)),
        ("sparsity=0.5:0.9:3", (0.5, 0.7, 0.9)),
        ("learning_rate=1e-4:1e-2:3:log", (1e-4, 1e-3, 1e-2)),
        ("bits=2,4,8", (2, 4, 8)),
        ("temperature=1e0,2.5", (1.0, 2.5)),
        ("scope=layer,global", ("layer", "global")),
        ("sparsity=0.9:0.9:1", (0.9,)),
    ],
)
def test_axes_are_read(text, values):
    assert grid.Axis.parse(text) == grid.Axis(text.partition("=")[0], values)


@pytest.mark.parametrize(
    "text",
    ["seed", "seed=", "=1,2", "seed=0:0", "a=1:2:0", "a=1:2:3:4", "a=0:1:3:log", "a=x:y:2", "a=1,1", "a=1:2:3:lin"],
)
def test_other_axes_are_refused_by_their_text(text):
    with pytest.raises(ValueError, match=f"--over '{text}'"):
        grid.Axis.parse(text)


@pytest.mark.parametrize(
    ("key", "places"),
    [
        ("seed", ["seed"]),
        ("sparsity", ["stages.1.recipe.0.sparsity"]),
        ("learning_rate", ["stages.0.optimiser.learning_rate", "stages.1.optimiser.learning_rate"]),
        ("stages.pruned.optimiser.learning_rate", ["stages.1.optimiser.learning_rate"]),
        ("stages.0.epochs", ["stages.0.epochs"]),
        ("stages.*.epochs", ["stages.0.epochs", "stages.1.epochs"]),
        ("temperature", ["stages.1.distill.temperature"]),
    ],
)
def test_keys_name_places_of_the_experiment_itself(key, places):
    """The teacher is an experiment of its own: its seed and rate are not the student's."""
    assert list(map(grid.written, grid.places(EXPERIMENT, key))) == places


@pytest.mark.parametrize("key", ["sparsty", "stages.sparse.epochs", "stages.1.recipe.0"])
def test_keys_of_nothing_are_refused(key):
    with pytest.raises(ValueError, match=f"--over {key}: there is nothing of that name.*'sparsity'"):
        grid.places(EXPERIMENT, key)


def test_the_grid_has_every_combination_and_the_last_axis_runs_fastest():
    axes = [grid.Axis("sparsity", (0.5, 0.75)), grid.Axis("seed", (0, 1))]
    points = grid.points(EXPERIMENT, axes)
    assert list(map(str, points)) == [f"sparsity={s}, seed={k}" for s in (0.5, 0.75) for k in (0, 1)]
    made = [(p.experiment.stages[1].recipe[0].sparsity, p.experiment.seed) for p in points]
    assert made == [(0.5, 0), (0.5, 1), (0.75, 0), (0.75, 1)]
    assert points[0].experiment == EXPERIMENT and all(p.experiment.stages[1].distill.teacher == TEACHER for p in points)


def test_defaults_can_be_swept_too():
    rates = [
        p.experiment.stages[0].optimiser.learning_rate
        for p in grid.points(EXPERIMENT, [grid.Axis("learning_rate", (0.1, 0.2))])
    ]
    assert rates == [0.1, 0.2]


def test_without_axes_there_is_one_point():
    assert grid.points(EXPERIMENT, []) == [grid.Point({}, EXPERIMENT)]


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        (grid.Axis("temperature", (-1.0, 2.0)), "temperature=-1.0"),
        (grid.Axis("sparsity", (0.5, 1.5)), "sparsity=1.5"),
        (grid.Axis("epochs", (1.5,)), "no whole number"),
        (grid.Axis("seed", ("first",)), "first"),
    ],
)
def test_values_that_a_field_refuses_are_named(axis, message):
    with pytest.raises(ValueError, match=message):
        grid.points(EXPERIMENT, [axis])


def test_two_axes_of_one_field_are_refused():
    axes = [grid.Axis("epochs", (1, 2)), grid.Axis("stages.1.epochs", (3, 4))]
    with pytest.raises(ValueError, match="epochs and stages.1.epochs both set stages.1.epochs"):
        grid.points(EXPERIMENT, axes)


def test_whole_numbers_of_a_range_are_integers():
    epochs = [p.experiment.stages[0].epochs for p in grid.points(EXPERIMENT, [grid.Axis.parse("epochs=2:6:3")])]
    assert epochs == [2, 4, 6] and all(type(e) is int for e in epochs)


def test_shards_are_a_partition():
    points = grid.points(EXPERIMENT, [grid.Axis("seed", tuple(range(7)))])
    parts = [grid.shard(points, f"{i}/3") for i in range(3)]
    assert sorted(p.experiment.seed for part in parts for p in part) == list(range(7))
    assert [p.experiment.seed for p in parts[1]] == [1, 4] and grid.shard(points, None) == points


@pytest.mark.parametrize("text", ["3/3", "1", "-1/2", "a/b", "0/0"])
def test_shards_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=f"--shard '{text}'"):
        grid.shard([], text)


def test_roles_say_what_a_program_may_be_given():
    roles = {grid.written(place): role for place, role in config.roles(EXPERIMENT).items()}
    assert roles["seed"] == roles["stages.1.recipe.0.sparsity"] == roles["stages.1.optimiser.learning_rate"] == "traced"
    assert roles["stages.0.optimiser.learning_rate"] == roles["stages.0.epochs"] == roles["transfer"] == "initial"
    assert roles["stages.1.epochs"] is None and roles["model.hidden"] is None


def test_values_are_put_where_they_belong_and_nowhere_else():
    changed = config.with_values(EXPERIMENT, {("stages", 1, "recipe", 0, "sparsity"): 2.0, ("seed",): 5})
    assert changed.stages[1].recipe[0].sparsity == 2.0 and changed.seed == 5  # not checked
    assert changed.stages[0] is EXPERIMENT.stages[0] and EXPERIMENT.stages[1].recipe[0].sparsity == 0.5
    assert config.values(EXPERIMENT)[("stages", 1, "distill", "teacher")] is TEACHER
