"""Writing files whole or not at all."""

import os
import pathlib
import tempfile


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path` under a temporary name and then renames it, so that no half-written file is ever seen.

    The folder must exist. Raises OSError, with nothing left behind, if the disk is full or may not be written.
    """
    target = pathlib.Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise
