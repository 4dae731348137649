"""Claims of run folders, so that a run is never made by two processes at once.

A claim is a lock of the operating system on a file in the folder: it ends with the process that holds it, however that
ends. The file stays.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

from filelock import FileLock, Timeout

from experiments.disk import writing

_NAME = ".claim"


def claim(folder: pathlib.Path) -> FileLock | None:
    """Claims a folder, which is made if need be; returns None if another process has it."""
    with writing(folder / _NAME) as path:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
    return lock


@contextlib.contextmanager
def claimed(folder: pathlib.Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds the claim of a folder; waits for it, and says so, while another process has it."""
    lock = claim(folder)
    if lock is None:
        say(f"waiting for {folder.name}, which another process makes")
        with writing(folder / _NAME) as path:
            lock = FileLock(path)
            lock.acquire(poll_interval=1)
    try:
        yield
    finally:
        lock.release()
