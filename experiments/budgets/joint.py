"""Sparsity, bits and rank of every kernel at once, within a budget of the bytes of the file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import jaxcompress as jc
from experiments import config
from experiments.budgets.subject import Subject
from jaxcompress.budget import (
    Cost,
    Damages,
    Leaves,
    Level,
    Step,
    chosen,
    excess_memory,
    forms,
    grid,
    levels_within,
    packed_bytes,
)
from jaxcompress.export import packed
from jaxcompress.paths import Params, flatten

_ORDERS: Mapping[str, Sequence[Step]] = {
    "sparsity-bits": ("rank", "sparsity", "bits"),
    "bits-sparsity": ("rank", "bits", "sparsity"),
}


def within(spec: config.Joint, subject: Subject) -> Params:
    """Prunes, rounds and factorizes kernels so that the file, its header with it, has the bytes allowed.

    What each level does to each kernel is measured once for budgets that differ in what they allow alone.
    """
    measured = _measured(_Question(replace(spec, bytes=1, macs=None, memory=None), subject.sha256(), subject))
    weights, statistics, cost, also = measured.weights, subject.statistics, measured.bytes, _limits(spec, subject)
    fixed = packed_bytes(statistics)
    header = len(packed.to_bytes(weights | statistics)) - cost(weights) - fixed
    while True:
        allowed = spec.bytes - fixed - header
        try:
            levels = levels_within(weights, measured.leaves, measured.damages, cost, allowed, also=also)
        except ValueError as error:
            limits = f"bytes={spec.bytes}, macs={spec.macs}, memory={spec.memory}"
            raise ValueError(f"the joint budget for {spec.pattern!r} of {limits}: {error}") from error
        made = chosen(weights, measured.leaves, levels)
        over = len(packed.to_bytes(made | statistics)) - spec.bytes
        if over <= 0:
            return made
        header += over  # what is nested has a longer one


def _limits(spec: config.Joint, subject: Subject) -> list[tuple[Cost, int]]:
    """Returns the other costs of a model and how much of them is allowed."""
    limits = []
    if spec.macs is not None:
        cost = subject.cost()
        limits.append((cost, int(spec.macs * cost(subject.weights))))
    if spec.memory is not None:
        allowed = int(spec.memory * jc.peak_memory(subject.logits, subject.weights, subject.example))
        limits.append((excess_memory(subject.logits, subject.example, allowed), 0))
    return limits


@dataclass(frozen=True)
class _Question:
    """Says what is measured; a question is the same as another if all but the subject itself is."""

    spec: config.Joint
    sha256: str
    subject: Subject = field(compare=False)


class _Measured(NamedTuple):
    """Holds weights, kernels at every level, the damage that each does, and the bytes of leaves in a file, by id."""

    weights: Params
    leaves: Leaves[Level]
    damages: Damages[Level]
    sizes: Mapping[int, int]

    def bytes(self, params: Params) -> int:
        """Counts the bytes of a tree of leaves that were measured."""
        return sum(self.sizes[id(leaf)] for leaf in flatten(params).values())


@lru_cache(maxsize=1)
def _measured(question: _Question) -> _Measured:
    spec, subject = question.spec, question.subject
    levels = grid(spec.ranks, spec.sparsities, spec.bits)
    leaves = forms(subject.weights, spec.pattern, levels, order=_ORDERS[spec.order], split=spec.split)
    of_all = [*flatten(subject.weights).values(), *(leaf for of in leaves.values() for leaf in of.values())]
    sizes = {id(leaf): packed_bytes(leaf) for leaf in of_all}
    return _Measured(subject.weights, leaves, subject.damages(spec.damage, leaves), sizes)
