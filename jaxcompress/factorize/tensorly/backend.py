"""tensorly, imported when it is needed, and its numpy backend without what its others leave behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax


def load() -> Any:
    """Imports tensorly and returns it; raises ImportError, with the remedy, where it is not installed."""
    try:
        import tensorly  # pyright: ignore[reportMissingImports]
        import tensorly.tt_matrix  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("tensorly is not installed: pip install 'jaxcompress[tensorly]'") from error
    return tensorly


@contextmanager
def numpy_backend() -> Iterator[Any]:
    """Sets tensorly's numpy backend for this thread, gives tensorly, and sets what was set before.

    Its jax backend switches all of JAX to float64 when it is loaded. Should it be loaded within, by an environment
    variable or by what is called, that is undone. Raises ImportError where tensorly is not installed.
    """
    wide = _float64()
    try:
        tensorly = load()
        before = tensorly.get_backend()
        tensorly.set_backend("numpy", local_threadsafe=True)
        try:
            yield tensorly
        finally:  # tensorly's own context would set the backend of all threads here
            tensorly.set_backend(before, local_threadsafe=True)
    finally:
        if _float64() != wide:
            jax.config.update("jax_enable_x64", wide)


def _float64() -> bool:
    return bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]
