"""Shows the four families and their composition on scikit-learn's digits, down to a TFLite file."""

import pathlib
from dataclasses import dataclass

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from experiments import cli, config, devices, report, runs, tables
from experiments.logging import WandbMode

CONFIG = pathlib.Path(__file__).parent.parent / "paper_configs" / "demo" / "digits.yaml"
COLUMNS = ("model", "accuracy\n%", "precision", "recall", "bytes", "smaller", "MACs", "TFLite\nbytes", "TFLite\nus")


@dataclass(frozen=True)
class Arguments:
    """Trains a teacher and a small network, compresses it six ways, and measures each down to LiteRT."""

    out: pathlib.Path = pathlib.Path("runs/demo")
    """folder for runs, tables and plots"""
    reuse: bool = False
    """use runs that are there also if they were made from other data or by other code"""
    force: bool = False
    """make runs anew that were made from other data or by other code"""
    wandb: WandbMode = "auto"
    """Weights & Biases: auto is online for a user who is logged in, else offline"""


def main() -> None:
    """Runs the command line."""
    arguments = tyro.cli(Arguments, description=__doc__)
    with cli.ending():
        table = config.load_table(CONFIG)
        options = {"reuse": arguments.reuse, "force": arguments.force}
        with cli.settings(arguments.out, None, arguments.wandb, **options) as settings:
            results = tables.reproduce(table, settings, table.seeds)
            made = {
                row.row: runs.locate(table.experiments[row.experiment].until(row.stage), settings.root)
                for row in table.rows
            }
        exported = {name: devices.export(run, run.folder / "model-float32.tflite") for name, run in made.items()}
        written = tables.write(table, results, arguments.out / "tables", "demo")
        picture = arguments.out / "tables" / "demo-bytes.png"
        points = [(name, run.metrics["bytes"], run.metrics["accuracy"]) for name, run in made.items()]
        report.bytes_and_accuracy(points, picture)
        _show(made, exported)
        last = list(made)[-1]
        print(f"\nThe ledger of {last!r}: every byte of {made[last].packed_file}\n")
        print((made[last].folder / "ledger.txt").read_text())
        print(f"\nTFLite of {last!r}\n\n{devices.described(exported[last])}")
        print(f"\nPlots: {picture}, {written[-1]},")
        print(f"and curves.png and confusion.png in each folder of {arguments.out}/runs")


def _show(made: dict[str, runs.Run], exported: dict[str, devices.Exported]) -> None:
    title = "Six ways from one small network (digits, seed 0)"
    grid = Table(title=title, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for column in COLUMNS:
        grid.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for name, run in made.items():
        m, tflite = run.metrics, exported[name]
        quality = (f"{m['accuracy']:.2f}", f"{m['precision']:.4f}", f"{m['recall']:.4f}")
        size = (f"{m['bytes']:,}", f"{m['rate']:.1f}x", f"{m['macs']:,}")
        grid.add_row(name, *quality, *size, f"{tflite.bytes:,}", f"{tflite.latency.median_us:.2f}")
    Console().print(grid)


if __name__ == "__main__":
    main()
