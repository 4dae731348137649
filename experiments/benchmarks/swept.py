"""A sweep as one program, as compiled epochs one after another, as steps dispatched one at a time, and as processes."""

import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import build, config, grid, runs, train, widths
from experiments.benchmarks.timing import Effort, Report, Row, race, row
from experiments.cohorts import Cohort
from experiments.data import Dataset, Split
from experiments.placement import Placement
from experiments.plan import Plan

STEPS, EPOCHS = "each step dispatched", "each point an epoch of its own"
COMMANDS, COMMAND = "a process for each point", "one process"
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99)
RECIPE = config.Magnitude("fc./kernel", 0.9, config.Ramp(1.0), "global", every=10)
SWEEP = pathlib.Path(__file__).parent.parent.parent / "scripts" / "sweep.py"

Points = list[config.Experiment]


def sweep(effort: Effort) -> Report:
    """Compares ways to train the points of a sweep, sparsities of LeNet-300-100 and seeds."""
    axes = [grid.Axis("sparsity", SPARSITIES[-effort.sparsities :]), grid.Axis("seed", tuple(range(effort.seeds)))]
    return Report([*_programs(axes, effort), _commands(axes, effort)], [])


def _programs(axes: Sequence[grid.Axis], effort: Effort) -> list[Row]:
    """Races the epoch of all points, of random images."""
    points, plans, states = _begun(axes, effort)
    placement = Placement.of(jax.devices())
    cohort = Cohort.of(points, plans, states)
    ways: dict[str, Callable[[], Any]] = {
        STEPS: lambda: _dispatched(plans, states, effort),
        EPOCHS: lambda: _one_after_another(plans, states),
    }
    for width in widths.choices(-(-len(points) // placement.rows)):
        ways[f"one program, {width} at a time"] = _together(cohort, placement, width)
    times = race(ways, effort.rounds)
    losses = {way: np.asarray(jnp.stack(list(call()))) for way, call in ways.items()}
    title = f"LeNet-300-100, {len(points)} points, {effort.steps} steps of each"
    apart = {way: float(np.max(np.abs(found[: len(points)] - losses[STEPS]))) for way, found in losses.items()}
    return [row(title, times, way, STEPS, apart[way]) for way in ways if way != STEPS]


def _begun(axes: Sequence[grid.Axis], effort: Effort) -> tuple[Points, list[Plan], list[train.State]]:
    random, count = np.random.default_rng(0), effort.batch * effort.steps
    images, labels = random.integers(0, 256, (count, 28, 28, 1), np.uint8), random.integers(0, 10, count, np.int32)
    few = Split(images[:1], labels[:1])
    data = Dataset("random", Split(images, labels), few, few, 10)
    stage = config.Stage("pruned", 1, effort.batch, config.Optimiser("sgd", 0.01), (RECIPE,))
    experiment = config.Experiment(config.Data("mnist"), config.MLP(), (stage,))
    points = [point.experiment for point in grid.points(experiment, axes)]
    plans = [Plan.of(point, data, np.zeros((count, 0), np.float32)) for point in points]
    initial = [build.initial_params(point, data) for point in points]
    return points, plans, [plan.begin(params, None) for plan, params in zip(plans, initial, strict=True)]


def _dispatched(plans: Sequence[Plan], states: Sequence[train.State], effort: Effort) -> list[jax.Array]:
    """Runs each batch of an epoch as a program of its own; returns the mean loss of each point."""
    losses = []
    for plan, state in zip(plans, states, strict=True):
        key = jax.random.fold_in(plan.key, 1)
        order = jax.random.permutation(jax.random.split(key)[0], effort.batch * effort.steps)
        found = []
        for indices in np.split(np.asarray(order), effort.steps):
            batch = jax.tree.map(lambda column, indices=indices: column[indices], plan.examples)
            state, loss = plan.program(state, batch, key)
            found.append(loss)
        losses.append(jnp.mean(jnp.stack(found)))
    return losses


def _one_after_another(plans: Sequence[Plan], states: Sequence[train.State]) -> list[jax.Array]:
    """Runs the compiled epoch of each point."""
    of_all = zip(plans, states, strict=True)
    return [plan.program(state, plan.examples, jax.random.fold_in(plan.key, 1))[1] for plan, state in of_all]


def _together(cohort: Cohort, placement: Placement, width: int) -> Callable[[], jax.Array]:
    """Returns a call that runs the epoch of all points as one program."""
    program = widths.compiled(cohort, placement, width)
    count = placement.padded(len(cohort.experiments), width)
    given, examples = placement.placed(cohort.points, count), placement.everywhere(cohort.plan.examples)
    step, epoch = placement.everywhere((jnp.int32(0), jnp.int32(1)))

    def run() -> jax.Array:
        states = jax.tree.map(jnp.copy, given.state)  # it gives up the memory of those that it is given
        return program(states, given._replace(state=()), step, examples, epoch)[1]

    return run


def _commands(axes: Sequence[grid.Axis], effort: Effort) -> Row:
    """Times the whole command of a sweep, and the commands of its points one after another."""
    (experiment,) = config.load_table(pathlib.Path(effort.swept), ()).experiments.values()
    points = grid.points(experiment, axes)
    with tempfile.TemporaryDirectory() as folder:
        together, alone = pathlib.Path(folder, "together"), pathlib.Path(folder, "alone")
        over = {axis.key: ",".join(map(str, axis.values)) for axis in axes}
        times = {COMMAND: _seconds(effort.swept, over, together)}
        times[COMMANDS] = sum(_seconds(effort.swept, point.values, alone) for point in points)
        errors = {
            out: np.array([runs.locate(point.experiment, out / "runs").metrics["error"] for point in points])
            for out in (together, alone)
        }
    apart = float(np.max(np.abs(errors[together] - errors[alone])))
    title = f"{effort.swept}, {len(points)} points from the start of Python to their report"
    measured = {way: np.array([1e3 * seconds]) for way, seconds in times.items()}
    return row(title, measured, COMMAND, COMMANDS, apart)


def _seconds(swept: str, values: dict[str, Any], out: pathlib.Path) -> float:
    """Runs a command of `scripts/sweep.py`; raises RuntimeError with what it said if it fails."""
    over = [f"--over={key}={value}" for key, value in values.items()]
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, str(SWEEP), swept, *over, f"--out={out}", "--wandb=disabled"], capture_output=True, text=True
    )
    if ended.returncode:
        raise RuntimeError(f"{swept}: {ended.stderr.strip()}")
    return time.monotonic() - began
