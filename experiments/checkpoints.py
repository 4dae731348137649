"""Orbax checkpoints of training and of final parameters.

Orbax gets flat dicts of arrays: it would store a typed tree without the static fields of its leaves. While training the
structure follows from the configuration; of final parameters it is written as JSON beside the arrays.
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxcompress.arrays.structure import describe, rebuild
from jaxcompress.export.files import write_whole


class Checkpoints:
    """Keeps the last checkpoint of a stage in a folder, by the number of the epoch after which it was taken."""

    def __init__(self, manager: ocp.CheckpointManager):
        self._manager = manager

    def latest(self, like: Any) -> tuple[int, Any]:
        """Returns the last epoch and its tree, in the structure of `like`; epoch 0 and `like` itself without one."""
        epoch = self._manager.latest_step()
        if epoch is None:
            return 0, like
        stored: Any = self._manager.restore(epoch, args=ocp.args.StandardRestore(_flat(like)))
        return epoch, jax.tree.unflatten(jax.tree.structure(like), [stored[name] for name in sorted(stored)])

    def save(self, epoch: int, tree: Any) -> None:
        """Begins to write a checkpoint; training goes on meanwhile."""
        self._manager.save(epoch, args=ocp.args.StandardSave(_flat(tree)))


@contextlib.contextmanager
def checkpoints(folder: pathlib.Path) -> Iterator[Checkpoints]:
    """Opens the checkpoints of a folder; waits for what is being written, also on the way out of an interruption."""
    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    with contextlib.closing(ocp.CheckpointManager(folder.absolute(), options=options)) as manager:
        yield Checkpoints(manager)


def save_params(folder: pathlib.Path, params: Any) -> None:
    """Writes parameters in training form to `folder`, and their structure to ``structure.json`` beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), _flat(params))
    write_whole(folder.with_name("structure.json"), (json.dumps(describe(params), indent=1) + "\n").encode())


def load_params(folder: pathlib.Path) -> Any:
    """Restores what `save_params` wrote."""
    description = json.loads(folder.with_name("structure.json").read_text())
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.restore(folder.absolute())
    return rebuild(description, [stored[name] for name in sorted(stored)])


def _flat(tree: Any) -> dict[str, Any]:
    return {f"{i:04d}": jnp.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
