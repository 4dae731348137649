"""Exports a run to TFLite and holds the file to JAX on the whole test set."""

import pathlib
from dataclasses import dataclass

import tyro

from experiments import cli, devices
from experiments.devices import Format
from experiments.runs import Run


@dataclass(frozen=True)
class Arguments:
    """Exports a run to TFLite, runs the file in LiteRT on the whole test set, and prints what it costs."""

    run: tyro.conf.Positional[pathlib.Path]
    """folder of a finished run"""
    format: Format = "float32"
    """number format of the file"""
    data_dir: pathlib.Path | None = None
    """folder that holds the data sets; else JAXCOMPRESS_DATA; else they are downloaded"""
    out: pathlib.Path | None = None
    """the file; RUN/model-FORMAT.tflite by default"""


def main() -> None:
    """Runs the command line."""
    arguments = tyro.cli(Arguments, description=__doc__)
    with cli.ending():
        path = arguments.out or arguments.run / f"model-{arguments.format}.tflite"
        found = devices.export(Run(arguments.run), path, arguments.format, arguments.data_dir)
        print(devices.described(found))


if __name__ == "__main__":
    main()
