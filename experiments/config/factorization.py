"""What factorizes a model."""

from dataclasses import dataclass, field
from typing import Literal

from experiments.config.roles import INITIAL


@dataclass(frozen=True)
class SVD:
    """Truncated singular value decomposition; of convolutions by channels, or into the two axes of their window.

    The rank is a number, the least of an `energy`, that of variational Bayes (`vbmf`), or one that the LC algorithm
    learns, for which a weight stored costs `alpha` (`jaxcompress.factorize.penalized`).
    """

    pattern: str
    rank: int | None = field(default=None, metadata=INITIAL)
    energy: float | None = field(default=None, metadata=INITIAL)
    alpha: float | None = None
    vbmf: bool = False
    split: Literal["channel", "spatial"] = "channel"

    def __post_init__(self) -> None:
        _check_one("svd", self.pattern, rank=self.rank, energy=self.energy, alpha=self.alpha, vbmf=self.vbmf or None)


@dataclass(frozen=True)
class Tucker2:
    """Tucker decomposition of inputs and outputs, to one `rank`, by an `energy`, or by variational Bayes (`vbmf`)."""

    pattern: str
    rank: int | None = field(default=None, metadata=INITIAL)
    energy: float | None = field(default=None, metadata=INITIAL)
    vbmf: bool = False

    def __post_init__(self) -> None:
        _check_one("tucker2", self.pattern, rank=self.rank, energy=self.energy, vbmf=self.vbmf or None)


@dataclass(frozen=True)
class CP:
    """Canonical polyadic decomposition of convolutions, the best of a few tries from the seed."""

    pattern: str
    rank: int = field(metadata=INITIAL)


@dataclass(frozen=True)
class TensorTrain:
    """Trains of cores, one for every pair of an input mode and an output mode, with ranks of at most `rank`."""

    pattern: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    rank: int = field(metadata=INITIAL)


@dataclass(frozen=True)
class Kronecker:
    """Sums of `rank` Kronecker products whose first factors have the shape `left`, inputs and outputs."""

    pattern: str
    left: tuple[int, int]
    rank: int = field(default=1, metadata=INITIAL)


@dataclass(frozen=True)
class Budget:
    """Factors of one `form` within `macs`, a fraction of the model's multiply-adds, that do the least damage.

    Every kernel gets a rank from a tenth to nine tenths of the largest that could pay, or of its channels for
    ``tucker2``, or stays whole. The damage is the relative error of the kernel, or by how much it raises the loss on
    `examples` training images drawn by the seed.
    """

    pattern: str
    form: Literal["svd", "spatial", "tucker2", "cp"]
    macs: float = field(metadata=INITIAL)
    damage: Literal["error", "loss"] = "error"
    search: Literal["exact", "greedy"] = "exact"
    examples: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.macs <= 1:
            raise ValueError(f"macs={self.macs} of the budget for {self.pattern!r} is not a fraction in (0, 1]")
        if self.examples < 1:
            raise ValueError(f"examples={self.examples} of the budget for {self.pattern!r} must be at least 1")


def _check_one(form: str, pattern: str, **rules: object) -> None:
    found = [name for name, value in rules.items() if value is not None]
    if len(found) != 1:
        told = " and ".join(found) or "none"
        raise ValueError(f"{form} of {pattern!r} takes one of {', '.join(rules)}, not {told}")
