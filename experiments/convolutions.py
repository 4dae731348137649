"""How convolutions run inside a compiled loop of training."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax

import jaxcompress as jc

_PLATFORM: ContextVar[str | None] = ContextVar("platform", default=None)


def in_training(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function compute its convolutions as patches on CPU, where XLA's leave their fast path inside a loop."""
    return jc.patches(function) if (_PLATFORM.get() or jax.default_backend()) == "cpu" else function


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Says that what is traced meanwhile will run on another platform than the one here."""
    token = _PLATFORM.set(platform)
    try:
        yield
    finally:
        _PLATFORM.reset(token)
