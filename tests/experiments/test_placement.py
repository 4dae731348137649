"""Points lie where they should, and come to the same on any devices, in one process or in several."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import runs
from experiments.placement import Placement, memory_of
from tests.experiments.test_sweep import POINTS, ROOT, same_results, settings_of

pytestmark = pytest.mark.usefixtures("promotion")


@pytest.mark.parametrize(
    ("rows", "count", "width", "padded"), [(1, 5, 5, 5), (1, 5, 2, 6), (4, 5, 9, 8), (4, 9, 2, 16)]
)
def test_points_are_filled_up_to_whole_turns(rows, count, width, padded):
    mesh = jax.sharding.AbstractMesh((rows, 1), ("sweep", "data"))
    assert Placement(mesh).padded(count, width) == padded


def test_points_are_filled_up_by_the_last():
    points = {"a": np.arange(3), "b": np.arange(6.0).reshape(3, 2)}
    placed = Placement.of(jax.devices()[:1]).placed(points, 5)
    np.testing.assert_array_equal(placed["a"], [0, 1, 2, 2, 2])
    np.testing.assert_array_equal(placed["b"][3:], [[4, 5], [4, 5]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": 2}, "cannot stand in rows of 2"),
        ({"columns": 0}, "cannot stand in rows of 0"),
        ({"width": 0}, "0 points at a time"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Placement.of(jax.devices()[:1], **options)


def test_a_device_of_the_machine_has_its_memory():
    assert memory_of(jax.devices()) > 2**30


SCRIPT = """
import sys, jax, pathlib
from tests.experiments.test_sweep import POINTS, settings_of
from experiments import processes, sweep
from experiments.placement import Placement
folder, columns, coordinator, count, index = sys.argv[1:]
if int(count) > 1:
    processes.join(coordinator, int(count), int(index))
placement = Placement.of(jax.devices(), int(columns), width=2)
with jax.numpy_dtype_promotion("standard"):
    sweep.sweep(POINTS, settings_of(pathlib.Path(folder), checkpoint_seconds=0.0), placement)
print(jax.process_count(), len(jax.devices()), dict(placement.mesh.shape))
"""


def on_devices(folder, count, columns, processes):
    """Sweeps on virtual devices, as many in each process, and returns what the processes printed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "JAX_PLATFORMS": "cpu"}
    given = [sys.executable, "-c", SCRIPT, folder, str(columns), coordinator, str(processes)]
    started = []
    for index in range(processes):
        with (folder / f"{index}.errors").open("w") as errors:
            pipes = {"stdout": subprocess.PIPE, "stderr": errors, "text": True}
            started.append(subprocess.Popen([*given, str(index)], cwd=ROOT, env=environment, **pipes))
    printed = []
    for index, process in enumerate(started):
        try:
            printed.append(process.communicate(timeout=240)[0])
        finally:
            process.kill()
        assert process.returncode == 0, (folder / f"{index}.errors").read_text()[-3000:]
    return printed


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    with jax.numpy_dtype_promotion("standard"):
        return [runs.run(point, settings_of(folder)) for point in POINTS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "columns", "processes"), [(8, 1, 1), (8, 2, 1), (2, 1, 2), (2, 2, 2)], ids=lambda value: str(value)
)
def test_points_come_to_the_same_on_any_devices(devices, columns, processes, alone, tmp_path):
    """Eight devices and two processes with two each; one device a point, and two that share its batches."""
    printed = on_devices(tmp_path, devices, columns, processes)
    total = devices * processes
    shape = {"sweep": total // columns, "data": columns}
    assert [text.splitlines()[-1] for text in printed] == [f"{processes} {total} {shape}"] * processes
    for point, other in zip(POINTS, alone, strict=True):
        same_results(runs.locate(point, tmp_path), other)
