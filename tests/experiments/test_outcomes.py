"""Fronts and intervals by hand, and what a sweep's command lines say."""

import math
import shlex

import pytest
from scipy import stats

from experiments import outcomes
from experiments.grid import Point
from experiments.outcomes import Outcome


def outcome(error, **values):
    return Outcome(values, f"run-{error}", "", "finished", {"error": error})


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ([], []),
        ([(1, 1)], [True]),
        ([(1, 2), (2, 1), (2, 2)], [True, True, False]),
        ([(1, 1), (1, 1)], [True, True]),  # neither beats the other
        ([(1, 3), (1, 2), (0, 4)], [False, True, True]),
        ([(1, 1, 5), (1, 1, 4), (2, 2, 3)], [False, True, True]),
    ],
)
def test_front_by_hand(costs, expected):
    assert outcomes.front(costs) == expected


def test_no_point_of_a_front_is_beaten_and_every_other_is():
    places = [((7 * i) % 11, (5 * i) % 13) for i in range(40)]
    best = outcomes.front(places)

    def beaten(place):
        return any(o[0] <= place[0] and o[1] <= place[1] and o != place for o in places)

    assert best == [not beaten(place) for place in places]


def test_seeds_are_gathered_and_their_interval_is_students():
    found = [outcome(e, sparsity=s, seed=k) for s, e, k in ((0.5, 1.0, 0), (0.5, 2.0, 1), (0.5, 4.5, 2), (0.9, 7.0, 0))]
    first, second = outcomes.over_seeds(found, "error")
    assert first.values == {"sparsity": 0.5} and first.count == 3 and first.mean == 2.5
    low, high = stats.t.interval(0.95, 2, loc=2.5, scale=stats.sem([1.0, 2.0, 4.5]))
    assert (first.mean - first.half, first.mean + first.half) == pytest.approx((low, high))
    assert second.values == {"sparsity": 0.9} and second.count == 1 and math.isnan(second.half)


def test_points_without_the_metric_are_left_out():
    lost = Outcome({"seed": 1}, "run", "", "diverged in epoch 1", {})
    assert [s.count for s in outcomes.over_seeds([outcome(1.0, seed=0), lost], "error")] == [1]


def test_the_command_of_a_point_is_one_that_a_shell_reads():
    point = Point({"stages.*.optimiser.learning_rate": 0.1, "seed": 3}, None)
    line = outcomes.command(point, ["a table.yaml", "--out=runs"])
    assert shlex.split(line) == [
        *("python", "scripts/sweep.py", "a table.yaml", "--out=runs"),
        *("--over=stages.*.optimiser.learning_rate=0.1", "--over=seed=3"),
    ]
