"""Sparsity patterns: what is removed together, and where every count is the same."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jax import Array


@dataclass(frozen=True)
class Single:
    """Removes weights one by one."""

    def check(self, path: str, shape: tuple[int, ...]) -> None:
        """Raises ValueError, with the path, for a shape that the pattern does not fit."""

    def units(self, scores: Array) -> Array:
        """Returns the score of each unit: of what lives and dies together."""
        return scores

    def mask(self, kept: Array, shape: tuple[int, ...]) -> Array:
        """Returns the mask of an array of `shape` from that of its units."""
        return kept


@dataclass(frozen=True)
class Blocks:
    """Removes whole tiles of `rows` by `columns` weights, over the last two axes of an array.

    A tile is scored by the ``mean`` or the ``max`` of its weights' scores. Tiles must divide the axes.
    """

    rows: int
    columns: int
    pool: Literal["mean", "max"] = "mean"

    def __post_init__(self) -> None:
        if not (self.rows >= 1 and self.columns >= 1):
            raise ValueError(f"blocks of {self.rows} x {self.columns} are none; both sides must be at least 1")
        if self.pool not in ("mean", "max"):
            raise ValueError(f"pool {self.pool!r} is not 'mean' or 'max'")

    def check(self, path: str, shape: tuple[int, ...]) -> None:
        """Raises ValueError, with the path, for a shape that tiles do not fill."""
        if len(shape) < 2 or shape[-2] % self.rows or shape[-1] % self.columns:
            raise ValueError(
                f"blocks of {self.rows} x {self.columns} do not fill the last two axes of {path} of shape {shape}"
            )

    def units(self, scores: Array) -> Array:
        """Returns the score of each tile."""
        *stack, rows, columns = scores.shape
        tiles = scores.reshape(*stack, rows // self.rows, self.rows, columns // self.columns, self.columns)
        return (jnp.mean if self.pool == "mean" else jnp.max)(tiles, axis=(-3, -1))

    def mask(self, kept: Array, shape: tuple[int, ...]) -> Array:
        """Returns the mask of an array of `shape` from that of its tiles."""
        return jnp.repeat(jnp.repeat(kept, self.rows, axis=-2), self.columns, axis=-1)


@dataclass(frozen=True)
class Runs:
    """Removes the same number of weights from every run of `size` along `axis`: N:M sparsity, M the size.

    Where the sparsity is ``1 - n / size``, exactly n of each run stay (Zhou et al. 2021, arXiv:2102.04010; n of 2 and
    4 is what tensor cores take). `axis` is the one that a product sums over: -2 for a kernel (…, inputs, outputs).
    The size must divide the axis.
    """

    size: int
    axis: int = -2

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ValueError(f"runs of size {self.size} hold nothing to choose from; it must be at least 2")

    def check(self, path: str, shape: tuple[int, ...]) -> None:
        """Raises ValueError, with the path, for an axis that there is not or that the size does not divide."""
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(f"axis {self.axis} of runs is none of {path} of shape {shape}")
        if shape[self.axis] % self.size:
            raise ValueError(f"runs of {self.size} do not divide axis {self.axis} of {path} of shape {shape}")


@dataclass(frozen=True)
class PerOutput:
    """Removes the same number of weights from every output, the last axis of an array."""

    def check(self, path: str, shape: tuple[int, ...]) -> None:
        """Raises ValueError, with the path, for an array without axes."""
        if not shape:
            raise ValueError(f"{path} is a scalar and has no outputs")


Structure = Single | Blocks | Runs | PerOutput
