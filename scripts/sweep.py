"""Sweeps an experiment over values of its settings: points that differ in numbers alone are one compiled program."""

import hashlib
import pathlib
import shlex
import sys
from dataclasses import dataclass, field
from typing import Annotated

import jax
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from experiments import ahead, cli, config, grid, outcomes, processes, sweep, sweep_report
from experiments.config import Format
from experiments.logging import WandbMode, wandb_table
from experiments.placement import Placement
from experiments.runs import Run, Settings, locate
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
    format: Format | None = None
    """also write each point as a TFLite file of this number format, and measure it as LiteRT runs it"""
    shard: str | None = None
    """i/n runs the points i, i + n, i + 2n and so on, counted from 0: n machines need no coordinator"""
    distributed: bool = False
    """run with the other processes of a cluster (SLURM, Open MPI, Cloud TPU); all of them see the folder --out"""
    coordinator: str | None = None
    """host:port of the first process, where no cluster says it; with --processes and --process"""
    processes: int | None = None
    """how many processes there are"""
    process: int | None = None
    """which of them this is, counted from 0"""
    compile_for: str | None = None
    """compile for TPUs that need not be here, such as v5e:2x4 (v5p, v6e), say what a device needs, and train nothing"""
    reuse: bool = False
    """use runs that are there also if they were made from other data or by other code"""
    force: bool = False
    """make runs anew that were made from other data or by other code"""
    wandb: WandbMode = "auto"
    """Weights & Biases: auto is online for a user who is logged in, else offline"""
    upload: bool = True
    """send packed models and ledgers to Weights & Biases too; --no-upload sends numbers and pictures alone"""
    checkpoint_seconds: float = 20.0
    """seconds between checkpoints, from which a sweep that was stopped goes on"""


def main() -> None:
    """Runs the command line."""
    arguments = tyro.cli(Arguments, description=__doc__)
    with cli.ending():
        name, experiment = _chosen(arguments)
        axes = [grid.Axis.parse(axis) for axis in arguments.over]
        points = grid.shard(grid.points(experiment, axes), arguments.shard)
        if arguments.compile_for is not None:
            _compile(points, arguments)
            return
        given = (arguments.coordinator, arguments.processes, arguments.process)
        if arguments.distributed or given != (None, None, None):
            processes.join(*given)
        placement = Placement.of(jax.devices(), arguments.data_parallel, arguments.width)
        options = (arguments.out, arguments.data_dir, arguments.wandb, arguments.checkpoint_seconds)
        title = _named(name, arguments, points)
        choices = {"reuse": arguments.reuse, "force": arguments.force, "upload": arguments.upload}
        with cli.settings(*options, **choices) as settings:
            runs = sweep.sweep([point.experiment for point in points], settings._replace(group=title), placement)
        if processes.first():
            _report(name, title, axes, points, runs, arguments)


def _report(
    name: str, title: str, axes: list[grid.Axis], points: list[grid.Point], runs: list[Run], arguments: Arguments
) -> None:
    """Measures TFLite files if asked to; writes the report of a sweep and shows it as a table."""
    shared = _alone(arguments)
    found = [
        outcomes.outcome(point, run, outcomes.command(point, shared), arguments.format, arguments.data_dir)
        for point, run in zip(points, runs, strict=True)
    ]
    told = shlex.join(["python", "scripts/sweep.py", *sys.argv[1:]])
    folder = arguments.out / "sweeps" / title
    written = sweep_report.write(folder, arguments.out / "runs", f"{name}: {_title(axes)}", told, axes, found)
    shown = [*SHOWN, *(name for name in outcomes.REACHED.values() if any(name in each.metrics for each in found))]
    rows = [[*map(str, each.values.values()), *_shown(each, shown)] for each in found]
    columns = [*(axis.key for axis in axes), *shown, "state"]
    wandb_table(arguments.wandb, arguments.out, folder.name, columns, rows, written[1:])
    _show(columns, rows, folder.name)
    print("written: " + ", ".join(map(str, written)))


