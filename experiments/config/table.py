"""A paper's table, and where the experiments that are to meet it are measured."""

from dataclasses import dataclass
from typing import Literal

from experiments.config.experiment import Experiment

# Number formats of TFLite files.
Format = Literal["float32", "float16", "dynamic-int8", "int8-converter", "int8", "int4", "int16x8"]


@dataclass(frozen=True)
class Row:
    """One number of a paper's table, where ours is measured, and how near is near enough.

    `metric` is a name of `experiments.rows.METRICS`, in the table `shown` as another if one is given. With `leaf` it
    is of that parameter alone, with `format` of the TFLite file of that number format, as LiteRT runs it: the metrics
    then are ``LEAF_METRICS`` and ``FILE_METRICS``. The verdict is ``reproduced`` within `tolerance` of the paper's
    number, and beyond that ``better`` or ``worse`` by `better`.
    """

    row: str
    metric: str
    experiment: str
    stage: str
    paper: float | None = None
    tolerance: float = 0.0
    better: Literal["lower", "higher"] = "lower"
    leaf: str | None = None
    format: Format | None = None
    shown: str | None = None

    def __post_init__(self) -> None:
        if self.leaf is not None and self.format is not None:
            raise ValueError(f"row {self.row!r} has a leaf and a format; files are measured whole")


@dataclass(frozen=True)
class Table:
    """A paper's table and the experiments that are to meet it.

    Seeds are counted from `first_seed`: those before it were in sight when settings were chosen. `differs` says in
    words what is not as in the paper, `expected_minutes` how long the whole table takes on two cores. The `picture` has
    bars, the paper's numbers beside ours, or ``curves``: a line a metric, over the number that each row begins with.
    """

    paper: str
    table: str
    experiments: dict[str, Experiment]
    rows: tuple[Row, ...]
    seeds: int = 3
    first_seed: int = 0
    expected_minutes: float = 1.0
    differs: str = ""
    picture: Literal["bars", "curves"] = "bars"
