"""Sparsity, bits and rank of every kernel at once, within a budget of the bytes of the file."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
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

    What each level does to each kernel is measured once in a process for budgets that differ in what they allow alone.

    Raises ValueError for limits that the smallest levels are not within.
    """
    weights, statistics = subject.weights, subject.statistics
    levels = grid(spec.ranks, spec.sparsities, spec.bits)
    leaves = forms(weights, spec.pattern, levels, order=_ORDERS[spec.order], split=spec.split)
    measured = _measured(spec, subject, leaves)
    sizes = {id(leaf): measured.bytes[path][level] for path, of in leaves.items() for level, leaf in of.items()}
    sizes |= {id(leaf): packed_bytes(leaf) for leaf in flatten(weights).values()}
    cost = lambda params: sum(sizes[id(leaf)] for leaf in flatten(params).values())
    also, fixed = _limits(spec, subject), packed_bytes(statistics)
    header = len(packed.to_bytes(weights | statistics)) - cost(weights) - fixed
    while True:
        allowed = spec.bytes - fixed - header
        try:
            found = levels_within(weights, leaves, measured.damages, cost, allowed, also=also)
        except ValueError as error:
            raise ValueError(f"the joint budget for {spec.pattern!r} of {_told(spec)}: {error}") from error
        made = chosen(weights, leaves, found)
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


def _told(spec: config.Joint) -> str:
    macs = "" if spec.macs is None else f", macs={spec.macs}"
    memory = "" if spec.memory is None else f", memory={spec.memory} (whose budget is of 0 bytes beyond it)"
    return f"bytes={spec.bytes}{macs}{memory}"


class _Measured(NamedTuple):
    """Holds the damage that each level does to each kernel, and the bytes that it has in a file then."""

    damages: Damages[Level]
    bytes: Mapping[str, Mapping[Level, int]]


_KNOWN: dict[tuple[config.Joint, str], _Measured] = {}  # two numbers a level, by what they follow from


def _measured(spec: config.Joint, subject: Subject, leaves: Leaves[Level]) -> _Measured:
    known = replace(spec, bytes=1, macs=None, memory=None), subject.sha256()
    if known not in _KNOWN:
        sizes = {path: {level: packed_bytes(leaf) for level, leaf in of.items()} for path, of in leaves.items()}
        _KNOWN[known] = _Measured(subject.damages(spec.damage, leaves), sizes)
    return _KNOWN[known]
