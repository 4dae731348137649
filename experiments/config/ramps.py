"""How a value changes in the course of a stage."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Ramp:
    """Raises a value from `initial` between two points of a stage, both in epochs."""

    end: float
    begin: float = 0.0
    initial: float = 0.0
    shape: Literal["linear", "cubic"] = "cubic"
