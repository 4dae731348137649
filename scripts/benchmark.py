"""Measures what techniques cost in time on this machine: ratios of variants that took turns, with their spread."""

import importlib.metadata
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import jax
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from experiments import benchmarks, cli
from experiments.environment import environment, processor

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax"),
    *("tensorly", "torch", "qwix", "tensorflow", "ai_edge_quantizer", "ai_edge_litert"),
)


@dataclass(frozen=True)
class Options:
    """What every benchmark takes."""

    rounds: int | None = None
    """how often the variants take turns; 15 by default"""
    quick: bool = False
    """three rounds of small sizes, to see that it runs; the times say nothing"""
    json: pathlib.Path | None = None
    """also write the rows and the machine as JSON here"""


Flat = Annotated[Options, tyro.conf.arg(name="")]


def train_step(options: Flat) -> None:
    """Times a training step of both LeNets: each technique : dense, patches : native convolution, ours : PyTorch's."""
    _report("A training step, batch of {batch}", benchmarks.train_step, options)


def prune(options: Flat) -> None:
    """Times the update of an exact mask, models with fewer channels, and how long it takes to find these.

    An update by sort and by argsort : by bisection, and an update : a training step; a batch without half of the
    channels : with them masked; the channels of a model found : its program traced; and float files in LiteRT, dense,
    with scattered zeros, and without half of the channels.
    """
    _report("Pruning, batch of {batch}", benchmarks.prune, options)


def quantize(options: Flat) -> None:
    """Times 8-bit quantization of LeNet-5 and ResNet-8 beside qwix, TensorFlow's converter and ai-edge-quantizer.

    A training step with rounded weights (W8) and activations (W8A8) : dense; a batch in integers, as LiteRT's kernels
    compute it : in floats; a TFLite file written : by the stock converter; and the files, with their latency in LiteRT.
    Peers that are not installed are left out by name.
    """
    _report("8-bit quantization, batch of {batch}", benchmarks.quantize, options)


def factorize(options: Flat) -> None:
    """Times both LeNets and ResNet-8 with low-rank kernels of a half, a quarter and a tenth of the multiply-adds.

    A training step and a batch : dense; float files in LiteRT; and decompositions : tensorly's, on numpy and on jax.
    Peers that are not installed are left out by name.
    """
    _report("Low rank, batch of {batch}", benchmarks.factorize, options)


def distill(options: Flat) -> None:
    """Times the training step of a student : the step without a teacher.

    With the teacher's logits stored, with the teacher in the step, and with losses of its features; and says what the
    memory of contrastive distillation takes.
    """
    _report("Distillation, epochs of {scanned} batches of {batch}", benchmarks.distill, options)


def sweep(options: Flat) -> None:
    """Times 32 points of LeNet-300-100, 8 sparsities and 4 seeds, as one program and as many.

    An epoch of all points as one program, so many points at a time, and as compiled epochs one after another :
    each step dispatched by itself; and the command of the sweep on MNIST : those of its points, which takes minutes.
    """
    _report("A sweep, batches of {batch}", benchmarks.sweep, options)


def main() -> None:
    """Runs the command line."""
    with cli.ending():
        commands = {"train-step": train_step, "prune": prune, "quantize": quantize}
        commands |= {"factorize": factorize, "distill": distill, "sweep": sweep}
        tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)


def _report(title: str, measure: Callable[[benchmarks.Effort], benchmarks.Report], options: Options) -> None:
    effort = benchmarks.QUICK if options.quick else benchmarks.Effort()
    if options.rounds is not None:
        effort = replace(effort, rounds=options.rounds)
    machine = _machine()
    print("\n".join(f"{name:<10}{value}" for name, value in machine.items()))
    if os.getloadavg()[0] > (os.cpu_count() or 1):
        print(
            "The machine is busy: ratios between programs that use threads differently (PyTorch, a sort) shift with it."
        )
    report = measure(effort)
    _show(title.format(batch=effort.batch, scanned=effort.scanned), effort, report)
    if options.json is not None:
        found = {"machine": machine, "environment": environment(), "effort": asdict(effort)}
        found |= {"rows": [asdict(row) for row in report.rows], "notes": report.notes}
        found |= {"files": [asdict(file) for file in report.files]} if report.files else {}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def _machine() -> dict[str, Any]:
    return {
        "device": jax.devices()[0].device_kind,
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": ", ".join(f"{load:.1f}" for load in os.getloadavg()) + " over 1, 5 and 15 minutes",
        "versions": ", ".join(_versions()),
    }


def _versions() -> Iterator[str]:
    """Yields name and version of the packages that are compared, where they are installed."""
    distributions = importlib.metadata.packages_distributions()  # TensorFlow's is named after the platform
    for package in PACKAGES:
        if package in distributions:
            name = distributions[package][0]
            yield f"{name} {importlib.metadata.version(name)}"


def _show(title: str, effort: benchmarks.Effort, report: benchmarks.Report) -> None:
    print(f"\n{title}: ratios are medians of {effort.rounds} rounds; differs: from the result it has to equal")
    groups = {(row.subject, row.against): [] for row in report.rows}
    for row in report.rows:
        groups[row.subject, row.against].append(row)
    for (subject, against), rows in groups.items():
        grid = Table(subject, box=box.SIMPLE)
        for name in ("ratio", "25-75 %", "ms", "differs"):
            grid.add_column(name, justify="right", no_wrap=True)
        grid.add_row(against, "1", "", f"{rows[0].against_milliseconds:.2f}", "", style="dim")
        for row in rows:
            ratio, low, high = map(_digits, (row.ratio, row.low, row.high))
            spread, differs = f"{low}-{high}", f"{row.difference:.1g}"
            grid.add_row(row.variant, ratio, spread, f"{row.milliseconds:.2f}", differs)
        Console().print(grid)
    if report.files:
        _show_files(report.files)
    for note in report.notes:
        print(note)


def _digits(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def _show_files(files: Sequence[benchmarks.File]) -> None:
    for subject in dict.fromkeys(file.subject for file in files):
        grid = Table(f"{subject}, file in LiteRT", box=box.SIMPLE)
        for name in ("ms", "bytes", "us", "min us", "error %"):
            grid.add_column(name, justify="right", no_wrap=True)
        for file in files:
            if file.subject == subject:
                times = f"{file.median_us:.1f}", f"{file.min_us:.1f}"
                made, error = f"{file.milliseconds:,.0f}", f"{100 * file.error:.2g}"
                grid.add_row(file.writer, made, f"{file.bytes:,}", *times, error)
        Console().print(grid)


if __name__ == "__main__":
    main()
