"""Ctrl-C, where the process can end by it.

While XLA compiles, in threads of its own, JAX waits for it; this wait ends by Ctrl-C, but the compilation does not: at
the end of the process its threads use what is destroyed by then, and it dies of SIGSEGV. Within a callback of the
garbage collector Python drops the exception, and the process goes on. So in these places it is raised a little later.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_AGAIN = 0.02  # seconds until it is tried again
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

    waiting = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal waiting
        if waiting := _within(frame):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        else:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
        if waiting:
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
