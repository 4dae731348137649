"""Orbax checkpoints of training and of final parameters.

Orbax gets flat dicts of arrays: it would store a typed tree without the static fields of its leaves. While training the
structure follows from the configuration; of final parameters it is written as JSON beside the arrays.
"""

import contextlib
import json
import logging
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from experiments import records
from experiments.disk import writing
from experiments.processes import single_process
from jaxcompress.arrays.structure import describe, rebuild
from jaxcompress.export.files import write_whole


class Checkpoints:
    """Keeps the last checkpoint of a stage in a folder, by the number of the epoch after which it was taken."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder

    def latest(self, like: Any) -> tuple[int, Any]:
        """Returns the last epoch and its tree, in the structure of `like`; epoch 0 and `like` itself without one."""
        epoch = max(self.epochs(), default=0)
        if not epoch:
            return 0, like
        remedy = f"removing {self._folder} is safe: the stage is then trained from its start"
        stored = _restored(self._of(epoch), remedy, _flat(like))
        return epoch, jax.tree.unflatten(jax.tree.structure(like), [stored[name] for name in sorted(stored)])

    def save(self, epoch: int, tree: Any) -> None:
        """Writes a checkpoint, which is there whole or not at all, and then removes those before it."""
        with _writer(self._of(epoch)) as checkpointer:
            self._folder.mkdir(exist_ok=True)  # in a folder that is there: no run is begun by its checkpoint
            checkpointer.save(self._of(epoch), _flat(tree), force=True)
        for earlier in self.epochs():
            if earlier < epoch:
                shutil.rmtree(self._of(earlier), ignore_errors=True)

    def epochs(self) -> list[int]:
        """Lists the epochs after which checkpoints were taken that are there."""
        names = [path.name for path in self._folder.iterdir()] if self._folder.exists() else []
        return [int(name) for name in names if name.isdecimal()]

    def _of(self, epoch: int) -> pathlib.Path:
        return self._folder.absolute() / str(epoch)


def save_params(folder: pathlib.Path, params: Any) -> None:
    """Writes parameters in training form to `folder`, and their structure to ``structure.json`` beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    with _writer(folder) as checkpointer:
        checkpointer.save(folder.absolute(), _flat(params))
    with writing(folder.with_name("structure.json")) as path:
        write_whole(path, (json.dumps(describe(params), indent=1) + "\n").encode())


def load_params(folder: pathlib.Path) -> Any:
    """Restores what `save_params` wrote; raises ValueError, which says what to do, for what is damaged."""
    structure = folder.with_name("structure.json")
    description = records.read(structure)
    stored = _restored(folder.absolute(), records.ANEW)
    try:
        return rebuild(description, [stored[name] for name in sorted(stored)])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise records.damaged(structure, f"it does not describe {folder}: {error}") from error


def _restored(folder: pathlib.Path, remedy: str, *like: Any) -> dict[str, Any]:
    try:
        with _checkpointer() as checkpointer:
            return checkpointer.restore(folder, *like)
    except Exception as error:  # orbax and tensorstore have many kinds of error for a file that is not as it was
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise records.damaged(folder, told[0][:200], remedy) from error


@contextlib.contextmanager
def _writer(folder: pathlib.Path) -> Iterator[ocp.StandardCheckpointer]:
    """Yields what writes a checkpoint to a folder; raises DiskError if it could not be written."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)  # the threads of orbax log, with tracebacks, what is raised here as well
    try:
        with writing(folder), _checkpointer() as checkpointer:
            yield checkpointer
    finally:
        log.setLevel(level)


def _checkpointer() -> ocp.StandardCheckpointer:
    return ocp.StandardCheckpointer(multiprocessing_options=single_process())


def _flat(tree: Any) -> dict[str, Any]:
    # Among several processes orbax takes an array on the devices of one for a part of a larger one.
    whole = jnp.asarray if jax.process_count() == 1 else np.asarray
    return {f"{i:04d}": whole(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
