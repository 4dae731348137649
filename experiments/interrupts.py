"""Ctrl-C, where the process can end by it.

While XLA compiles, in threads of its own, JAX waits for it; this wait ends by Ctrl-C, but the compilation does not: at
the end of the process its threads use what is destroyed by then, and it dies of SIGSEGV. So there KeyboardInterrupt is
raised a little later. Elsewhere it may be dropped, and the process goes on: by Python within a callback of the garbage
collector, and by libraries that clear every error and try another way. So it is raised until it is on its way out.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_AGAIN = 0.05  # seconds until it is tried again
_NOT_WITHIN = ("jax._src.compiler", "jax._src.lib", "orbax.")  # modules; the last writes a checkpoint, also by threads


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Raises KeyboardInterrupt on Ctrl-C once Python is in none of the places where that would end badly.

    Does nothing where Ctrl-C is handled in another way, in threads and where there are no timers.
    """
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not default or threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    asked = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        if not _within(frame) and not _on_its_way():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
        if asked:
            raise KeyboardInterrupt
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGALRM, before)


def _within(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(_NOT_WITHIN):
            return True
        frame = frame.f_back
    return False


def _on_its_way() -> bool:
    """Tells whether a KeyboardInterrupt is being handled here, as in what cleans up after it."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
