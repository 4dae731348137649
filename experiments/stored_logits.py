"""What a teacher says of all training images, kept beside its run and checked to be its own."""

import io
import pathlib
import zipfile
from collections.abc import Callable

import numpy as np

from jaxcompress.export.files import write_whole


def stored(path: pathlib.Path, teacher: str, data: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns the logits (examples, classes) that the file at `path` holds, or those computed, and then kept there.

    `teacher` is the SHA-256 of a teacher's parameters and `data` that of its data set. Raises ValueError for a file
    that holds those of another teacher or of other data, and for one that cannot be read.
    """
    if not path.exists():
        logits = compute()
        raw = io.BytesIO()
        np.savez(raw, logits=logits, teacher=np.array(teacher), data=np.array(data))
        write_whole(path, raw.getvalue())
        return logits
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            logits, *found = file["logits"], str(file["teacher"]), str(file["data"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read as stored logits ({error}); remove it to compute them again"
        ) from error
    for what, ours, theirs in (("teacher", teacher, found[0]), ("data set", data, found[1])):
        if ours != theirs:
            raise ValueError(
                f"{path} is of another {what}: {theirs[:12]}, not {ours[:12]}; remove it to compute it again"
            )
    return logits
