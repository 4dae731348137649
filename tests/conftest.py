"""Strict defaults for all tests: no implicit dtype or rank promotion; CPU, no network, no account."""

import os
from collections import Counter

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("WANDB_MODE", "disabled")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--every N``, which marks all but every N-th case of each test as slow."""
    parser.addoption("--every", type=int, default=1, metavar="N", help="mark the other cases as slow")


@pytest.hookimpl(tryfirst=True)  # before slow tests are deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks all but every n-th case as slow: of a test that is ``sampled(n)``, and of all with ``--every n``."""
    cases: Counter[tuple] = Counter()
    for item in items:
        marker = item.get_closest_marker("sampled")
        every = max(marker.args[0] if marker else 1, config.getoption("every"))
        test = item.path, getattr(item, "originalname", item.name)
        if cases[test] % every:
            item.add_marker("slow")
        cases[test] += 1


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
