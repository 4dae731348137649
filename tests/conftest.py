"""Strict defaults for all tests: no implicit dtype or rank promotion; CPU, no network, no account."""

import os
import zlib
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("WANDB_MODE", "disabled")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--every N``, which marks all but one in N cases of each test as slow, and ``--part K``, which ones."""
    parser.addoption("--every", type=int, default=1, metavar="N", help="mark all but one in N cases as slow")
    parser.addoption("--part", type=int, default=0, metavar="K", help="which of the N parts of the cases stays")


@pytest.hookimpl(tryfirst=True)  # before slow tests are deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks all but one in n cases as slow: of a test that is ``sampled(n)``, and of all with ``--every n``."""
    tests: defaultdict[tuple[Path, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        tests[item.path, getattr(item, "originalname", item.name)].append(item)
    for (_, name), cases in tests.items():
        marker = cases[0].get_closest_marker("sampled")
        every = min(max(marker.args[0] if marker else 1, config.getoption("every")), len(cases))
        part = (zlib.crc32(name.encode()) + config.getoption("part")) % every
        for number, item in enumerate(cases):
            if digit_sum(number, every) % every != part:
                item.add_marker("slow")


def digit_sum(number: int, base: int) -> int:
    """Returns the sum of a number's digits.

    Cases whose sums agree modulo the base hold all values of each parameter, where every n-th case of a product might
    hold a single value of the last one.
    """
    return number if number < base or base < 2 else digit_sum(number // base, base) + number % base


@pytest.fixture
def key() -> jax.Array:
    """A fixed random key."""
    return jax.random.key(0)


@pytest.fixture(scope="module")
def promotion():
    """Lets numbers be promoted as JAX does by itself: optax promotes integers, in its schedules and in Adam."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Keeps the compiler quick: MLIR takes longer for each program the more programs of a process are alive."""
    yield
    jax.clear_caches()
