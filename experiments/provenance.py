"""Which data and which code a run was made of."""

import hashlib
import importlib.metadata
import pathlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import experiments
import jaxcompress

# Files of `experiments` that read what runs leave and make nothing of it: a change there makes no run another.
_READERS = ("ahead", "benchmarks", "cli", "outcomes", "report", "results", "rows", "sweep_report", "tables", "verify")


@cache
def code() -> dict[str, str]:
    """Returns the version of the code that makes results: the package's, and a SHA-256 over its source files.

    Those are all Python files of `jaxcompress` and of `experiments` but for the ones that only read results. The commit
    of a repository is no part of it: it says nothing of what is not committed.
    """
    total = hashlib.sha256()
    for name, path in sources().items():
        total.update(f"{name}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return {"jaxcompress": importlib.metadata.version("jaxcompress"), "sources_sha256": total.hexdigest()}


def sources() -> dict[str, pathlib.Path]:
    """Returns the source files that make results by their names, in an order that is the same everywhere."""
    named = {}
    for package in (jaxcompress, experiments):
        root = pathlib.Path(str(package.__file__)).resolve().parent
        named |= {path.relative_to(root.parent).as_posix(): path for path in root.rglob("*.py")}
    readers = tuple(f"experiments/{name}{end}" for name in _READERS for end in (".py", "/"))
    return {name: named[name] for name in sorted(named) if not name.startswith(readers)}


def differences(recorded: Mapping[str, Any], data_sha256: str | None) -> list[str]:
    """Says how a run differs, by what is `recorded` of it, from one that would be made now; nothing if it does not.

    Data are not compared where `data_sha256` is None.
    """
    told = []
    if data_sha256 is not None and recorded.get("data_sha256") != data_sha256:
        before = str(recorded.get("data_sha256"))[:12]
        told.append(f"from other data (SHA-256 {before}, now {data_sha256[:12]})")
    if "code" not in recorded:
        told.append(f"by code of which it records no version (now {_named(code())})")
    elif recorded["code"] != code():
        told.append(f"by other code ({_named(recorded['code'])}, now {_named(code())})")
    if "begun" in recorded:
        told.append("in part from other data or by other code, with which it was begun")
    return told


def _named(version: Any) -> str:
    if not isinstance(version, Mapping):
        return repr(version)
    return f"jaxcompress {version.get('jaxcompress')} of sources {str(version.get('sources_sha256'))[:12]}"
