"""Reproduces a table of a paper: paper | ours, mean ± standard deviation over seeds | difference | verdict."""

import pathlib
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from rich import box
from rich.console import Console
from rich.table import Table as Grid

from experiments import cli, config, tables
from experiments.logging import WandbMode, wandb_table
from experiments.results import Result
from jaxcompress.export.files import write_whole


@dataclass(frozen=True)
class Arguments:
    """Reproduces a table of a paper. Runs that are there already are not trained again."""

    config: tyro.conf.Positional[pathlib.Path]
    """the table, a YAML file of paper_configs/"""
    seeds: int | None = None
    """number of seeds, counted from the table's first; the table's own number by default"""
    data_dir: pathlib.Path | None = None
    """folder that holds the data sets; else JAXCOMPRESS_DATA; else they are downloaded"""
    out: pathlib.Path = pathlib.Path("runs")
    """folder for runs and tables"""
    json: pathlib.Path | None = None
    """also write the table's JSON here"""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = field(default=())
    """change the config, such as experiments.*.data.limit=2000 (may be given again)"""
    wandb: WandbMode = "auto"
    """Weights & Biases: auto is online for a user who is logged in, else offline"""
    upload: bool = True
    """send packed models and ledgers to Weights & Biases too; --no-upload sends numbers and pictures alone"""
    checkpoint_seconds: float = 20.0
    """seconds between checkpoints, from which a run that was stopped goes on"""


def main() -> None:
    """Runs the command line."""
    arguments = tyro.cli(Arguments, description=__doc__)
    with cli.ending():
        table = config.load_table(arguments.config, arguments.set)
        seeds = table.seeds if arguments.seeds is None else arguments.seeds
        if seeds < 1:
            raise ValueError(f"--seeds {seeds} is too few; a table needs at least 1")
        options = (arguments.out, arguments.data_dir, arguments.wandb, arguments.checkpoint_seconds)
        with cli.settings(*options, upload=arguments.upload) as settings:
            results = tables.reproduce(table, settings, seeds)
        name = f"{arguments.config.parent.name}-{arguments.config.stem}"
        written = tables.write(table, results, arguments.out / "tables", name)
        if arguments.json is not None:
            write_whole(arguments.json, tables.to_json(table, results).encode())
        rows = [list(tables.cells(result)) for result in results]
        wandb_table(arguments.wandb, arguments.out, name, list(tables.COLUMNS), rows, written)
        _show(table, results)
        print("written: " + ", ".join(map(str, written)))


def _show(table: config.Table, results: list[Result]) -> None:
    grid = Grid(title=f"{table.paper}\n{table.table}", caption=table.differs or None, box=box.SIMPLE_HEAD)
    for name in tables.COLUMNS:
        grid.add_column(name, justify="left" if name in ("row", "metric", "verdict") else "right", overflow="fold")
    for result in results:
        grid.add_row(*tables.cells(result))
    Console().print(grid)


if __name__ == "__main__":
    main()
