"""Where a run's numbers go: JSON lines, which are the truth, and Weights & Biases, which is a view of them."""

import contextlib
import json
import netrc
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

from experiments import records

WandbMode = Literal["auto", "online", "offline", "disabled"]


class Log(Protocol):
    """Takes the numbers of a run."""

    def row(self, values: dict[str, Any]) -> None:
        """Records the numbers of one epoch."""

    def finish(self, summary: dict[str, Any], files: list[pathlib.Path]) -> None:
        """Records the final numbers and files."""


def append_row(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Appends one JSON line and makes sure that it is on disk."""
    with path.open("a") as file:
        file.write(json.dumps(values) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the JSON lines of a file, without a last one that was cut off; none if there is no file.

    Raises ValueError, which names the file, for any other line that is not the row of an epoch.
    """
    lines = path.read_bytes().splitlines() if path.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(row := json.loads(line))
            if not isinstance(row, dict) or not isinstance(row.get("epoch"), int):
                raise ValueError("it is not the row of an epoch")
        except (ValueError, RecursionError) as error:
            if number == len(lines) and isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
                break
            raise records.damaged(path, f"line {number}: {error}") from error
    return rows


class _Silent:
    def row(self, values: dict[str, Any]) -> None:
        pass

    def finish(self, summary: dict[str, Any], files: list[pathlib.Path]) -> None:
        pass


class _Wandb:
    def __init__(self, run: Any):
        self._run = run

    def row(self, values: dict[str, Any]) -> None:
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        self._run.log(numbers, step=values["epoch"])

    def finish(self, summary: dict[str, Any], files: list[pathlib.Path]) -> None:
        import wandb

        self._run.summary.update({k: v for k, v in summary.items() if isinstance(v, int | float | str)})
        self._run.log({f.stem: wandb.Image(str(f)) for f in files if f.suffix == ".png"})
        artifact = wandb.Artifact(f"run-{self._run.id}", type="model")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)


@contextlib.contextmanager
def wandb_log(
    mode: WandbMode, folder: pathlib.Path, name: str, config: dict[str, Any], group: str | None = None
) -> Iterator[Log]:
    """Opens a Weights & Biases view of the run in `folder`, one of a `group` if it is made by a sweep.

    ``auto`` is what WANDB_MODE says, else online for a user who is logged in, else offline: a result never needs an
    account, and offline runs can be sent later by ``wandb sync``.
    """
    chosen = _resolved(mode)
    if chosen == "disabled":
        yield _Silent()
        return
    import wandb

    settings = wandb.Settings(silent=True, console="off")
    named: dict[str, Any] = {"id": folder.name, "name": name, "group": group}
    with wandb.init(project="jaxcompress", dir=folder, mode=chosen, config=config, settings=settings, **named) as run:
        yield _Wandb(run)


def wandb_table(
    mode: WandbMode,
    folder: pathlib.Path,
    name: str,
    columns: list[Any],
    rows: list[list[str]],
    files: Sequence[pathlib.Path],
) -> None:
    """Shows a finished table, its pictures and its page in Weights & Biases, in a run of its own."""
    chosen = _resolved(mode)
    if chosen == "disabled":
        return
    import wandb

    settings = wandb.Settings(silent=True, console="off")
    with wandb.init(project="jaxcompress", name=name, dir=folder, mode=chosen, settings=settings) as run:
        run.log({"table": wandb.Table(columns=columns, data=rows)})
        run.log({file.stem: wandb.Image(str(file)) for file in files if file.suffix == ".png"})
        run.log({file.stem: wandb.Html(file.read_text()) for file in files if file.suffix == ".html"})


def _resolved(mode: WandbMode) -> Literal["online", "offline", "disabled"]:
    if mode != "auto":
        return mode
    asked = os.environ.get("WANDB_MODE")
    if asked in ("online", "offline", "disabled"):
        return asked
    return "online" if _has_key() else "offline"


def _has_key() -> bool:
    """Tells whether the user is logged in, from the environment or netrc, without asking anyone."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
