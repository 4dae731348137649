"""Ctrl-C ends a process with code 130 also while XLA compiles and while Python drops exceptions."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from experiments.interrupts import postponed

ROOT = pathlib.Path(__file__).parent.parent.parent
COMPILING = """
import os, signal, threading, jax
import jax.numpy as jnp
from experiments import cli

def program(x):
    for i in range(300):
        x = jnp.sin(x @ x) * i + jnp.cos(x)
    return x

lowered = jax.jit(program).lower(jnp.ones((8, 8)).block_until_ready())
with cli.ending():
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    lowered.compile()
"""


@pytest.fixture(autouse=True)
def heeded():
    """Lets the process heed an interrupt also where a shell started it in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("attempt", range(2))
@pytest.mark.sampled(2)
def test_an_interrupt_while_a_program_is_compiled_ends_with_code_130(attempt):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    done = subprocess.run([sys.executable, "-c", COMPILING], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 130, done.stderr
    assert "go on from their last checkpoint" in done.stderr and "Traceback" not in done.stderr


def test_an_interrupt_comes_when_such_a_place_is_left():
    """A function of such a module, by its name, is gone through to its end, and the interrupt is not lost."""
    seen = []
    place = {"__name__": "jax._src.compiler", "os": os, "signal": signal, "seen": seen}
    exec("def compile():\n    os.kill(os.getpid(), signal.SIGINT)\n    seen.append('to its end')\n", place)
    with pytest.raises(KeyboardInterrupt), postponed():
        place["compile"]()
    assert seen == ["to its end"]
    with pytest.raises(KeyboardInterrupt), postponed():
        place["compile"]()
        threading.Event().wait(30)
        seen.append("waited")
    assert seen == ["to its end"] * 2


def test_an_interrupt_elsewhere_comes_at_once_and_handlers_are_as_before():
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(KeyboardInterrupt), postponed():
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_an_interrupt_that_is_dropped_comes_again():
    seen = []
    with pytest.raises(KeyboardInterrupt), postponed():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        seen.append("dropped")
        threading.Event().wait(30)
        seen.append("lost")
    assert seen == ["dropped"]


def test_what_cleans_up_is_not_interrupted_again():
    seen = []
    with pytest.raises(KeyboardInterrupt), postponed():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            threading.Event().wait(0.3)
            try:
                raise ValueError
            except ValueError:
                threading.Event().wait(0.3)
            seen.append("cleaned up")
    assert seen == ["cleaned up"]


def test_another_handler_and_other_threads_are_left_alone():
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with postponed():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, ignored)
    seen = []

    def enter():
        with postponed():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
