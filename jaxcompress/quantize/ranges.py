"""Range calibrators: what part of the reals a quantizer should cover, learnt from batches of data.

A calibrator is three pure functions over a state of fixed shape and dtype, so that a tree of them, one for every
activation of a model, is carried by jit and `jax.lax.scan`::

    calibrator = percentile(99.9)
    state, _ = lax.scan(lambda state, batch: (calibrator.update(state, batch), None), calibrator.init(), batches)
    scale, zero_point = affine_range(*calibrator.limits(state), 8, symmetric=False)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from jaxcompress.numerics import histograms

State = Any  # a pytree of arrays, of the calibrator's own kind
BINS = 8192  # the range ends within a factor two of the peak, so of either sign at least 2048 bins are in use


class Calibrator(NamedTuple):
    """Learns the range of a quantizer from batches.

    ``init() -> state`` has seen nothing. ``update(state, batch) -> state`` takes a floating-point array of any shape
    with at least one entry (ValueError otherwise), and traces. ``limits(state) -> (low, high)`` returns float32
    scalars with low <= high, which need not hold 0; it raises ValueError if no batch was observed, if a batch held NaN
    or infinity, or if there were more values than the state can count. Within jit, where no value can be looked at, the
    limits of such a state are NaN.
    """

    init: Callable[[], State]
    update: Callable[[State, Array], State]
    limits: Callable[[State], tuple[Array, Array]]


class Extremes(NamedTuple):
    """The smallest and the largest value, of all batches or on average; inf and -inf before the first batch."""

    low: Array  # float32
    high: Array  # float32
    batches: Array  # int32, how many were observed
    finite: Array  # bool, whether no value was NaN or infinite


class Counted(NamedTuple):
    """The exact extremes and the histogram of the values, as `numerics.histograms` describes it."""

    extremes: Extremes
    counts: Array  # uint32, by bin
    exponent: Array  # int32
    total: Array  # uint32, how many values were observed, zeros included
    counted: Array  # bool, whether they were few enough for uint32


def min_max() -> Calibrator:
    """Covers every value observed; serves any bit width, 16 included."""
    return Calibrator(_no_extremes, _widen, _extreme_limits)


def moving_average(decay: float = 0.9) -> Calibrator:
    """Averages the minimum and the maximum of the batches exponentially (Jacob et al. 2018, arXiv:1712.05877, 3.1).

    ``low = decay * low + (1 - decay) * batch.min()``, starting from the first batch; likewise for `high`. Raises
    ValueError for a `decay` outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay {decay!r} of a moving average is not in [0, 1)")

    def update(state: Extremes, batch: Array) -> Extremes:
        latest = _widen(_no_extremes(), batch)

        def average(old: Array, new: Array) -> Array:
            return jnp.where(state.batches == 0, new, decay * old + (1 - decay) * new)

        return Extremes(
            average(state.low, latest.low),
            average(state.high, latest.high),
            state.batches + 1,
            state.finite & latest.finite,
        )

    return Calibrator(_no_extremes, update, _extreme_limits)


def percentile(percent: float = 99.99) -> Calibrator:
    """Covers the values whose magnitude is not among the largest ``100 - percent`` per cent.

    As Wu et al. 2020 (arXiv:2004.09602) have it: the percentile of the absolute values is the threshold T,
    and the limits are the extremes clipped to [-T, T]. It is read from a histogram, to less than 1/2048 of the largest
    magnitude. Raises ValueError for a `percent` outside (0, 100].
    """
    if not 0 < percent <= 100:
        raise ValueError(f"percent {percent!r} is not in (0, 100]")

    def limits(state: Counted) -> tuple[Array, Array]:
        low, high = _counted_limits(state)
        threshold = histograms.absolute_percentile(state.counts, state.exponent, state.total, percent)
        return histograms.clipped(low, high, threshold)

    return Calibrator(_no_counts, _count, limits)


def mse(bits: int = 8, symmetric: bool = False) -> Calibrator:
    """Covers the range whose `bits`-bit affine quantizer has the least mean squared error on the values.

    The error is integrated over a histogram (`numerics.histograms.least_error_range`). Raises ValueError for `bits`
    outside 2..8.
    """
    _check_bits(bits, "mse")

    def limits(state: Counted) -> tuple[Array, Array]:
        return histograms.least_error_range(state.counts, state.exponent, *_counted_limits(state), bits, symmetric)

    return Calibrator(_no_counts, _count, limits)


def entropy(bits: int = 8, symmetric: bool = False) -> Calibrator:
    """Covers the range that loses least information to a `bits`-bit quantizer, by Kullback-Leibler divergence.

    The entropy calibration of Migacz (2017, "8-bit inference with TensorRT"), on both signs and with the departures
    that `numerics.histograms.least_divergence_range` lists. Raises ValueError for `bits` outside 2..8.
    """
    _check_bits(bits, "entropy")

    def limits(state: Counted) -> tuple[Array, Array]:
        return histograms.least_divergence_range(state.counts, state.exponent, *_counted_limits(state), bits, symmetric)

    return Calibrator(_no_counts, _count, limits)


def _check_bits(bits: int, calibrator: str) -> None:
    if not (isinstance(bits, int) and 2 <= bits <= 8):
        raise ValueError(
            f"bits {bits!r} of {calibrator} is not an integer from 2 to 8; for more let min_max take the range"
        )


def _no_extremes() -> Extremes:
    return Extremes(jnp.float32(jnp.inf), jnp.float32(-jnp.inf), jnp.int32(0), jnp.array(True))


def _no_counts() -> Counted:
    return Counted(_no_extremes(), *histograms.empty(BINS), jnp.uint32(0), jnp.array(True))


def _widen(state: Extremes, batch: Array) -> Extremes:
    if batch.size == 0 or not jnp.issubdtype(batch.dtype, jnp.floating):
        raise ValueError(f"a batch of shape {batch.shape} and dtype {batch.dtype} is empty or not floating-point")
    return Extremes(
        jnp.minimum(state.low, jnp.min(batch).astype(jnp.float32)),
        jnp.maximum(state.high, jnp.max(batch).astype(jnp.float32)),
        state.batches + 1,
        state.finite & jnp.all(jnp.isfinite(batch)),
    )


def _count(state: Counted, batch: Array) -> Counted:
    extremes = _widen(state.extremes, batch)
    counts, exponent = histograms.add(state.counts, state.exponent, batch)
    total = state.total + jnp.uint32(batch.size)
    # A sum that wrapped around is smaller than what was added to.
    return Counted(extremes, counts, exponent, total, state.counted & (total >= state.total))


def _counted_limits(state: Counted) -> tuple[Array, Array]:
    if not isinstance(state.counted, Tracer) and not state.counted:
        raise ValueError(f"more than {2**32 - 1} values were observed, which is all that the histogram can count")
    low, high = _extreme_limits(state.extremes)
    return jnp.where(state.counted, low, jnp.nan), jnp.where(state.counted, high, jnp.nan)


def _extreme_limits(state: Extremes) -> tuple[Array, Array]:
    if not any(isinstance(part, Tracer) for part in state):
        if int(state.batches) == 0:
            raise ValueError("no batch was observed, so there is no range; update the calibrator first")
        if not state.finite:
            raise ValueError("a batch held NaN or infinity; a range is learnt from finite values only")
    trusted = (state.batches > 0) & state.finite
    return jnp.where(trusted, state.low, jnp.nan), jnp.where(trusted, state.high, jnp.nan)
