"""Sweeps in processes of their own that end themselves by SIGKILL at one of their file operations."""

import itertools
import json
import multiprocessing
import os
import pathlib
import signal
import sys

EVENTS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree", "tempfile.mkstemp")


class Launcher:
    """Starts sweeps by a server that has imported all they need and forks; compiled programs are kept in `cache`."""

    def __init__(self, cache):
        self._cache = cache
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.experiments.test_sweep"])

    def __call__(self, root, points, width, kill_at=0):
        """Sweeps over points; returns the exit code, negative for a signal, and the operations if there was none.

        The process is killed just before the file operation of the number `kill_at`, counted from 1, under `root`.
        """
        root.mkdir(parents=True, exist_ok=True)
        log = root.with_suffix(".operations")
        given = (root, points, width, kill_at, self._cache, log)
        process = self._context.Process(target=_sweep, args=given)
        process.start()
        process.join()
        return process.exitcode, json.loads(log.read_text()) if process.exitcode == 0 else []


def _sweep(root, points, width, kill_at, cache, log):
    import jax

    from experiments import report, sweep
    from jaxcompress.export.files import write_whole
    from tests.experiments.test_sweep import placement, settings_of

    operations, count = [], itertools.count(1)

    def hook(event, given):
        if event not in EVENTS or not isinstance(given[0], str | os.PathLike):
            return
        path = os.fspath(given[1] if event == "os.rename" else given[0])
        if not str(path).startswith(str(root)):
            return
        if next(count) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        operations.append((event, str(path)))

    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    for name in ("training_curves", "confusion_matrix"):  # drawing takes most of the time
        setattr(report, name, lambda _, path: write_whole(path, b""))
    sys.addaudithook(hook)
    with jax.numpy_dtype_promotion("standard"):
        sweep.sweep(points, settings_of(pathlib.Path(root), checkpoint_seconds=0.0), placement(width=width))
    log.write_text(json.dumps(operations))
