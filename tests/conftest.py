"""Strict defaults for all tests: no implicit dtype or rank promotion; CPU, no network, no account."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("WANDB_MODE", "disabled")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key() -> jax.Array:
    """A fixed random key."""
    return jax.random.key(0)


@pytest.fixture(scope="module")
def promotion():
    """Lets numbers be promoted as JAX does by itself: optax promotes integers, in its schedules and in Adam."""
    with jax.numpy_dtype_promotion("standard"):
        yield