SHOWN = ("error", "bytes", "rate", "macs")


def _shown(found: outcomes.Outcome, names: list[str]) -> list[str]:
    return [*(f"{found.metrics[name]:,.4g}" if name in found.metrics else "" for name in names), found.state]


def _show(columns: list[str], rows: list[list[str]], title: str) -> None:
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for name in columns:
        table.add_column(name, justify="left" if name == "state" else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _compile(points: list[grid.Point], arguments: Arguments) -> None:
    """Compiles every program of a sweep for TPUs and shows what it needs; exits with 4 if one does not fit."""
    assert arguments.compile_for is not None
    placement = ahead.placement(arguments.compile_for, arguments.data_parallel, arguments.width)
    settings = Settings(
        arguments.out / "runs", arguments.data_dir, "disabled", say=lambda text: print(text, file=sys.stderr)
    )
    print(f"{arguments.compile_for}: {placement.mesh.size} devices of {placement.memory / 2**30:.2f} GiB")
    for cohort in ahead.outlined([point.experiment for point in points], settings):
        try:
            made = ahead.compile_for(cohort, placement, settings.say)
        except ahead.TooLarge as error:
            cli.leave(f"error: {arguments.compile_for}: {error}", 4)
        table = Table(title=f"{made.points} points of {cohort.experiments[0].stages[-1].name}", box=box.SIMPLE_HEAD)
        table.add_column("of a device")
        table.add_column(justify="right")
        table.add_row("points at a time", str(made.width))
        share = 100 * made.memory / placement.memory
        table.add_row("bytes", f"{made.memory:,} ({share:.2f} %)")
        table.add_row("of these arguments", f"{made.arguments:,}")
        table.add_row("of these temporaries", f"{made.temporaries:,}")
        table.add_row("FLOPs of a step", f"{made.flops:,.0f}")
        table.add_row("bytes moved in a step", f"{made.bytes_accessed:,.0f}")
        told = f"{1e6 * made.seconds:,.1f} us" if made.seconds > 0 else "not given"
        table.add_row("time of a step, estimated", told)
        Console().print(table)


def _title(axes: list[grid.Axis]) -> str:
    return "the sweep over " + " and ".join(axis.key for axis in axes) if axes else "one point"


def _named(name: str, arguments: Arguments, points: list[grid.Point]) -> str:
    """Names a sweep, its report and its group after what is swept, over which keys, and by the hash of its points."""
    runs = [locate(point.experiment, arguments.out).folder.name for point in points]
    keys = (axis.partition("=")[0].replace("*", "all") for axis in arguments.over)
    of_points = hashlib.sha256(" ".join(runs).encode()).hexdigest()[:8]
    return "-".join([arguments.config.parent.name, *name.split(), *keys, of_points])


def _alone(arguments: Arguments) -> list[str]:
    """Returns the arguments of a sweep that its points have in common."""
    given = [str(arguments.config)]
    for option in ("experiment", "stage", "data_dir", "format"):
        if (value := getattr(arguments, option)) is not None:
            given.append(f"--{option.replace('_', '-')}={value}")
    return [*given, f"--out={arguments.out}", *(f"--set={override}" for override in arguments.set)]


def _chosen(arguments: Arguments) -> tuple[str, config.Experiment]:
    """Returns the experiment that is swept, and its name."""
    table = config.load_table(arguments.config, arguments.set)
    names = list(table.experiments)
    name = arguments.experiment or (names[0] if len(names) == 1 else "")
    if name not in names:
        asked = f"--experiment {name!r}{did_you_mean(name, names)}" if name else "--experiment is missing"
        raise ValueError(f"{asked}; {arguments.config} has {', '.join(names)}")
    experiment = table.experiments[name]
    return name, experiment.until(arguments.stage) if arguments.stage else experiment


if __name__ == "__main__":
    main()
