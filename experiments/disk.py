"""What goes wrong in writing under the folder of runs, told in a line that names the file and says what to do."""

import contextlib
import errno
import os
import pathlib
import re
from collections.abc import Iterator

_AGAIN = "give the same command again: runs go on from their last checkpoint"
_FULL = f"make room and {_AGAIN}"
_LOST = f"its folder was removed meanwhile; {_AGAIN}"
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.ENOENT: _LOST,
    errno.ENOTDIR: _LOST,
    errno.ESTALE: _LOST,
    errno.ENOLCK: "its file system has no locks, which keep two processes from making one run: choose another by --out",
    errno.EROFS: "choose another folder by --out",
    errno.EACCES: "choose another folder by --out",
}


class DiskError(OSError):
    """Says that a file could not be written, and what to do."""


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Raises DiskError for an error of the system in writing to `path`, which is yielded, whichever library says so."""
    try:
        yield path
    except DiskError:
        raise
    except (OSError, ValueError) as error:
        code = error.errno if isinstance(error, OSError) else _code(str(error))
        if code is None:
            raise
        advice = f"; {_ADVICE[code]}" if code in _ADVICE else ""
        raise DiskError(f"{os.strerror(code)}: {path}{advice}") from error


def _code(message: str) -> int | None:
    """Returns the number of the system's error in a message of tensorstore, which raises ValueError for all of them."""
    told = re.search(r"os[ _]error(?:_code=')? ?(\d+)", message, re.IGNORECASE)
    return int(told[1]) if told else None
