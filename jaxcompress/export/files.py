"""Writing files whole or not at all."""

import contextlib
import errno
import glob
import os
import pathlib
import secrets
import stat
import time

_ABANDONED = 3600  # seconds after which a temporary file is one that a killed process left


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path` under a temporary name and then renames it, so that no half-written file is ever seen.

    The file keeps the permissions of the one that it replaces; a new one has those that the umask leaves. The folder
    must exist. A symbolic link stays, and what it points to is written. Raises OSError, with nothing left behind, if
    the disk is full or may not be written, or if the path is a device, a pipe or a socket. A process that is killed
    meanwhile leaves ``.NAME.*.partial``, which the next write of the file removes once it is an hour old.
    """
    target = pathlib.Path(os.path.realpath(path))  # or the link itself would be replaced, not its file
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    _remove_abandoned(target)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    mode = _mode_of(target)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:  # what the umask took away; before the data, which may be private
                os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _mode_of(target: pathlib.Path) -> int | None:
    try:
        return stat.S_IMODE(target.stat().st_mode) & 0o777
    except FileNotFoundError:
        return None


def _remove_abandoned(target: pathlib.Path) -> None:
    oldest = time.time() - _ABANDONED
    for partial in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        with contextlib.suppress(OSError):  # another process may have removed it, or own it
            if partial.stat().st_mtime < oldest:
                partial.unlink()
