"""Processes that run one sweep together, on one machine or many, and what they have to agree on."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

T = TypeVar("T")


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins the processes of a sweep; without arguments by what the cluster says (SLURM, Open MPI, Cloud TPU).

    Raises ValueError for arguments that do not go together.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    if any(given) and not all(given):
        raise ValueError(
            f"coordinator={coordinator}, processes={processes}, process={process}: give all three, or none on a cluster"
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, processes, process)


def first() -> bool:
    """Tells whether this is the process that speaks for all of them."""
    return jax.process_index() == 0


def agreed(answers: Sequence[T]) -> list[T]:
    """Returns the answers, truth values or integers, of the first process; others may have found other ones."""
    if jax.process_count() == 1 or not answers:
        return list(answers)
    return np.asarray(multihost_utils.broadcast_one_to_all(np.asarray(answers))).tolist()


def meet(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def wait_until(done: Callable[[], bool]) -> None:
    """Waits for something that another process leaves in the folder that all of them see."""
    while not done():
        time.sleep(0.5)


def gathered(tree: T) -> T:
    """Returns arrays that lie on the devices of all processes, whole, in the memory of each host."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def single_process() -> ocp.options.MultiprocessingOptions:
    """Returns the options of a checkpoint that this process reads or writes alone.

    Writing is for the first: among several processes orbax leaves NumPy arrays to it, whoever asks, and refuses arrays
    of JAX that lie on the devices of one.
    """
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(index, {index}, f"process-{index}")
