"""How many points of a cohort to train at a time, by the memory that they take and a few steps of each choice."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.cohorts import Cohort
from experiments.placement import Placement
from experiments.processes import agreed

_STEPS, _TIMES, _LONGEST = 5, 3, 10  # how long each choice is tried; how often, and if that takes no second
_MARGIN = 1.1  # what is slower by less is as fast: a choice that noise makes is not made again
_USABLE = 0.9  # of a device's memory


def width_of(cohort: Cohort, placement: Placement, say: Callable[[str], None]) -> int:
    """Returns how many points are trained at a time on each row: what was asked for, or else what is fastest.

    A batched program of many points is one of large products, which suits an accelerator; on a CPU one point after
    another may be faster. So a few steps are timed with one point at a time, four, sixteen and so on, where the
    memory of a device suffices, and of those that are about as fast the fewest are taken. Raises ValueError if it never
    does.
    """
    count = len(cohort.experiments)
    row = -(-count // placement.rows)
    if (asked := placement.width_of(count)) is not None:
        return asked
    found: dict[int, float] = {}
    least = 0
    for width in choices(row):
        made = compiled(cohort, placement, width, _steps(cohort) * cohort.batch)
        needs = bytes_of(made)
        least = min(least or needs, needs)
        if needs <= _USABLE * placement.memory:
            found[width] = _seconds(made, cohort, placement, width)
    if not found:
        raise ValueError(f"{count} points need {least:,} bytes of a device that has {placement.memory:,}; sweep fewer")
    (best,) = agreed([min(width for width in found if found[width] <= _MARGIN * min(found.values()))])
    rates = ", ".join(f"{width}: {1e3 * seconds:.3g} ms" for width, seconds in found.items())
    say(f"{count} points, {best} at a time; a step of one point, by points at a time: {rates}")
    return best


def choices(row: int) -> list[int]:
    """Lists the widths to try for so many points a row: powers of four below it, and it."""
    below = [4**power for power in range(8) if 4**power < row]
    return [*below, row]


def compiled(cohort: Cohort, placement: Placement, width: int, examples: int | None = None) -> Any:
    """Compiles the epoch of a cohort, of so many examples or of all, for the devices of a placement.

    Nothing is placed on them, so that they may be those of a machine elsewhere.
    """
    count = placement.padded(len(cohort.experiments), width)
    rows, everywhere = placement.sharding("sweep"), placement.sharding()

    def stacked(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype, sharding=rows)

    def cut(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((examples or leaf.shape[0], *leaf.shape[1:]), leaf.dtype, sharding=everywhere)

    points = jax.tree.map(stacked, cohort.points)
    number = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    program = jax.jit(cohort.epoch(width, placement), donate_argnums=0)
    of = jax.tree.map(cut, cohort.plan.examples)
    return program.lower(points.state, points._replace(state=()), number, of, number).compile()


def bytes_of(program: Any) -> int:
    """Returns the bytes that a compiled program takes on each device, its arguments and results among them."""
    sizes = program.memory_analysis()
    return (
        sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes - sizes.alias_size_in_bytes
    )


def _seconds(program: Any, cohort: Cohort, placement: Placement, width: int) -> float:
    """Returns the least time of a step of one point."""
    count, steps = len(cohort.experiments), _steps(cohort)
    of = jax.tree.map(lambda leaf: leaf[: steps * cohort.batch], cohort.plan.examples)
    of, points = placement.everywhere(of), placement.placed(cohort.points, placement.padded(count, width))
    number = placement.everywhere(jnp.int32(1))
    times = []
    state = points.state
    while len(times) <= _TIMES or (len(times) <= _LONGEST and sum(times) < 1):  # the first warms up
        began = time.monotonic()
        state, losses = jax.block_until_ready(program(state, points._replace(state=()), number, of, number))
        times.append(time.monotonic() - began)
    return min(times[1:]) / (steps * count)


def _steps(cohort: Cohort) -> int:
    return min(_STEPS, len(cohort.plan.examples.labels) // cohort.batch)
