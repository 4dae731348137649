"""Reads what a loop in a program takes and carries."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class ScanOperands(NamedTuple):
    """Holds the operands of a scan, or one value for each: constants, initial carries, and what it scans over."""

    consts: list[Any]
    carries: list[Any]
    stacked: list[Any]


def scan_operands(params: Mapping[str, Any], operands: Sequence[Any]) -> ScanOperands:
    """Splits the operands of a scan, or one value for each, by its `params`.

    JAX before 0.11 counts them in ``num_consts`` and ``num_carry``; later it describes them by the tree ``ft_in``.
    """
    if "ft_in" in params:
        consts, carries, _ = (len(list(part)) for part in params["ft_in"].unpack())
    else:
        consts, carries = params["num_consts"], params["num_carry"]
    first = consts + carries
    return ScanOperands(list(operands[:consts]), list(operands[consts:first]), list(operands[first:]))
