"""The JSON that runs leave, read so that a damaged file is named, with what to do about it."""

import json
import pathlib
from collections.abc import Collection
from typing import Any

ANEW = "remove its folder and give the command that made it again: the run is then made anew"


def read(path: pathlib.Path, remedy: str = ANEW, *, keys: Collection[str] = ()) -> dict[str, Any]:
    """Returns the JSON object that a file holds.

    Raises ValueError, which names the file and the `remedy`, if it cannot be read, is no object or lacks one of `keys`.
    """
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path} is not there; {remedy}") from None
    except (ValueError, RecursionError) as error:  # no JSON, or no text
        raise damaged(path, str(error), remedy) from error
    if not isinstance(record, dict):
        raise damaged(path, f"it holds a {type(record).__name__}, not an object", remedy)
    for key in keys:
        if key not in record:
            raise damaged(path, f"it has no {key!r}", remedy)
    return record


def damaged(path: pathlib.Path, why: str, remedy: str = ANEW) -> ValueError:
    """Returns the error of a file that is damaged."""
    return ValueError(f"{path} is damaged ({why}); {remedy}")
