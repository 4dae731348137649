"""Exports a run to TFLite and holds the file to JAX on the whole test set."""

import pathlib
import sys
from dataclasses import dataclass

import tyro

from experiments import cli, config, devices, provenance
from experiments.config import Format
from experiments.runs import Run
from jaxcompress.export.writer import IO


@dataclass(frozen=True)
class Arguments:
    """Exports a run to TFLite, runs the file in LiteRT on the whole test set, and prints what it costs."""

    run: tyro.conf.Positional[pathlib.Path]
    """folder of a finished run"""
    format: Format = "float32"
    """number format of the file"""
    io: IO = "integers"
    """what a file of int8, int4 or int16x8 takes and gives: its codes, or reals that it encodes and decodes itself"""
    examples: int = 1000
    """training images that ranges and roundings of integers are found on"""
    ranges: str = "min-max"
    """calibrator of the ranges of activations: min-max, moving-average, percentile, mse or entropy"""
    rounding: str = "gptq"
    """rounding of the kernels: nearest, gptq, adaround or brecq; trained keeps the integers that they have"""
    data_dir: pathlib.Path | None = None
    """folder that holds the data sets; else JAXCOMPRESS_DATA; else they are downloaded"""
    out: pathlib.Path | None = None
    """the file; RUN/model-FORMAT.tflite by default"""


def main() -> None:
    """Runs the command line."""
    arguments = tyro.cli(Arguments, description=__doc__)
    with cli.ending():
        chosen = {name: getattr(arguments, name) for name in ("examples", "ranges", "rounding")}
        calibration = config.structure({"name": "export"} | chosen, config.PostTraining, "export_tflite")
        suffix = "-float32-io" if arguments.io == "float32" else ""
        path = arguments.out or arguments.run / f"model-{arguments.format}{suffix}.tflite"
        if arguments.out is not None and not path.parent.is_dir():
            raise ValueError(f"--out {path}: there is no folder {path.parent}")
        run = Run(arguments.run)
        for line in provenance.differences(run.recorded, None) if run.finished else ():
            print(f"warning: {arguments.run.name} was made {line}", file=sys.stderr)
        found = devices.export(
            run,
            path,
            arguments.format,
            arguments.data_dir,
            io=arguments.io,
            calibration=calibration,
        )
        print(devices.described(found))


if __name__ == "__main__":
    main()
