"""Holds choices within a budget to the integer programs of HiGHS, through scipy."""

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from jaxcompress.budget import allocate


@pytest.mark.parametrize("seed", range(20))
def test_the_least_damage_is_that_of_the_integer_program(seed):
    rng = np.random.default_rng(seed)
    levels = rng.integers(1, 6, 15)
    costs = [rng.integers(0, 10_000, n) for n in levels]
    damages = [rng.normal(size=n) * rng.exponential() for n in levels]
    least, most = (sum(int(f(cost)) for cost in costs) for f in (np.min, np.max))
    budget = least + int(rng.uniform() * (most - least))
    one_each = np.repeat(np.eye(len(levels)), levels, axis=1)
    found = milp(
        np.concatenate(damages),
        integrality=np.ones(levels.sum()),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(np.concatenate(costs)[None], -np.inf, budget),
        ],
        options={"mip_rel_gap": 0},
    )
    chosen = allocate(costs, damages, budget)
    assert sum(int(cost[j]) for cost, j in zip(costs, chosen, strict=True)) <= budget
    ours = sum(damage[j] for damage, j in zip(damages, chosen, strict=True))
    np.testing.assert_allclose(ours, found.fun, rtol=1e-6, atol=1e-6)
