"""All that a recipe may hold."""

from dataclasses import dataclass
from typing import Union

from experiments.config.pruning import ACDC, NM, Connections, Dynamic, Magnitude, Movement, Threshold
from experiments.config.quantization import LSQ, Binary, Codebook, DoReFa, Float8, Ternary, Weights


@dataclass(frozen=True)
class SVD:
    """Truncated singular value decomposition by `rank` or `energy`."""

    pattern: str
    rank: int | None = None
    energy: float | None = None


_Pruning = Union[Magnitude, Connections, Dynamic, NM, Movement, ACDC, Threshold]  # noqa: UP007
_Quantization = Union[Weights, Float8, LSQ, DoReFa, Binary, Ternary, Codebook]  # noqa: UP007
Technique = Union[_Pruning, _Quantization, SVD]  # noqa: UP007 (cattrs reads the members of a Union)
