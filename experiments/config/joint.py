"""Several families at once."""

from dataclasses import dataclass, field
from typing import Literal

from experiments.config.roles import INITIAL


@dataclass(frozen=True)
class Joint:
    """Sparsity, bits and rank of every kernel within a file of so many `bytes`, with the least damage.

    A kernel stays as it is or gets one each of `ranks`, shares of its weights that two factors have, of `sparsities`
    and of `bits`, or none. What is left is pruned and rounded in an `order`; masks then stand. With `macs` and
    `memory` the multiply-adds, and the peak memory of activations, are within that fraction of the model's, too. The
    damage is by how much the loss on `examples` training images drawn by the seed rises, or the relative error of the
    kernel.

    The bytes are those at the start of the stage: what training makes of the weights may be coded in more.
    """

    pattern: str
    bytes: int = field(metadata=INITIAL)
    ranks: tuple[float, ...] = ()
    sparsities: tuple[float, ...] = ()
    bits: tuple[int, ...] = ()
    macs: float | None = field(default=None, metadata=INITIAL)
    memory: float | None = field(default=None, metadata=INITIAL)
    order: Literal["sparsity-bits", "bits-sparsity"] = "sparsity-bits"
    split: Literal["channel", "spatial"] = "channel"
    damage: Literal["error", "loss"] = "loss"
    examples: int = 1000

    def __post_init__(self) -> None:
        where = f"of the joint budget for {self.pattern!r}"
        if self.bytes < 1 or self.examples < 1:
            raise ValueError(f"bytes={self.bytes}, examples={self.examples} {where} must be at least 1")
        for name, share in (("macs", self.macs), ("memory", self.memory)):
            if share is not None and not 0 < share <= 1:
                raise ValueError(f"{name}={share} {where} is not a fraction in (0, 1]")
        if not (self.ranks or self.sparsities or self.bits):
            raise ValueError(f"there are no ranks, sparsities or bits {where}")
        if not all(0 < share < 1 for share in (*self.ranks, *self.sparsities)):
            given = f"ranks={list(self.ranks)}, sparsities={list(self.sparsities)}"
            raise ValueError(f"{given} {where} are not all fractions in (0, 1)")
        if not all(2 <= bits <= 8 for bits in self.bits):
            raise ValueError(f"bits={list(self.bits)} {where} are not all from 2 to 8")
