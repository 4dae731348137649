"""A row of a table, measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """Holds a row of a table: the paper's number, ours over `n` seeds (sample standard deviation), the verdict."""

    row: str
    metric: str
    paper: float | None
    mean: float
    std: float
    n: int
    difference: float | None
    verdict: str
    values: tuple[float, ...]
    runs: tuple[str, ...]
