"""What a result depends on besides its configuration."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

from experiments.provenance import code

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "jaxcompress")


def environment() -> dict[str, Any]:
    """Describes machine, backend, versions, code and commit. Results are equal in bits only where `bits_depend_on` is.

    The commit is for the reader; what decides whether a run is used again is ``code``.
    """
    return {
        "bits_depend_on": {
            "backend": jax.default_backend(),
            "devices": [device.device_kind for device in jax.devices()],
            "processor": processor(),
            "cores": int(os.environ.get("NPROC", os.cpu_count() or 1)),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "jax": importlib.metadata.version("jax"),
            "jaxlib": importlib.metadata.version("jaxlib"),
        },
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "code": code(),
        "commit": _commit(),
    }


def processor() -> str:
    """Returns the processor's name as the system tells it."""
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Returns the commit of the source tree, with ``+`` for uncommitted changes; None outside a repository."""
    here = pathlib.Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
