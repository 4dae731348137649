"""Checks what is said where tflite-micro is missing; tests/peers has what it measures."""

import importlib.util

from jaxcompress.export import micro


def test_without_tflite_micro_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert micro.arena(b"") == (None, "tflite-micro is not installed: pip install 'jaxcompress[peers]'")
