"""How a value changes in the course of a stage."""

from dataclasses import dataclass, field
from typing import Literal

from experiments.config.roles import TRACED


@dataclass(frozen=True)
class Ramp:
    """Raises a value from `initial` between two points of a stage, both in epochs."""

    end: float = field(metadata=TRACED)
    begin: float = field(default=0.0, metadata=TRACED)
    initial: float = field(default=0.0, metadata=TRACED)
    shape: Literal["linear", "cubic"] = "cubic"
