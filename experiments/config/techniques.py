"""What is done to weights and activations while a stage trains."""

from dataclasses import dataclass
from typing import Literal, Union


@dataclass(frozen=True)
class Ramp:
    """Raises a value from `initial` between two points of a stage, both in epochs."""

    end: float
    begin: float = 0.0
    initial: float = 0.0
    shape: Literal["linear", "cubic"] = "cubic"


@dataclass(frozen=True)
class Magnitude:
    """Magnitude pruning to `sparsity`, at once or along a `ramp`, asked every `every` steps."""

    pattern: str
    sparsity: float
    ramp: Ramp | None = None
    scope: Literal["layer", "global"] = "layer"
    every: int = 50


@dataclass(frozen=True)
class Connections:
    """Pruning once, at the start of the stage, to the weights of the highest `score`.

    Scores are those of `jaxcompress.prune.scores`: ``snip`` and ``grasp`` by the loss on `examples` training images
    drawn by the seed (``grasp`` at a temperature of 200), ``synflow`` without any, ``magnitude``, or ``random``.
    """

    pattern: str
    sparsity: float
    score: Literal["snip", "grasp", "synflow", "magnitude", "random"] = "snip"
    allocation: Literal["uniform", "global", "erk", "lamp"] = "global"
    examples: int = 100


@dataclass(frozen=True)
class Threshold:
    """Pruning below ``quality * std`` of each array (Han et al. 2015)."""

    pattern: str
    quality: float


@dataclass(frozen=True)
class Weights:
    """Affine fake quantization of weights to `bits` bits, at once or along a `ramp` that falls from its `initial` bits.

    With the granularity ``group`` runs of `group` inputs share a scale. If `stochastic`, weights are rounded up with
    the probability of their fraction in training.
    """

    pattern: str
    bits: int
    granularity: Literal["tensor", "channel", "group"] = "channel"
    symmetric: bool = True
    group: int = 32
    stochastic: bool = False
    ramp: Ramp | None = None


@dataclass(frozen=True)
class Float8:
    """Weights in 8-bit floating point (Micikevicius et al. 2022), in the largest range that a scale gives them."""

    pattern: str
    format: Literal["e4m3", "e5m2"] = "e4m3"
    granularity: Literal["tensor", "channel"] = "tensor"


@dataclass(frozen=True)
class LSQ:
    """Quantization of weights with a learned step (Esser et al. 2020)."""

    pattern: str
    bits: int
    granularity: Literal["tensor", "channel"] = "tensor"


@dataclass(frozen=True)
class DoReFa:
    """Quantization of weights squashed by tanh (Zhou et al. 2016)."""

    pattern: str
    bits: int


@dataclass(frozen=True)
class Binary:
    """Weights of one bit, by BinaryConnect (Courbariaux et al. 2015) or XNOR-Net (Rastegari et al. 2016).

    `test` declares what the stage validates and hands on: the ``signs``, or the real ``weights`` behind them, for which
    the signs were noise of training (Courbariaux et al. 2015, section 2.6).
    """

    pattern: str
    method: Literal["binaryconnect", "xnor"] = "binaryconnect"
    stochastic: bool = False
    test: Literal["signs", "weights"] = "signs"


@dataclass(frozen=True)
class Ternary:
    """Weights of three values, by TWN (Li & Liu 2016) or trained ternary quantization (Zhu et al. 2017)."""

    pattern: str
    method: Literal["twn", "ttq"] = "twn"
    threshold: float | None = None


@dataclass(frozen=True)
class Codebook:
    """Weight sharing by k-means with ``2**bits`` values an array."""

    pattern: str
    bits: int
    initial: Literal["linear", "density", "random"] = "linear"


@dataclass(frozen=True)
class SVD:
    """Truncated singular value decomposition by `rank` or `energy`."""

    pattern: str
    rank: int | None = None
    energy: float | None = None


@dataclass(frozen=True)
class Activations:
    """Rounds the activations of the tensors that `pattern` matches to `bits` bits, in ranges that are trained.

    The methods are those of `jaxcompress.quantize.quantizers`; tensors are named as `jaxcompress.read` names them.
    """

    pattern: str
    bits: int
    method: Literal["lsq", "lsq-plus", "pact", "dorefa"] = "lsq"


@dataclass(frozen=True)
class Removal:
    """Removes the channels of the lowest `score`: a fraction `sparsity` of them, or until `macs`, a fraction, is left.

    Scores are those of `jaxcompress.prune.importance`, of the groups that have a member ``path:axis`` matching
    `members` (``norm-scale``: the scales of normalizations). `scope` ranks within each group or over all; with `macs`
    it is always over all. What stays is a multiple of `round_to` in every group. If `reconstruct`, the layers that read
    removed channels are refit by least squares. ``taylor`` and `reconstruct` look at `examples` training images drawn
    by the seed.
    """

    score: Literal["l1", "l2", "norm-scale", "fpgm", "taylor", "random"] = "l2"
    sparsity: float | None = None
    macs: float | None = None
    scope: Literal["layer", "global"] = "layer"
    members: str | None = None
    round_to: int = 1
    reconstruct: bool = False
    examples: int = 1000

    def __post_init__(self) -> None:
        if (self.sparsity is None) == (self.macs is None):
            raise ValueError(f"sparsity={self.sparsity}, macs={self.macs}: a removal needs one of them")
        if self.macs is not None and not 0 < self.macs < 1:
            raise ValueError(f"macs={self.macs} is not a fraction in (0, 1)")


Technique = Union[Magnitude, Connections, Threshold, Weights, Float8, LSQ, DoReFa, Binary, Ternary, Codebook, SVD]  # noqa: UP007
