"""What a process that was killed left half-written in the folder of a run."""

import pathlib
import shutil

from experiments.claims import claim

_HALF_WRITTEN = (".*.partial", "*.partial.png", "*.orbax-checkpoint-tmp*", "checkpoint/*.orbax-checkpoint-tmp*")


def clear(folder: pathlib.Path) -> None:
    """Removes what was left half-written in a folder that this process has claimed."""
    for path in _in(folder):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def clear_finished(folder: pathlib.Path) -> None:
    """Removes the same, and checkpoints, of a run that is finished, unless another process has claimed it."""
    if not _in(folder) and not (folder / "checkpoint").exists():
        return
    if (lock := claim(folder)) is not None:
        try:
            clear(folder)
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        finally:
            lock.release()


def _in(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for pattern in _HALF_WRITTEN for path in folder.glob(pattern)]
