"""What a stage rounds."""

from dataclasses import dataclass, field
from typing import Literal

from experiments.config.ramps import Ramp
from experiments.config.roles import INITIAL, TRACED


@dataclass(frozen=True)
class Weights:
    """Affine fake quantization of weights to `bits` bits, at once or along a `ramp` that falls from its `initial` bits.

    With the granularity ``group`` runs of `group` inputs share a scale. If `stochastic`, weights are rounded up with
    the probability of their fraction in training.
    """

    pattern: str
    bits: int = field(metadata=TRACED)
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
    bits: int = field(metadata=INITIAL)
    granularity: Literal["tensor", "channel"] = "tensor"


@dataclass(frozen=True)
class DoReFa:
    """Quantization of weights squashed by tanh (Zhou et al. 2016)."""

    pattern: str
    bits: int = field(metadata=INITIAL)


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
    threshold: float | None = field(default=None, metadata=INITIAL)


@dataclass(frozen=True)
class Codebook:
    """Weight sharing by k-means with ``2**bits`` values an array, or the same ones for all if `scope` is ``global``."""

    pattern: str
    bits: int = field(metadata=INITIAL)
    initial: Literal["linear", "density", "random"] = "linear"
    scope: Literal["layer", "global"] = "layer"


@dataclass(frozen=True)
class Activations:
    """Rounds the activations of the tensors that `pattern` matches to `bits` bits, in ranges that are trained.

    The methods are those of `jaxcompress.quantize.quantizers`; tensors are named as `jaxcompress.read` names them.
    """

    pattern: str
    bits: int
    method: Literal["lsq", "lsq-plus", "pact", "dorefa"] = "lsq"
