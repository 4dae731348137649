"""How much of a microcontroller's memory tflite-micro takes for a TFLite file."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple


class MicroArena(NamedTuple):
    """Holds the bytes of memory that tflite-micro takes, or None and the reason why they are not known."""

    bytes: int | None
    reason: str = ""


def arena(data: bytes | str | os.PathLike[str]) -> MicroArena:
    """Measures what tflite-micro allocates for a model: activations, scratch buffers and its own structures.

    The weights stay where the file is. The model is loaded in a process of its own, not run; microcontrollers have
    pointers of four bytes where this machine has eight, so their structures are smaller.
    """
    if importlib.util.find_spec("tflite_micro") is None:
        return MicroArena(None, "tflite-micro is not installed: pip install 'jaxcompress[peers]'")
    content = data if isinstance(data, bytes) else pathlib.Path(data).read_bytes()
    command = [sys.executable, "-P", __file__]  # as a file, so that this process need not import JAX
    done = subprocess.run(command, input=content, capture_output=True)
    log = done.stderr.decode(errors="replace")
    if total := re.search(r"Arena allocation total (\d+) bytes", log):
        return MicroArena(int(total[1]))
    said = [line.strip() for line in log.splitlines() if re.match(r"(?!Traceback)\S", line)]
    return MicroArena(None, f"tflite-micro does not load it: {said[0] if said else f'code {done.returncode}'}")


def _load() -> None:
    runtime = importlib.import_module("tflite_micro").runtime  # an extra that type checkers need not find
    # The arena is larger than any microcontroller's; pages that nothing is written to cost nothing.
    runtime.Interpreter.from_bytes(sys.stdin.buffer.read(), arena_size=2**28).print_allocations()


if __name__ == "__main__":
    _load()
