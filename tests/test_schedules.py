"""Checks the schedules against values worked by hand, inside and outside of jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import schedules


def values(schedule: schedules.Schedule, steps: list[int]) -> list[float]:
    return [float(schedule(step)) for step in steps]


def test_a_number_stands_for_a_constant_schedule():
    assert values(schedules.as_schedule(0.25), [0, 7, 10**6]) == [0.25] * 3


def test_a_schedule_stands_for_itself():
    schedule = schedules.linear(0.0, 1.0, end=4)
    assert schedules.as_schedule(schedule) is schedule


def test_constant_holds():
    assert values(schedules.constant(0.75), [0, 1, 10**9]) == [0.75] * 3


def test_linear_by_hand():
    schedule = schedules.linear(0.25, 0.75, begin=2, end=6)
    expected = [0.25, 0.25, 0.25, 0.375, 0.5, 0.625, 0.75, 0.75]
    np.testing.assert_allclose(values(schedule, list(range(8))), expected, rtol=1e-6)


def test_linear_may_fall():
    np.testing.assert_allclose(values(schedules.linear(1.0, 0.0, end=4), [0, 1, 4, 9]), [1, 0.75, 0, 0], atol=1e-6)


def test_cubic_by_hand():
    # Zhu & Gupta 2017, eq. 1: 0.8 * (1 - (1 - x)^3) at x = 0, 1/4, 1/2, 3/4, 1.
    expected = [0, 0, 0.8 * 37 / 64, 0.8 * 7 / 8, 0.8 * 63 / 64, 0.8, 0.8]
    schedule = schedules.cubic(0.0, 0.8, begin=10, end=50)
    np.testing.assert_allclose(values(schedule, [0, 10, 20, 30, 40, 50, 90]), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("initial", "final", "begin", "pruning_steps", "interval"), [(0, 0.875, 3, 8, 5), (0.5, 0.9, 0, 100, 1)]
)
def test_cubic_is_the_formula_of_zhu_and_gupta(initial, final, begin, pruning_steps, interval):
    # Eq. 1 in the paper's own symbols: s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3 for t = t_0 + k dt, k = 0..n.
    steps = begin + interval * np.arange(pruning_steps + 1)
    expected = final + (initial - final) * (1 - (steps - begin) / (pruning_steps * interval)) ** 3
    schedule = schedules.cubic(float(initial), final, begin=begin, end=begin + pruning_steps * interval)
    np.testing.assert_allclose(values(schedule, steps.tolist()), expected, atol=1e-6)


def test_one_shot_jumps_at_its_step():
    assert values(schedules.one_shot(0.5, at=3, initial=0.25), [0, 2, 3, 4]) == [0.25, 0.25, 0.5, 0.5]


def test_one_shot_may_jump_at_once():
    assert values(schedules.one_shot(0.5, at=0), [0, 1]) == [0.5, 0.5]


def test_cyclic_by_hand():
    schedule = schedules.cyclic(0.2, 0.8, period=4, begin=2)
    expected = [0.2, 0.2, 0.2, 0.5, 0.8, 0.5, 0.2, 0.5, 0.8]
    np.testing.assert_allclose(values(schedule, list(range(9))), expected, rtol=1e-5)


@pytest.mark.parametrize("periods", [10**3, 10**6])
def test_cyclic_keeps_its_phase_in_long_runs(periods):
    schedule, steps = schedules.cyclic(0.0, 0.9, period=10), [0, 1, 2, 5, 8]
    later = [10 * periods + step for step in steps]
    np.testing.assert_allclose(values(schedule, later), values(schedule, steps), atol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.linear(0.0, 1.0, begin=5, end=5), "ends at step 5.*not after its begin at step 5"),
        (lambda: schedules.cubic(0.0, 1.0, begin=5, end=4), "ends at step 4.*not after its begin at step 5"),
        (lambda: schedules.linear(0.0, 1.0, begin=-1, end=5), "begin=-1 is not a step"),
        (lambda: schedules.one_shot(0.5, at=-2), "at=-2 is not a step"),
        (lambda: schedules.cyclic(0.0, 1.0, period=1), "period of 1 steps is too short"),
        (lambda: schedules.cyclic(0.0, 1.0, period=4, begin=-3), "begin=-3 is not a step"),
    ],
)
def test_nonsense_is_refused_where_it_is_built(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.constant(0.3),
        schedules.linear(0.1, 0.9, begin=2, end=7),
        schedules.cubic(0.1, 0.9, begin=2, end=7),
        schedules.one_shot(0.9, at=4),
        schedules.cyclic(0.1, 0.9, period=5, begin=1),
    ],
    ids=["constant", "linear", "cubic", "one_shot", "cyclic"],
)
def test_schedules_trace_and_give_the_same_values_under_vmap(schedule):
    steps = jnp.arange(10)
    batched = jax.jit(jax.vmap(lambda step: jnp.asarray(schedule(step), jnp.float32)))(steps)
    np.testing.assert_allclose(batched, values(schedule, range(10)), rtol=1e-6)


def test_alternating_phases_by_hand():
    schedule = schedules.alternating(0.75, begin=2, end=9, high_steps=2, low_steps=3)
    assert [float(schedule(step)) for step in range(11)] == [0.0, 0, 0.75, 0.75, 0, 0, 0, 0.75, 0.75, 0.75, 0.75]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"begin": -1}, "begin=-1"), ({"end": 1}, "ends at step 1"), ({"low_steps": 0}, "phases of 2 and 0 steps")],
)
def test_alternating_phases_that_are_none_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        schedules.alternating(0.5, **{"begin": 2, "end": 9, "high_steps": 2, "low_steps": 3, **changes})
