"""What the points of a cohort have in common from its beginning to its end: what their program is made of.

Programs that differ in anything round in ways of their own, so a point ends in the same bits only if one program trains
it from its beginning to its end. Which program that is must follow from what is written down, not from what an
interruption left to be done: it stands in the folder of the first point, written whole before any point is trained.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.cohorts import Cohort, Shapes
from experiments.disk import writing
from experiments.placement import Placement
from jaxcompress.export.files import write_whole

_NAME = "cohort.json"


class Membership(NamedTuple):
    """Holds the names of the run folders of a cohort's points, in their order, and what their program depends on.

    `width` points are trained at a time on each of the `rows` of devices, of which `columns` share a batch. The
    arguments of the program are the numbers at the places `differing` and arrays of the shapes `largest`.
    """

    runs: tuple[str, ...]
    width: int
    rows: int
    columns: int
    differing: tuple[str, ...]
    largest: Shapes

    @classmethod
    def of(cls, cohort: Cohort, runs: Sequence[str], width: int, placement: Placement) -> "Membership":
        """Describes a cohort, of runs with these names, before it is trained."""
        return cls(tuple(runs), width, placement.rows, placement.columns, tuple(cohort.points.values), cohort.largest)

    def fits(self, placement: Placement) -> bool:
        """Tells whether the program is one for devices laid out like these."""
        return (self.rows, self.columns) == (placement.rows, placement.columns)

    def write(self, root: pathlib.Path) -> None:
        """Writes this to the folder of the first point, which is made if need be."""
        with writing(root / self.runs[0] / _NAME) as path:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, (json.dumps(self._asdict()) + "\n").encode())


def memberships(root: pathlib.Path) -> list[Membership]:
    """Reads the cohorts that were begun under `root`, the last first.

    Raises ValueError, which names the file, for one that is damaged.
    """
    files = sorted(root.glob(f"*/{_NAME}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return [_read(path) for path in files]


def _read(path: pathlib.Path) -> Membership:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        shapes = tuple(tuple(int(size) for size in shape) for shape in found["largest"])
        width, rows, columns = (int(found[name]) for name in ("width", "rows", "columns"))
        if min(width, rows, columns) < 1 or not found["runs"]:
            raise ValueError("there is at least one point at a time, row, column and run")
        return Membership(tuple(found["runs"]), width, rows, columns, tuple(found["differing"]), shapes)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}): remove it; what its points have not finished is then trained by a program "
            "that may round in another way"
        ) from error
