"""What is computed of a teacher once, kept beside its run and checked to be its own."""

import io
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxcompress.export.files import write_whole


def stored(
    path: pathlib.Path, of: Mapping[str, str], compute: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Returns the arrays that the file at `path` holds, or those computed, and then kept there.

    `of` says what they are made of, as the SHA-256 of each by its name (``teacher``). Raises ValueError for a file
    made of others, and for one that cannot be read.
    """
    if not path.exists():
        arrays: dict[str, Any] = dict(compute())
        raw = io.BytesIO()
        named: dict[str, Any] = {f"sha256 of {what}": np.array(sha) for what, sha in of.items()}
        np.savez(raw, **arrays, **named)
        write_whole(path, raw.getvalue())
        return arrays
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            found = {what: str(file[f"sha256 of {what}"]) for what in of}
            arrays = {name: file[name] for name in file.files if not name.startswith("sha256 of ")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it to compute what it holds again") from error
    for what, sha in of.items():
        if found[what] != sha:
            raise ValueError(
                f"{path} is of another {what}: {found[what][:12]}, not {sha[:12]}; remove it to compute it again"
            )
    return arrays
