"""Compiled functions that know how often they were traced."""

from collections.abc import Callable
from typing import Any

import jax


class Counted:
    """Calls a function and counts its calls: under `jax.jit`, its traces."""

    def __init__(self, function: Callable[..., Any]):
        """Starts at zero calls."""
        self.function, self.calls = function, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function."""
        self.calls += 1
        return self.function(*args, **kwargs)


class Compiled(Counted):
    """Compiles a function and counts its traces."""

    def __init__(self, function: Callable[..., Any]):
        """Compiles nothing yet."""
        super().__init__(function)
        self.run = jax.jit(super().__call__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the compiled function."""
        return self.run(*args, **kwargs)
