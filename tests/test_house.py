"""Who may import whom in the library, read from its syntax."""

import ast
import pathlib
import subprocess
import sys

import pytest

import jaxcompress

ROOT = pathlib.Path(jaxcompress.__file__).parent
ORDER = [
    *(
        "compilers",
        "numerics",
        "coding",
        "arrays",
        "paths",
        "weights",
        "schedules",
        "transform",
        "invariants",
        "additive",
        "lc",
        "statistics",
        "interpreters",
        "prune",
        "quantize",
    ),
    *("factorize", "distill", "adapters", "budget", "export", "ledger", "__init__"),
]
FILES = sorted(ROOT.rglob("*.py"))


def room(file):
    """Returns the package directly under the library, or the file there, that a file belongs to."""
    return file.relative_to(ROOT).with_suffix("").parts[0]


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=[str(f.relative_to(ROOT)) for f in FILES])
def test_a_file_imports_only_what_it_may(file):
    allowed = {"flax": room(file) == "adapters"}
    allowed |= {"tensorly": file == ROOT / "factorize" / "tensorly" / "backend.py"}
    allowed |= {"tensorflow": file == ROOT / "export" / "tflite.py"}
    # What writes TFLite files, and the process that runs them.
    allowed |= {"ai_edge_litert": file in (ROOT / "export" / "litert.py", ROOT / "export" / "writer.py")}
    allowed |= dict.fromkeys(["experiments", "wandb", "orbax", "yaml", "tests", "scripts"], False)
    for name in imported(file):
        top, *below = name.split(".")
        assert allowed.get(top, True), f"{file} imports {name}"
        if top == "jaxcompress":
            target = below[0] if below[0] in ORDER else "__init__"
            assert ORDER.index(target) < ORDER.index(room(file)) or target == room(file), f"{file} imports {name}"


def test_every_file_has_its_place_in_the_order():
    assert {room(file) for file in FILES} == set(ORDER)


def test_importing_the_library_does_no_work():
    script = """
import sys, jaxcompress
loaded = {"tensorflow", "ai_edge_litert", "tensorly", "wandb"} & set(sys.modules)
assert not loaded, loaded
from jax._src import xla_bridge
assert not xla_bridge._backends, "a backend was initialised"
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
