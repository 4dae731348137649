"""Where the points of a sweep lie: how many at a time, on which devices."""

import math
import os
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments import train

T = TypeVar("T")


class Placement(NamedTuple):
    """Spreads points over the `rows` of a mesh, and each batch over its columns.

    On each row `width` points are trained at a time, in one batched program, and the rest after them; without a number
    that is measured. `memory` is what a device has, in bytes.
    """

    mesh: Mesh
    width: int | None = None
    memory: int = 0

    @classmethod
    def of(
        cls, devices: Sequence[Any], columns: int = 1, width: int | None = None, memory: int | None = None
    ) -> "Placement":
        """Lays devices out in rows of so many columns; raises ValueError if they cannot be."""
        if columns < 1 or len(devices) % columns:
            raise ValueError(f"{len(devices)} devices cannot stand in rows of {columns}; it has to divide them")
        if width is not None and width < 1:
            raise ValueError(f"{width} points at a time are too few; there is at least 1")
        grid = np.asarray(devices).reshape(-1, columns)
        mesh = Mesh(grid, ("sweep", "data"), axis_types=(AxisType.Auto, AxisType.Auto))
        return cls(mesh, width, memory_of(devices) if memory is None else memory)

    @property
    def rows(self) -> int:
        """The number of rows, which points are spread over."""
        return self.mesh.shape["sweep"]

    @property
    def columns(self) -> int:
        """The number of devices that share a batch."""
        return self.mesh.shape["data"]

    def width_of(self, count: int) -> int | None:
        """Returns how many of so many points are trained at a time on each row; None if that is to be measured."""
        return None if self.width is None else min(self.width, math.ceil(count / self.rows))

    def padded(self, count: int, width: int) -> int:
        """Returns the number of points that so many are filled up to, the same for every row and turn."""
        row = math.ceil(count / self.rows)
        return self.rows * (row if width >= row else width * math.ceil(row / width))

    def placed(self, points: T, count: int) -> T:
        """Puts stacked points on the rows, filled up to `count` by the last of them."""

        def fill(leaf: Any) -> jax.Array:
            host = np.asarray(leaf)
            return self._put(np.concatenate([host, np.repeat(host[-1:], count - len(host), axis=0)]), "sweep")

        return jax.tree.map(fill, points)

    def everywhere(self, tree: T) -> T:
        """Puts arrays on every device."""
        return jax.tree.map(self._put, tree)

    def spread(self, examples: train.Examples) -> train.Examples:
        """Spreads a batch over the columns, within a program."""
        if self.columns == 1:
            return examples
        put = partial(jax.lax.with_sharding_constraint, shardings=self.sharding("data"))
        return jax.tree.map(put, examples)

    def _put(self, leaf: Any, *axes: str) -> jax.Array:
        """Puts an array that every process has on the devices, each its part."""
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, self.sharding(*axes), lambda index: host[index])

    def sharding(self, *axes: str) -> NamedSharding:
        """Returns how an array is laid out whose first axes are spread over these axes of the mesh."""
        return NamedSharding(self.mesh, PartitionSpec(*axes))


def memory_of(devices: Sequence[Any]) -> int:
    """Returns the bytes that one of these devices has: its own, or those of the machine that it is a part of."""
    here = next(device for device in devices if device.process_index == jax.process_index())
    stats = here.memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
