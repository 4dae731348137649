"""Schedules: from the step (an optimiser update, counted from 0) to a value.

Wherever a schedule is taken a plain number stands for a constant one. Values and steps that a schedule is made of may
be traced, which those of optax do not allow, so that a sweep over them is one program; they are then not checked.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from jax import Array
from jax.core import Tracer

Schedule = Callable[[Array | int], Any]  # a number or a scalar array


def as_schedule(value: Schedule | float) -> Schedule:
    """Returns `value` itself if it is a schedule, and the constant schedule of a number."""
    return value if callable(value) else constant(value)


def constant(value: float) -> Schedule:
    """Holds one value."""
    return optax.constant_schedule(value)


def linear(initial: float, final: float, *, begin: int = 0, end: int) -> Schedule:
    """Goes in a straight line from `initial` at step `begin` to `final` at step `end`."""
    return _polynomial(initial, final, begin, end, power=1)


def cubic(initial: float, final: float, *, begin: int = 0, end: int) -> Schedule:
    """Goes from `initial` to `final`, fast at first (Zhu & Gupta 2017, arXiv:1710.01878, eq. 1).

    ``s(t) = final + (initial - final) * (1 - (t - begin) / (end - begin)) ** 3``. The paper holds the value between
    mask updates; here the transform decides when to ask.
    """
    return _polynomial(initial, final, begin, end, power=3)


def one_shot(final: float, *, at: int, initial: float = 0.0) -> Schedule:
    """Jumps from `initial` to `final` at step `at`."""
    _check_step("at", at)
    return lambda step: jnp.where(jnp.asarray(step) >= at, jnp.float32(final), jnp.float32(initial))


def cyclic(low: float, high: float, *, period: int, begin: int = 0) -> Schedule:
    """Swings from `low` to `high` and back in every `period` steps, along a cosine."""
    _check_step("begin", begin)
    if period < 2:
        raise ValueError(f"a period of {period} steps is too short; at least 2 are needed")

    def schedule(step: Array | int) -> Array:
        elapsed = jnp.maximum(jnp.asarray(step) - begin, 0) % period  # in integers: a cosine of many turns loses digits
        turn = elapsed.astype(jnp.float32) / period
        return low + (high - low) * 0.5 * (1 - jnp.cos(2 * jnp.pi * turn))

    return schedule


def alternating(high: float, *, begin: int, end: int, high_steps: int, low_steps: int) -> Schedule:
    """Takes turns between `high`, first, and 0 from step `begin` on; it is 0 before, and `high` from `end` on.

    The phases of AC/DC (Peste et al. 2021, arXiv:2106.12379): a dense one, compressed and dense ones in turn, and a
    compressed one at last.
    """
    _check_step("begin", begin)
    if end < begin:
        raise ValueError(f"the schedule ends at step {end}, which is before its begin at step {begin}")
    if high_steps < 1 or low_steps < 1:
        raise ValueError(f"phases of {high_steps} and {low_steps} steps are too short; each is at least 1")

    def schedule(step: Array | int) -> Array:
        step = jnp.asarray(step)
        turn = (step - begin) % (high_steps + low_steps) < high_steps
        return jnp.where((step >= end) | ((step >= begin) & turn), jnp.float32(high), jnp.float32(0))

    return schedule


def _polynomial(initial: float, final: float, begin: int, end: int, power: int) -> Schedule:
    _check_step("begin", begin)
    if not isinstance(begin, Tracer) and not isinstance(end, Tracer) and end <= begin:
        raise ValueError(f"the schedule ends at step {end}, which is not after its begin at step {begin}")

    def schedule(step: Array | int) -> Array:
        elapsed = jnp.clip(jnp.asarray(step) - begin, 0, end - begin)
        left = 1 - elapsed.astype(jnp.float32) / (end - begin)
        return final + (initial - final) * left**power

    return schedule


def _check_step(name: str, step: int) -> None:
    if not isinstance(step, Tracer) and step < 0:
        raise ValueError(f"{name}={step} is not a step; steps count from 0")
