"""What was measured over seeds: a row of a table, a setting of a sweep."""

from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Result:
    """Holds a row of a table: the paper's number, ours over `n` seeds (sample standard deviation), the verdict.

    `sparsity` and `bits` are the means of what its runs have reached, `unreached` the schedules that did not end.
    """

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
    sparsity: float | None = None
    bits: float | None = None
    unreached: tuple[str, ...] = ()


class Spread(NamedTuple):
    """Holds a metric over the seeds of one setting: its mean, and half the width of its 95 % confidence interval.

    The interval is Student's; of one seed there is none, which NaN says.
    """

    values: dict[str, Any]
    mean: float
    half: float
    count: int
