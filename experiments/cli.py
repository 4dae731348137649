"""What the command lines share: settings, progress, and how they end."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from experiments import runs
from experiments.interrupts import postponed
from experiments.logging import WandbMode

console = Console(stderr=True)


@contextlib.contextmanager
def settings(
    out: pathlib.Path,
    data_dir: pathlib.Path | None,
    wandb: WandbMode,
    checkpoint_seconds: float = 20.0,
    *,
    reuse: bool = False,
    force: bool = False,
    upload: bool = True,
) -> Iterator[runs.Settings]:
    """Yields the settings of runs under ``out/runs`` with a bar for the epochs of the stage in training.

    What is there and was made from other data or by other code stops what would use it, unless it is to be used all the
    same, by `reuse`, or made anew, by `force`. Raises ValueError for both.
    """
    if reuse and force:
        raise ValueError("--reuse uses what is there, --force makes it anew; give one of them")
    differing: runs.Differing = "reuse" if reuse else "anew" if force else "stop"
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} epochs"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def progress(done: int, total: int, text: str) -> None:
            if bar.tasks[0].description != text:
                bar.reset(task, total=total, description=text)
            bar.update(task, completed=done)
            if not console.is_terminal and done == total:
                console.print(f"done: {text}, {total} of {total}")

        def say(text: str) -> None:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

        yield runs.Settings(
            out / "runs", data_dir, wandb, checkpoint_seconds, progress, say, differing=differing, upload=upload
        )


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Turns what a user can mend into one message and an exit code.

    2 is bad input, 1 the disk, 3 training that diverged, 130 Ctrl-C.
    """
    try:
        with postponed():
            yield
    except KeyboardInterrupt:
        leave("stopped; give the same command again: runs go on from their last checkpoint", 130)
    except OSError as error:  # a DiskError says what to do
        leave(f"error: {error}", 2 if isinstance(error, FileNotFoundError) else 1)
    except (ValueError, TypeError) as error:
        leave(f"error: {error}", 2)
    except FloatingPointError as error:
        leave(f"error: {error}", 3)


def leave(message: str, code: int) -> NoReturn:
    """Ends with a message and an exit code."""
    console.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
