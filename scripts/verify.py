"""Verifies a finished run: its declared slice is trained and all its metrics measured again, and compared."""

import pathlib
import sys
from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.table import Table

from experiments import cli, runs
from experiments.verify import verify


@dataclass(frozen=True)
class Arguments:
    """Repeats the first epochs of a run and measures its files again; exit code 1 if anything differs."""

    run: tyro.conf.Positional[pathlib.Path]
    """folder of a finished run, beside the runs it was trained on top of"""
    data_dir: pathlib.Path | None = None
    """folder that holds the data sets; else JAXCOMPRESS_DATA; else they are downloaded"""


def main() -> None:
    """Runs the command line."""
    arguments = tyro.cli(Arguments, description=__doc__)
    with cli.ending():
        say = lambda text: print(text, file=sys.stderr)
        settings = runs.Settings(arguments.run.resolve().parent, arguments.data_dir, "disabled", say=say)
        exact, checks = verify(runs.Run(arguments.run.resolve()), settings)
        grid = Table("check", "recorded", "found", "verdict", title=str(arguments.run))
        for check in checks:
            grid.add_row(check.name, check.recorded, check.found, "equal" if check.passed else "DIFFERS")
        Console().print(grid)
        if not exact:
            print("bits are not comparable (other processor, cores, backend, versions; a point of a sweep): tolerances")
    sys.exit(0 if all(check.passed for check in checks) else 1)


if __name__ == "__main__":
    main()
