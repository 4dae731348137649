"""Integer weights with a learned step, and DoReFa's weights of a bounded range."""

from dataclasses import replace

import jax.numpy as jnp
from jax import Array, lax

from jaxcompress.arrays.base import CompressedArray, TrainingForm, by_layer, compressed, dense, fixed, stacked, static
from jaxcompress.arrays.binary import kept, packed
from jaxcompress.arrays.clustered import Clustered
from jaxcompress.arrays.masked import Masked
from jaxcompress.arrays.quantized import Quantized
from jaxcompress.numerics import learned


@compressed
class LearnedStep(TrainingForm):
    """Means `weight` rounded to `bits`-bit integers times a trained `step` (Esser et al. 2020, arXiv:1902.08153).

    `step` is float32 and has the rank of `weight`: of size 1, or one per channel. `bits` is an int32 scalar in [2, 8]
    and may be traced. `count` is the number of weights that share a step, by which its gradient is scaled; it stands
    still where layers are stacked or sliced. `symmetric` leaves out the code -2**(bits-1).
    """

    weight: Array | CompressedArray
    step: Array
    bits: Array = fixed()
    count: int = static()
    symmetric: bool = static(default=False)
    owner: str = static(default="")

    def dense(self) -> Array:
        weight = dense(self.weight)
        return learned.lsq(weight, self.step, self.bits, symmetric=self.symmetric, count=self.count)

    def stacked(self) -> "LearnedStep":
        step = jnp.broadcast_to(self.step, (self.shape[0], *self.step.shape[1:]))
        return replace(self, weight=stacked(self.weight), step=step, bits=by_layer(self.bits, self.shape))

    def pack(self) -> Quantized:
        return packed(self.integers(), int(self.bits), self.dtype)

    def integers(self) -> tuple[Array, Array, Array]:
        weight, scale = lax.stop_gradient(dense(self.weight)), learned.usable_step(self.step)
        return learned.lsq_codes(weight, self.step, self.bits, symmetric=self.symmetric), scale, jnp.zeros_like(scale)


@compressed
class DoReFa(TrainingForm):
    """Means the `bits`-bit weights of DoReFa-Net (Zhou et al. 2016, arXiv:1606.06160): odd multiples of a scale.

    The largest ``|tanh(weight)|`` over `axes` becomes 1; `axes` are negative, so that they hold for stacked layers too.
    `bits` is an int32 scalar in [1, 8] and may be traced. What a mask in `weight` removes means zero, which no other
    weight can.
    """

    weight: Array | CompressedArray
    bits: Array = fixed()
    axes: tuple[int, ...] = static()
    owner: str = static(default="")

    def dense(self) -> Array:
        return learned.dorefa_weights(dense(self.weight), self.bits, self.axes, kept(self.weight))

    def stacked(self) -> "DoReFa | None":
        if -self.ndim in self.axes:  # layers share a largest weight, which no layer can tell alone
            return None
        return replace(self, weight=stacked(self.weight), bits=by_layer(self.bits, self.shape))

    def pack(self) -> CompressedArray:
        """Stores k-bit weights as odd integers of k + 1 bits, of which the entropy coding leaves k at most.

        With 8 bits the odd integers are too long for int8, and a codebook of the 256 values takes their place.
        """
        mask, bits = kept(self.weight), int(self.bits)
        codes, scale = learned.dorefa_codes(dense(self.weight), self.bits, self.axes, mask)
        if bits < 8:
            return packed((codes.astype(jnp.int8), scale, jnp.zeros_like(scale)), bits + 1, self.dtype)
        largest = 2**bits - 1
        levels = jnp.arange(-largest, largest + 1, 2, dtype=jnp.float32) * scale.reshape(-1)[0]
        shared = Clustered((codes.astype(jnp.int32) + largest) // 2, levels.astype(self.dtype))
        return shared.pack() if mask is None else Masked(shared, mask).pack()
