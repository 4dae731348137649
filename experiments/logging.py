"""Where a run's numbers go: JSON lines, which are the truth, and Weights & Biases, which is a view of them."""

import configparser
import contextlib
import json
import netrc
import os
import pathlib
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

from experiments import records
from experiments.disk import writing

WandbMode = Literal["auto", "online", "offline", "disabled"]


class Log(Protocol):
    """Takes the numbers of a run."""

    def row(self, values: dict[str, Any]) -> None:
        """Records the numbers of one epoch."""

    def finish(self, summary: dict[str, Any], files: list[pathlib.Path]) -> None:
        """Records the final numbers and files; with more than pictures among them all are kept as an artifact."""


def append_row(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Appends one JSON line and makes sure that it is on disk."""
    with writing(path), path.open("a") as file:
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
        if all(file.suffix == ".png" for file in files):
            return
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
    account, and offline runs can be sent later by ``wandb sync``. The project is that of WANDB_PROJECT or of the user's
    settings, else ``jaxcompress``. What W&B keeps of its own lies in ``wandb`` in the folder, unless WANDB_DATA_DIR and
    WANDB_CACHE_DIR say otherwise, and crashes are not reported unless WANDB_ERROR_REPORTING says so.
    """
    chosen = _resolved(mode)
    if chosen == "disabled":
        yield _Silent()
        return
    import wandb

    settings = wandb.Settings(silent=True, console="off")
    named: dict[str, Any] = {"id": folder.name, "name": name, "group": group}
    with _kept_in(folder):
        run = wandb.init(project=_project(), dir=folder, mode=chosen, config=config, settings=settings, **named)
        try:
            yield _Wandb(run)
        except BaseException:
            run.finish(exit_code=1)  # as a `with` would, which also prints a traceback of what is told in a line later
            raise
        run.finish()


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
    with _kept_in(folder), wandb.init(project=_project(), name=name, dir=folder, mode=chosen, settings=settings) as run:
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


@contextlib.contextmanager
def _kept_in(folder: pathlib.Path) -> Iterator[None]:
    """Lets W&B stage and cache files within a folder, where the user names no other, and report no crashes."""
    own = folder.absolute() / "wandb"
    wanted = {"WANDB_DATA_DIR": str(own / "data"), "WANDB_CACHE_DIR": str(own / "cache")}
    wanted = {k: v for k, v in (wanted | {"WANDB_ERROR_REPORTING": "false"}).items() if k not in os.environ}
    os.environ |= wanted
    try:
        yield
    finally:
        for name in wanted:
            os.environ.pop(name, None)


def _project() -> str:
    return _configured("project") or "jaxcompress"


def _configured(name: str) -> str | None:
    """Returns a setting of Weights & Biases, from the environment or the files that ``wandb login`` leaves."""
    if value := os.environ.get(f"WANDB_{name.upper()}"):
        return value
    folder = pathlib.Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser()
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read([folder / "settings", pathlib.Path("wandb", "settings")])  # the later of the two prevails
    except (configparser.Error, UnicodeDecodeError):
        return None
    return parser.get("default", name, fallback=None)


def _has_key() -> bool:
    """Tells whether the user is logged in at the host in use, without asking anyone.

    That is by the environment, or by the netrc file for the host of WANDB_BASE_URL or of the user's settings.
    """
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urllib.parse.urlsplit(_configured("base_url") or "https://api.wandb.ai").netloc
    named = os.environ.get("NETRC")
    files = [pathlib.Path(file).expanduser() for file in ((named,) if named else ("~/.netrc", "~/_netrc"))]
    try:
        file = next((file for file in files if file.exists()), None)
        return bool(host) and file is not None and netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
