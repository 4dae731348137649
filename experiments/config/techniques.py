"""All that a recipe may hold."""

from dataclasses import dataclass
from typing import Union

from experiments.config.pruning import ACDC, NM, Connections, Dynamic, Magnitude, Movement, Threshold
from experiments.config.quantization import LSQ, Binary, Codebook, DoReFa, Float8, Ternary, Weights


@dataclass(frozen=True)
class SVD:
    """Truncated singular value decomposition by `rank`, by `energy`, or by ranks that the LC algorithm learns.

    `alpha` is what a weight stored costs those (`jaxcompress.factorize.penalized`).
    """

    pattern: str
    rank: int | None = None
    energy: float | None = None
    alpha: float | None = None


_Pruning = Union[Magnitude, Connections, Dynamic, NM, Movement, ACDC, Threshold]  # noqa: UP007
_Quantization = Union[Weights, Float8, LSQ, DoReFa, Binary, Ternary, Codebook]  # noqa: UP007
Single = Union[_Pruning, _Quantization, SVD]  # noqa: UP007 (cattrs reads the members of a Union)


@dataclass(frozen=True)
class Additive:
    """The weights that `pattern` matches as sums of what two techniques make of them."""

    pattern: str
    first: Single
    second: Single


Technique = Union[Single, Additive]  # noqa: UP007
