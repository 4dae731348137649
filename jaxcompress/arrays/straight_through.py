"""Pruned weights in training form: removed ones, or their scores, go on learning."""

from dataclasses import replace

from jax import Array

from jaxcompress.arrays.base import CompressedArray, TrainingForm, by_layer, compressed, dense, fixed, stacked, static
from jaxcompress.arrays.masked import Masked
from jaxcompress.numerics import straight_through


@compressed
class StraightThrough(TrainingForm):
    """Keeps the entries of `weight` where `mask` is true; gradients pass to all, as if there were no mask.

    The gradient of a removed weight has ``decay`` (float32 scalar) times the weight added to it, as SR-STE has it
    (Zhou et al. 2021, arXiv:2102.04010): once for every use, so twice for a weight that two layers share.
    """

    weight: Array | CompressedArray
    mask: Array = fixed()
    decay: Array = fixed()
    owner: str = static(default="")

    def dense(self) -> Array:
        return straight_through.straight_through(dense(self.weight), self.mask, self.decay)

    def stacked(self) -> "StraightThrough":
        return replace(self, weight=stacked(self.weight), decay=by_layer(self.decay, self.shape))

    def pack(self) -> CompressedArray:
        return Masked(self.weight, self.mask).pack()


@compressed
class Movement(TrainingForm):
    """Keeps the entries of `weight` where `mask` is true, and trains the `scores` that the mask is drawn up from.

    The gradient of a score is that of the dense array times the weight (Sanh et al. 2020, arXiv:2005.07683); it has the
    shape of `weight`, and weights in use alone have a gradient themselves.
    """

    weight: Array | CompressedArray
    scores: Array
    mask: Array = fixed()
    owner: str = static(default="")

    def dense(self) -> Array:
        return straight_through.by_movement(dense(self.weight), self.scores, self.mask)

    def stacked(self) -> "Movement":
        return replace(self, weight=stacked(self.weight))

    def pack(self) -> CompressedArray:
        return Masked(self.weight, self.mask).pack()
