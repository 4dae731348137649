"""Raw nodes of a graph, collected while a model is read, and the values that stand for its weights."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcompress.interpreters.batches import Tensor, check_apart, check_first, for_one
from jaxcompress.interpreters.graph import INPUT, Node


class Weight(NamedTuple):
    """Marks a value that comes from a leaf of the parameters."""

    path: str
    value: Any


class Repeated(NamedTuple):
    """Stands for a constant that is repeated for each of `count` examples; `row` has a first axis of one."""

    row: Any
    count: int


class Builder:
    """Collects raw nodes, for a batch of one, and the constants that they are computed with.

    Tensors are of a batch of `count` examples.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.nodes: dict[str, Node] = {}
        self.constants: dict[str, Any] = {}

    def add(
        self,
        kind: str,
        inputs: Sequence[Tensor],
        shape: Sequence[int],
        name: str = "",
        constant: Any = None,
        batch: int = 0,
        **at: Any,
    ) -> Tensor:
        """Adds a node under a name of its own; `batch` is the axis of the batch in `shape`, that of its output."""
        for tensor in inputs:
            if kind not in ("transpose", "identity"):
                check_first(tensor, f"the {kind} of the model")
        stem, name, number = name or kind, name or kind, 1
        while name in self.nodes or name == INPUT:
            number += 1
            name = f"{stem}_{number}"
        made = Tensor(name, tuple(shape), batch)
        inputs_of = tuple(tensor.name for tensor in inputs)
        self.nodes[name] = Node(name, kind, inputs_of, for_one(made, self.count), **at)
        if constant is not None:
            self.constants[name] = self._for_one(constant, inputs[0])
        return made

    def _for_one(self, constant: Any, beside: Tensor) -> Any:
        """Returns a constant for a batch of one, where it is the same for every example."""
        if isinstance(constant, Repeated):
            return constant.row
        constant = value_of(constant)
        shape = getattr(constant, "shape", ())
        if len(shape) != len(beside.shape) or shape[:1] != beside.shape[:1] or isinstance(constant, Tracer):
            return constant
        rows = np.asarray(constant).reshape(self.count, -1, *shape[1:])
        return rows[0] if np.all(rows == rows[:1]) else constant

    def sliced(self, x: Tensor, extents: tuple[tuple[int, ...], ...]) -> Tensor:
        """Adds a slice; extents are (start, limit, stride) by axis."""
        check_first(x, "a slice")
        check_apart("a slice", [] if extents[0] == (0, x.shape[0], 1) else [0])
        shape = [-(-(limit - start) // stride) for start, limit, stride in extents]
        of_one = ((0, x.shape[0] // self.count, 1), *extents[1:])
        return self.add("slice", [x], shape, extents=of_one)

    def cropped(self, x: Tensor, padding: Sequence[Sequence[int]]) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
        """Cuts off of an image what negative padding of its height and width takes; returns the padding left too."""
        if all(edge >= 0 for edges in padding for edge in edges):
            return x, tuple((low, high) for low, high in padding)
        ends = [(max(-low, 0), n - max(-high, 0), 1) for n, (low, high) in zip(x.shape[1:3], padding, strict=True)]
        if any(start >= limit for start, limit, _ in ends):
            raise ValueError(f"padding {tuple(map(tuple, padding))} leaves nothing of an image of shape {x.shape[1:3]}")
        whole = [(0, n, 1) for n in x.shape]
        kept = tuple((max(low, 0), max(high, 0)) for low, high in padding)
        return self.sliced(x, (whole[0], *ends, whole[3])), kept


def value_of(value: Any) -> Any:
    """Returns the array, or compressed leaf, that a marked value stands for."""
    if isinstance(value, Repeated):
        return jnp.repeat(value.row, value.count, axis=0)
    return value.value if isinstance(value, Weight) else value
