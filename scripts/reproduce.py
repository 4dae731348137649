"""Reproduces a table of a paper: paper | ours, mean ± standard deviation over seeds | difference | verdict."""

import hashlib
import pathlib
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from rich import box, markup
from rich.console import Console
from rich.table import Table as Grid

from experiments import cli, config, tables
from experiments.logging import WandbMode, wandb_table
from experiments.results import Result
from jaxcompress.export.files import write_whole


@dataclass(frozen=True)
class Arguments:
    """Reproduces a table of a paper. Runs that are there already are not trained again.

    If some of them were made from other data or by other code, the command says so and stops.
    """

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
    reuse: bool = False
    """use runs that are there also if they were made from other data or by other code"""
    force: bool = False
    """make runs anew that were made from other data or by other code"""
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
        if arguments.json is not None and not arguments.json.parent.is_dir():
            raise ValueError(f"--json {arguments.json}: there is no folder {arguments.json.parent}")
        overrides = _overrides(arguments, table, seeds)
        options = (arguments.out, arguments.data_dir, arguments.wandb, arguments.checkpoint_seconds)
        choices = {"reuse": arguments.reuse, "force": arguments.force, "upload": arguments.upload}
        with cli.settings(*options, **choices) as settings:
            results = tables.reproduce(table, settings, seeds)
        name, columns = _named(arguments.config, overrides), tables.columns(results)
        written = tables.write(table, results, arguments.out / "tables", name, overrides)
        if arguments.json is not None:
            write_whole(arguments.json, tables.to_json(table, results, overrides).encode())
        rows = [list(tables.cells(result, columns)) for result in results]
        wandb_table(arguments.wandb, arguments.out, name, list(columns), rows, written)
        _show(table, results, overrides)
        print("written: " + ", ".join(map(str, written)))


def _overrides(arguments: Arguments, table: config.Table, seeds: int) -> tuple[str, ...]:
    """Returns the arguments that make the table another than that of its file; none if they do not."""
    own = config.load_table(arguments.config)
    given = [f"--set {override}" for override in arguments.set] if table != own else []
    return (*given, *([f"--seeds {seeds}"] if arguments.seeds is not None and seeds != own.seeds else []))


def _named(path: pathlib.Path, overrides: tuple[str, ...]) -> str:
    """Names the files of a table after its own file, and where it is another by overrides after these too."""
    name = f"{path.parent.name}-{path.stem}"
    return f"{name}-with-{hashlib.sha256(repr(overrides).encode()).hexdigest()[:8]}" if overrides else name


def _show(table: config.Table, results: list[Result], overrides: tuple[str, ...]) -> None:
    caption = "\n".join(tables.notes(table, results, overrides))
    grid = Grid(title=f"{table.paper}\n{table.table}", caption=markup.escape(caption) or None, box=box.SIMPLE_HEAD)
    columns = tables.columns(results)
    for name in columns:
        left = name in ("row", "metric", "verdict", "reached")
        grid.add_column(name, justify="left" if left else "right", overflow="fold")
    for result in results:
        grid.add_row(*(markup.escape(cell) for cell in tables.cells(result, columns)))
    Console().print(grid)


if __name__ == "__main__":
    main()
