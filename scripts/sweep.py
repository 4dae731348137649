"""Sweeps an experiment over values of its settings: points that differ in numbers alone are one compiled program."""

import pathlib
from dataclasses import dataclass, field
from typing import Annotated

import jax
import tyro

from experiments import cli, config, grid, sweep
from experiments.logging import WandbMode
from experiments.placement import Placement
from jaxcompress.paths import did_you_mean


@dataclass(frozen=True)
class Arguments:
    """Sweeps an experiment. Points that are there already are not run again, and a sweep that was killed goes on."""

    config: tyro.conf.Positional[pathlib.Path]
    """a YAML file of paper_configs/, or one like them"""
    over: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = field(default=())
    """an axis of the grid: sparsity=0.5:0.99:8 (eight values), learning_rate=1e-4:1e-2:5:log, bits=2,4,8 or seed=0:8 (0
    to 7); a name stands for all fields of that name, or give the way to one: stages.pruned.optimiser.learning_rate"""
    experiment: str | None = None
    """which of the config's experiments; may be left out if there is one"""
    stage: str | None = None
    """the stage to end with; the last by default"""
    data_dir: pathlib.Path | None = None
    """folder that holds the data sets; else JAXCOMPRESS_DATA; else they are downloaded"""
    out: pathlib.Path = pathlib.Path("runs")
    """folder for runs and reports"""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = field(default=())
    """change the config, such as experiments.*.data.limit=2000 (may be given again)"""
    width: int | None = None
    """points to train at a time on each device; measured by default"""
    data_parallel: int = 1
    """devices that share each batch; the others share the points"""
    shard: str | None = None
    """i/n runs the points i, i + n, i + 2n and so on, counted from 0: n machines need no coordinator"""
    wandb: WandbMode = "auto"
    """Weights & Biases: auto is online for a user who is logged in, else offline"""
    checkpoint_seconds: float = 20.0
    """seconds between checkpoints, from which a sweep that was stopped goes on"""


def main() -> None:
    """Runs the command line."""
    arguments = tyro.cli(Arguments, description=__doc__)
    with cli.ending():
        experiment = _chosen(arguments)
        points = grid.points(experiment, [grid.Axis.parse(axis) for axis in arguments.over])
        own = grid.shard(points, arguments.shard)
        placement = Placement.of(jax.devices(), arguments.data_parallel, arguments.width)
        options = (arguments.out, arguments.data_dir, arguments.wandb, arguments.checkpoint_seconds)
        with cli.settings(*options) as settings:
            sweep.sweep([point.experiment for point in own], settings, placement)
        print(f"{len(own)} points")


def _chosen(arguments: Arguments) -> config.Experiment:
    """Returns the experiment that is swept."""
    table = config.load_table(arguments.config, arguments.set)
    names = list(table.experiments)
    name = arguments.experiment or (names[0] if len(names) == 1 else "")
    if name not in names:
        asked = f"--experiment {name!r}{did_you_mean(name, names)}" if name else "--experiment is missing"
        raise ValueError(f"{asked}; {arguments.config} has {', '.join(names)}")
    experiment = table.experiments[name]
    return experiment.until(arguments.stage) if arguments.stage else experiment


if __name__ == "__main__":
    main()
