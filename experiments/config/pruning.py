"""What a stage takes away."""

from dataclasses import dataclass, field
from typing import Literal

from experiments.config.ramps import Ramp
from experiments.config.roles import INITIAL, TRACED


@dataclass(frozen=True)
class Magnitude:
    """Magnitude pruning to `sparsity`, at once or along a `ramp`, asked every `every` steps."""

    pattern: str
    sparsity: float = field(metadata=TRACED)
    ramp: Ramp | None = None
    scope: Literal["layer", "global"] = "layer"
    every: int = 50

    def __post_init__(self) -> None:
        _check_sparsity(self.pattern, self.sparsity)


@dataclass(frozen=True)
class Connections:
    """Pruning once, at the start of the stage, to the weights of the highest `score`.

    Scores are those of `jaxcompress.prune.scores`: ``snip`` and ``grasp`` by the loss on `examples` training images
    drawn by the seed (``grasp`` at a temperature of 200), ``synflow`` without any, ``magnitude``, or ``random``.
    """

    pattern: str
    sparsity: float = field(metadata=INITIAL)
    score: Literal["snip", "grasp", "synflow", "magnitude", "random"] = "snip"
    allocation: Literal["uniform", "global", "erk", "lamp"] = "global"
    examples: int = 100

    def __post_init__(self) -> None:
        _check_sparsity(self.pattern, self.sparsity)
        if self.score == "grasp" and self.allocation == "lamp":
            raise ValueError(f"scores of grasp for {self.pattern!r} have either sign; lamp ranks by their squares")


@dataclass(frozen=True)
class Dynamic:
    """Dynamic sparse training, by RigL (Evci et al. 2020) or SET (Mocanu et al. 2018), up to the epoch `end`.

    Every `every` steps a share of the weights, at first `fraction`, moves to other places: with ``rigl`` to those of
    the largest gradient of the loss from the labels, whatever a teacher or a penalty adds to it. The optimiser's state
    of weights out of use is kept at zero.
    """

    pattern: str
    sparsity: float = field(metadata=INITIAL)
    end: float
    method: Literal["rigl", "set"] = "rigl"
    allocation: Literal["uniform", "erk"] = "erk"
    fraction: float = 0.3
    every: int = 100

    def __post_init__(self) -> None:
        _check_sparsity(self.pattern, self.sparsity)


@dataclass(frozen=True)
class NM:
    """Keeps `n` of every `m` inputs: pruned once (``magnitude``) or trained so from the start by ``sr-ste``."""

    pattern: str
    n: int = 2
    m: int = 4
    method: Literal["magnitude", "sr-ste"] = "magnitude"
    decay: float = field(default=2e-4, metadata=INITIAL)


@dataclass(frozen=True)
class Movement:
    """Movement pruning along a `ramp` (Sanh et al. 2020)."""

    pattern: str
    sparsity: float = field(metadata=TRACED)
    ramp: Ramp
    every: int = 50

    def __post_init__(self) -> None:
        _check_sparsity(self.pattern, self.sparsity)


@dataclass(frozen=True)
class ACDC:
    """Phases of `compressed` and `dense` epochs in turn, from `begin` until `end` (AC/DC; Peste et al. 2021).

    The optimiser's state of weights out of use is kept at zero.
    """

    pattern: str
    sparsity: float = field(metadata=TRACED)
    begin: float
    end: float
    compressed: float
    dense: float

    def __post_init__(self) -> None:
        _check_sparsity(self.pattern, self.sparsity)


@dataclass(frozen=True)
class Threshold:
    """Pruning below ``quality * std`` of each array (Han et al. 2015)."""

    pattern: str
    quality: float = field(metadata=INITIAL)


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
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity={self.sparsity} of channels is not in [0, 1)")
        if self.round_to < 1 or self.examples < 1:
            raise ValueError(f"round_to={self.round_to}, examples={self.examples}: both are at least 1")


def _check_sparsity(pattern: str, sparsity: float) -> None:
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity={sparsity} for {pattern!r} is not a fraction in [0, 1]")
