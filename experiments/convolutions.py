"""How convolutions run inside a compiled loop of training."""

from collections.abc import Callable
from typing import Any

import jax

import jaxcompress as jc


def in_training(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function compute its convolutions as patches on CPU, where XLA's leave their fast path inside a loop."""
    return jc.patches(function) if jax.default_backend() == "cpu" else function
