"""All that a recipe may hold."""

from dataclasses import dataclass
from typing import Union

from experiments.config.factorization import CP, SVD, Budget, Kronecker, TensorTrain, Tucker2
from experiments.config.joint import Joint
from experiments.config.pruning import ACDC, NM, Connections, Dynamic, Magnitude, Movement, Threshold
from experiments.config.quantization import LSQ, Binary, Codebook, DoReFa, Float8, Ternary, Weights

_Pruning = Union[Magnitude, Connections, Dynamic, NM, Movement, ACDC, Threshold]  # noqa: UP007
_Quantization = Union[Weights, Float8, LSQ, DoReFa, Binary, Ternary, Codebook]  # noqa: UP007
_Factorization = Union[SVD, Tucker2, CP, TensorTrain, Kronecker, Budget]  # noqa: UP007
Single = Union[_Pruning, _Quantization, _Factorization]  # noqa: UP007 (cattrs reads the members of a Union)


@dataclass(frozen=True)
class Additive:
    """The weights that `pattern` matches as sums of what two techniques make of them."""

    pattern: str
    first: Single
    second: Single


Technique = Union[Single, Joint, Additive]  # noqa: UP007
